"""Several slices: `replica` lies between them, and only gradients travel there."""

import importlib.util
import os
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from hlm import Mesh
from tests.laws.subjects import ROOT

COMPILED = """
import jax
from jax.experimental import topologies
from hlm import config, sharding
from hlm.checkpoint import abstract_on
from hlm.train import step

devices = topologies.get_topology_desc("v5e:2x2", platform="tpu", num_slices=2).devices
small = ["mesh.replica=2", "rows=8", "data.length=256", "model.trunk.depth=2"]
exp = config.load("configs/flat.py:tiny", small)
mesh = exp.mesh.make(devices)
print([[device.slice_index for device in row.ravel()] for row in mesh.devices])
abstract, places, _ = step.init_state(exp, mesh)
rows = sharding.rows(mesh)
batch = step.abstract_batch(exp.rows, exp.data.length)
batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch)
state = abstract_on(abstract, places)
with jax.set_mesh(mesh):
    compiled = step.compiled_train_step(exp, mesh, places).lower(state, batch).compile()
sizes = [(x.size * 4, x.sharding.is_fully_replicated) for x in jax.tree.leaves(state.params)]
print(sum(size if whole else size // 4 for size, whole in sizes), sum(size for size, _ in sizes))
print(compiled.as_text())
"""


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install libtpu")
def test_only_gradients_travel_between_slices():
    """The compiled step of two slices of four chips: gathers stay within one; between them a device
    sums its gradient, at most once.
    """
    variables = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | variables
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    grid, gradient, text = done.stdout.split("\n", 2)
    shard, whole = map(int, gradient.split())
    assert grid == "[[0, 0, 0, 0], [1, 1, 1, 1]]"
    assert set(re.findall(r"replica_groups=\{(.*?\})\}", text)) == {"{0,1,2,3}"}
    sent = re.findall(r"= \((\w+)\[([\d,]*)\].* send\(.*?transfer_type=\"(\w+)\"", text)
    assert {kind for *_, kind in sent} == {"ALL_REDUCE"}
    sizes = {"f32": 4, "bf16": 2, "s32": 4}
    bytes_sent = sum(
        sizes[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
        for dtype, shape, _ in sent
    )
    assert shard <= bytes_sent <= whole  # small arrays are summed before they are split


def test_replicas_that_do_not_divide_among_slices(monkeypatch):
    devices = [types.SimpleNamespace(slice_index=i // 4, id=i) for i in range(8)]
    with pytest.raises(ValueError, match=r"mesh.replica: 1 .* 2 slices.*give mesh.replica=2"):
        Mesh().make(devices)
    assert Mesh().make(jax.devices()[:2]).shape["data"] == 2
