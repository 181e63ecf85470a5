"""Evaluation over a mesh, with a number of rows of its own: the numbers of one device."""

import dataclasses

import jax
import numpy as np
import pytest

import eval as program
import hlm
from hlm import Mesh, config, sharding
from hlm.checkpoint import Checkpoints
from hlm.evals import inputs
from hlm.infer.rows import ELEMENTS, at_once
from hlm.model.lm import init_params
from tests.laws.subjects import ROOT, corpus

CLOSE = dict(rtol=1e-4, atol=1e-5)
TEXTS = [corpus()[a : a + n] for a, n in ((0, 300), (500, 7), (900, 64), (2000, 1000), (4000, 1))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "run"
    small = ["data.length=64", "model.trunk.capacity=24", "rows=4", "accumulate=2"]
    depths = [f"model.trunk.{part}.depth=1" for part in ("encoder", "backbone", "decoder")]
    exp = config.load(str(ROOT / "configs/hat.py:tiny"), small + depths)
    checkpoints = Checkpoints(str(folder), keep=1)
    checkpoints.save(1, exp, init_params(exp.model, 64, 0))
    checkpoints.close()
    return folder


@pytest.mark.parametrize(
    ("mesh", "rows", "expected"),
    [(Mesh(), None, 8), (Mesh(2, 2, 2), 12, 12)],
)
def test_a_mesh_gives_what_one_device_gives(mesh, rows, expected, run):
    one, lm = hlm.load(run), hlm.load(run, mesh=mesh.make(), rows=rows)
    assert (one.rows, lm.rows) == (2, expected)
    kernels = jax.tree.leaves(lm.params["trunk"]["backbone"])
    assert any(not leaf.sharding.is_fully_replicated for leaf in kernels)
    for a, b in zip(one.score(TEXTS), lm.score(TEXTS), strict=True):
        np.testing.assert_allclose(a.per_byte, b.per_byte, **CLOSE)
        np.testing.assert_allclose(a.nats, b.nats, **CLOSE)
    for a, b in zip(one.embed(TEXTS[:2]), lm.embed(TEXTS[:2]), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)
    assert lm.generate([b"It is ", b"A"], max_bytes=5) == one.generate([b"It is ", b"A"], 5)


def test_rows_by_memory():
    exp = config.load(str(ROOT / "configs/flat.py:tiny"), ["rows=1024"])
    for length, devices, expected in (
        (512, 1, 128),
        (16_384, 1, 4),
        (16_384, 8, 32),
        (100_000, 8, 8),
        (16, 8, 1024),
    ):
        long = dataclasses.replace(exp, data=dataclasses.replace(exp.data, length=length))
        mesh = sharding.Mesh().make(jax.devices()[:devices])
        assert at_once(None, long, mesh) == expected
        assert expected * length <= max(ELEMENTS, length) * devices
    with pytest.raises(
        ValueError, match=r"rows: 12 is not .* the 8 devices .*: give rows=8 or rows=16"
    ):
        at_once(12, exp, Mesh().make())
    with pytest.raises(ValueError, match="rows: 0"):
        at_once(0, exp, Mesh().make())


def test_of_the_command_line(run):
    assert program.mesh(None) is None
    found = inputs.Reference(str(run), rows=24, mesh=program.mesh("Mesh(data=8)")).load()
    assert (found.rows, found.mesh.shape["data"]) == (24, 8)
    with pytest.raises(inputs.Wrong, match="mesh: 1 x 3 x 1 devices"):
        program.mesh("Mesh(data=3)")
    with pytest.raises(inputs.Wrong, match=r"average: .* has none"):
        inputs.Reference(str(run), average=True).load()
