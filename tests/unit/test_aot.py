import gzip
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from hlm import config
from hlm.hlo import COLLECTIVES, computations, shape_bytes
from tpu import bound, chips, scaling

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = (
    "data.length=128",
    "rows=8",
    "model.embed.width=128",
    "model.trunk.block.mixer.heads=1",
    "model.trunk.depth=3",
)
spec = importlib.util.spec_from_file_location("aot", ROOT / "tpu" / "aot.py")
assert spec is not None
assert spec.loader is not None
aot = importlib.util.module_from_spec(spec)
sys.modules["aot"] = aot  # dataclasses look their module up
spec.loader.exec_module(aot)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("tpu/aot.py", *arguments)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own: libtpu refuses the flags that tests set for the CPU, and
    catches signals.
    """
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


class At:
    def __init__(self, *coords: int):
        self.coords = coords


def test_seconds_of_traffic_are_those_of_the_links_that_a_group_has():
    """On a torus of 2 x 4 a row of 4 has one of two axes; a ring sends (n-1)/n, an all-reduce that
    twice.
    """
    chip = chips.Chip(axes=2, hbm_gib=16, flops=1e12, ici=100.0)
    devices = [At(x, y, 0) for x in range(2) for y in range(4)]
    rows = [
        {"kind": "all-gather", "dtype": "bf16", "group": (), "count": 1, "bytes": 800},
        {"kind": "all-gather", "dtype": "bf16", "group": (0, 1, 2, 3), "count": 1, "bytes": 800},
        {"kind": "all-reduce", "dtype": "f32", "group": (0, 4), "count": 1, "bytes": 800},
    ]
    found = bound.with_seconds(rows, chip, devices)
    assert [(c["devices"], c["sent"]) for c in found] == [(8, 700), (4, 600), (2, 800)]
    assert [c["seconds"] for c in found] == pytest.approx([7, 12, 16])


def found(**changes):
    """A report, as bound.py needs it: 1 s of products, a fifth of them needed; 0.5 s of traffic."""
    sends = [{"kind": "all-reduce", "dtype": "f32", "bytes": 2**20, "seconds": 0.5}]
    r = {
        "needed_flops_per_step_per_device": 0.2e12,
        "flops_per_step_per_device": 1e12,
        "collectives": sends,
        "collectives_unread": None,
        "accumulate": 4,
        "fits": True,
        "memory": {"total": 10},
        "hbm_bytes": 100,
        "slots_used": [1.0, 0.9],
        "recomputed": 0.05,
        "better_room": None,
        "remat": [],
        "unsplit": "",
    } | changes
    return r | {"bound": bound.bound(r, chips.Chip(axes=2, hbm_gib=16, flops=1e12, ici=1.0))}


def test_the_bound_hides_traffic_or_not():
    r = found()
    assert r["bound"]["mfu"] == pytest.approx(0.2)
    assert r["bound"]["mfu_exposed"] == pytest.approx(0.2 / 1.5)
    assert "MFU at most 20.0% (13.3% if no traffic is hidden)" in bound.said(r)
    assert "reduced: 1 MiB in f32" in bound.said(r)
    late = found(flops_per_step_per_device=0.2e12)
    assert late["bound"]["mfu"] == pytest.approx(0.2 / 0.5)  # products hide behind traffic
    assert found(collectives_unread="RET_CHECK")["bound"] is None
    assert "unknown" in bound.said(found(collectives_unread="RET_CHECK"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "accumulate=2"),
        ({"memory": {"total": 90}}, "more rows"),
        ({"collectives": []}, "none"),
        ({"fits": False}, "accumulate=8"),
        ({"fits": False, "unsplit": "mesh.data: 7 does not divide"}, "mesh.data: 7"),
        (
            {
                "slots_used": [1.0, 0.4],
                "better_room": {"settings": {"model.trunk.capacity": 96}, "ceiling": 0.9},
            },
            "model.trunk.capacity=96",
        ),
        (
            {"recomputed": 0.5, "remat": ["model.trunk.keep_projections"]},
            "model.trunk.keep_projections=True",
        ),
    ],
)
def test_the_advice_is_what_would_raise_the_bound_most(changes, says):
    assert says in bound.advice(found(**changes))


def test_a_program_that_jaxlib_cannot_read_still_has_its_memory():
    class Program:
        (
            argument_size_in_bytes,
            output_size_in_bytes,
            alias_size_in_bytes,
            temp_size_in_bytes,
            generated_code_size_in_bytes,
        ) = (5, 4, 4, 3, 2)

        def compile(self):
            return self

        def memory_analysis(self):
            return self

        def as_text(self):
            raise jax.errors.JaxRuntimeError(
                "INTERNAL: RET_CHECK failure\n*** Begin stack trace ***"
            )

    result, text = aot.compile_step(Program())
    assert result["memory"]["total"] == 10
    assert text == ""
    assert result["collectives_unread"] == "INTERNAL: RET_CHECK failure"


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"reason": "RESOURCE_EXHAUSTED: 20 of 15 GiB"}, "DOES NOT FIT: RESOURCE_EXHAUSTED"),
        ({"memory": {"total": 2**40}, "collectives_unread": None}, "DOES NOT FIT: 1024.00 GiB"),
        ({"memory": {"total": 2**30}, "collectives_unread": "RET_CHECK"}, "fits: 1.00 GiB"),
    ],
)
def test_a_report_of_a_program_that_does_not_fit_or_is_not_read(
    result, says, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(
        aot, "compile_step", lambda lowered: (result | {"compile_seconds": 1.0}, "")
    )
    exp = config.load(str(ROOT / "configs/flat.py:tiny"), TINY)
    mesh = exp.mesh.make(jax.devices()[:4])
    r = aot.report(exp, "v5e:2x2", chips.CHIPS["v5e"], mesh, tmp_path)
    assert r["fits"] == says.startswith("fits")
    aot.show(r, "flat:tiny")
    assert says in " ".join(capsys.readouterr().out.split())
    for row in (scaling.line, scaling.sent):
        assert row("hat:1b", r).startswith("| hat:1b | v5e:16x16 |")


def test_a_line_of_the_table():
    assert scaling.parsed("hat:1b") == ("hat:1b", "v5e:16x16", [])
    asked = "hat:1b@v5e:8x8 rows=64 accumulate=2"
    assert scaling.parsed(asked) == ("hat:1b", "v5e:8x8", ["rows=64", "accumulate=2"])
    assert scaling.main(["hat:2b"]) == 2
    line = scaling.line(asked, found(memory={"total": 3 * 2**30}, hbm_bytes=2**34))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == scaling.HEAD[0].count("|") - 1
    assert cells[:5] == ["hat:1b rows=64 accumulate=2", "v5e:8x8", "4", "3.0 of 16.0", "100%, 90%"]
    assert cells[5:] == ["0.2", "1 (5.00)", "1.000", "0.500", "20%", "13%"]


def test_a_line_of_traffic_has_all_that_is_sent_by_kind_and_type():
    sends = [
        {"kind": kind, "dtype": dtype, "bytes": mib * 2**20, "seconds": 0.1}
        for kind, dtype, mib in (
            ("all-gather", "bf16", 3),
            ("all-gather", "f32", 5),
            ("all-gather", "bf16", 4),
            ("ragged-all-to-all", "s32", 1),
            ("all-reduce", "f32", 9),
        )
    ]
    r = found(collectives=sends)
    line = scaling.sent("hat:1b", r | {"advice": bound.advice(r)})
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == scaling.SENT[0].count("|") - 1
    assert cells[2:7] == ["7 bf16, 5 f32", "9 f32", "", "1 s32", ""]
    assert cells[7].startswith("traffic is 33%")
    assert {kind.removeprefix("ragged-") for kind in COLLECTIVES} == set(scaling.KINDS)


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_config_compiles_for_a_slice_and_is_remembered(tmp_path):
    command = (
        "configs/flat.py:tiny",
        "--topology",
        "v5e:2x2",
        "--json",
        "--cache",
        str(tmp_path),
        *TINY,
    )
    done = run(*command)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["fits"]
    assert first["devices"] == first["mesh"]["data"] == 4
    assert not first["from_cache"]
    # Parameters and two moments in float32, three quarters of them elsewhere; and the batch. Small
    # arrays are replicated and padded.
    assert first["memory"]["arguments"] == pytest.approx(12 * first["parameters"] / 4, rel=0.1)
    # Products: weights (the embedding is looked up), and the lower triangle of attention in one
    # block of 128, forward and twice backward, and its scores once more.
    depth, width, mlp, symbols, positions = 3, 128, 384, 260, 8 * 128
    attention = 4 * width * width + 2 * 128 * width
    block = attention + 3 * width * mlp
    products = 3 * (depth * block + width * symbols) + depth * 128 * width
    assert first["flops_per_step_per_device"] * 4 == 2 * positions * products
    assert first["bytes_per_step"] == positions
    moved = {
        kind: sum(c["bytes"] for c in first["collectives"] if c["kind"] == kind)
        for kind in ("all-gather", "reduce-scatter")
    }
    weights = depth * (4 * width * width + 3 * width * mlp)
    # every weight of every block, at least once, in bfloat16 or float32
    assert moved["all-gather"] >= 2 * weights
    # every gradient once, in float32
    assert 4 * weights <= moved["reduce-scatter"] <= 4 * first["parameters"]
    assert first["loops_of_unknown_length"] == 0
    assert first["collectives_unread"] is None
    assert 0 < first["bound"]["mfu_exposed"] < first["bound"]["mfu"] < 1
    assert first["needed_flops_per_step_per_device"] < first["flops_per_step_per_device"]
    again = json.loads(run(*command).stdout)
    assert again.pop("from_cache")
    assert again == {key: value for key, value in first.items() if key != "from_cache"}


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_weights_are_gathered_in_bfloat16_and_no_large_array_is_everywhere(tmp_path):
    """The collectives of a hierarchy on four chips, one row each: what is gathered is weights, a
    layer at a time and in the dtype of products; gradients are summed in float32; activations stay
    where their row is.
    """
    length, wide, mlp, depth = 256, 256, 768, 6
    command = (
        "configs/hat.py:tiny",
        "--topology",
        "v5e:2x2",
        "--json",
        "--cache",
        str(tmp_path),
        f"data.length={length}",
        "rows=4",
        "model.dtype=bfloat16",
        "model.trunk.capacity=64",
        f"model.trunk.backbone.depth={depth}",
        f"model.trunk.backbone.block.mlp.width={mlp}",
    )
    done = run(*command)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["collectives"]
    moved = {(c["kind"], c["dtype"]): c["bytes"] for c in found}
    weights = depth * (4 * wide * wide + 3 * wide * mlp)  # of the backbone
    assert moved["all-gather", "bf16"] >= 2 * weights
    assert moved.get(("all-gather", "f32"), 0) < 4 * weights / 20
    summed = {
        dtype: sum(n for (kind, d), n in moved.items() if d == dtype and kind != "all-gather")
        for dtype in ("f32", "bf16")
    }
    assert summed["f32"] >= 4 * weights
    assert summed["bf16"] < summed["f32"] / 10
    (kept,) = tmp_path.glob("*.json.gz")
    text = json.loads(gzip.decompress(kept.read_bytes()))["text"]
    largest = max(
        (sum(shape_bytes(i.shape).values()), i.shape)
        for body in computations(text)[0].values()
        for i in body
        if i.op in ("all-gather", "all-gather-start", "all-to-all")
    )
    # one layer's largest matrix and its shard; neither a stack of layers nor rows of others
    assert largest[0] <= 2 * 1.3 * wide * mlp, largest


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_step_with_splash_attention_compiles_for_rows_and_heads_of_several_chips(tmp_path):
    mixer = "model.trunk.block.mixer"
    changes = [f"{mixer}.kernel=Splash()", f"{mixer}.heads=2", f"{mixer}.window=100"]
    changes += ["model.trunk.depth=1", "data.length=200", "mesh.data=2", "mesh.model=2"]
    command = ("configs/flat.py:tiny", "--topology", "v5e:2x2", "--json", "--cache", str(tmp_path))
    done = run(*command, *TINY[:-2], *changes)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["fits"]
    assert report["flops_not_counted_in"] == []


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_mesh_that_does_not_match_the_slice_is_refused():
    done = run("configs/flat.py:tiny", "--topology", "v5e:2x2", "mesh.model=3")
    assert done.returncode == 2
    assert done.stderr.startswith("mesh: 1 x 1 x 3 devices")
    assert "there are 4" in done.stderr


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_every_named_slice_exists():
    """Also a single chip, which is less than a host of the default."""
    program = """
