"""What `hlm.train.step.check` refuses before anything is compiled."""

import re

import jax
import pytest

from hlm import LM, Attention, Block, Bytes, Embed, Hierarchy, Level, Mesh, Stack, SwiGLU, config
from hlm.model.pool import Select
from hlm.model.unpool import Prefix
from hlm.split import Words
from hlm.train import step
from tests.laws.subjects import ROOT


def check(exp, mesh):
    step.check(exp, mesh, step.init_state(exp, mesh)[0])


def test_rows_that_do_not_divide():
    exp = config.load(str(ROOT / "configs/flat.py:tiny"), ["rows=6", "accumulate=2"])
    check(exp, Mesh().make(jax.devices()[:3]))
    with pytest.raises(ValueError, match="rows: 6 / accumulate 2 is not a multiple of the 8"):
        check(exp, Mesh().make())


@pytest.mark.parametrize(
    ("rows", "accumulate", "devices", "nearest"),
    [
        (6, 2, 8, "rows=16"),
        (40, 4, 8, "rows=32 or rows=64 or accumulate=5"),
        (18, 6, 2, "rows=12 or rows=24 or accumulate=3"),
    ],
)
def test_the_error_names_the_nearest_that_divide(rows, accumulate, devices, nearest):
    setting = [f"rows={rows}", f"accumulate={accumulate}"]
    exp = config.load(str(ROOT / "configs/flat.py:tiny"), setting)
    mesh = Mesh().make(jax.devices()[:devices])
    with pytest.raises(ValueError, match=f"devices: give {nearest}, or split"):
        check(exp, mesh)
    for change in nearest.split(" or "):
        check(config.load(str(ROOT / "configs/flat.py:tiny"), [*setting, change]), mesh)


def test_tied_modules():
    exp = config.load(str(ROOT / "configs/flat.py:tiny"))
    both = Stack(1, Block(Attention(2), SwiGLU(8)))
    parts = dict(segmenter=Level(1), pool=Select(16), unpool=Prefix(), capacity=8)
    trunk = Hierarchy(
        encoder=both, backbone=Stack(1, Block(Attention(2), SwiGLU(8))), decoder=both, **parts
    )
    tied = config.replace(exp, model=LM(codec=Bytes(split=Words()), embed=Embed(16), trunk=trunk))
    with pytest.raises(
        ValueError, match=r"model.trunk.decoder and model.trunk.encoder are one object"
    ):
        check(tied, Mesh().make(jax.devices()[:1]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dtype=float99", "model.dtype: 'float99' is none of float32, bfloat16"),
        ("dtype=int32", "model.dtype: 'int32' is none of"),
        ("embed.width=-1", "model.embed.width: -1 must be at least 1"),
        ("embed.size=-3", "model.embed.size: -3 must be at least 1"),
        ("trunk.capacity=0", "model.trunk.capacity: 0 must be at least 1"),
        ("trunk.encoder.depth=-1", "model.trunk.encoder.depth: -1 must be at least 0"),
        (
            "trunk.backbone.block.mixer.heads=0",
            "model.trunk.backbone.block.mixer.heads: 0 must be at least 1",
        ),
        (
            "trunk.backbone.block.mixer.window=-3",
            "model.trunk.backbone.block.mixer.window: -3 must be at least 1",
        ),
        (
            "trunk.backbone.block.mlp.width=0",
            "model.trunk.backbone.block.mlp.width: 0 must be at least 1",
        ),
    ],
)
def test_numbers_that_no_layer_can_have_are_named(override, message):
    exp = config.load(str(ROOT / "configs/hat.py:tiny"), [f"model.{override}"])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        step.init_state(exp, exp.mesh.make(jax.devices()[:1]))
    assert "\n" not in str(error.value)