from tpu.chips import topology
from tpu.slices import NAMED
for name in sorted({*NAMED.values(), "v6e:1x1", "v5p:1x1x1"}):
    print(name, len(topology(name)[1]))
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found["v5e:1x1"] == found["v6e:1x1"] == found["v5p:1x1x1"] == "1"
    assert (found["v5e:2x4"], found["v5p:8x8x4"]) == ("8", "256")


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_every_mesh_of_a_slice_can_be_made():
    """Also those whose axes are parts of an axis of the torus, in every generation."""
    program = """
from hlm import Mesh
from tpu.chips import topology
for name in ("v5p:4x4x8", "v4:2x4x4", "v6e:4x8", "v5e:4x8", "tpu7x:2x2x2"):
    devices = topology(name)[1]
    sides = [2**i for i in range(len(devices).bit_length()) if len(devices) % 2**i == 0]
    shapes = [(r, -1, m) for r in sides for m in sides if len(devices) % (r * m) == 0]
    for shape in shapes:
        made = Mesh(*shape).make(devices)
        assert len({device.id for device in made.devices.flat}) == len(devices), (name, shape)
    print(name, len(shapes))
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.parametrize(
    ("topology", "says"),
    [
        ("v9:2x2", "no TPU 'v9'; give one of v2, v3"),
        ("v5e:2x2x2", "the shape of a v5e has 2 numbers"),
        ("v5p:2x2", "has 3 numbers"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused(topology, says, capsys):
    assert aot.main(["configs/flat.py:tiny", "--topology", topology]) == 2
    assert says in capsys.readouterr().err
