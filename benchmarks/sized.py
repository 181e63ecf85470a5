"""Models of any size, by the recipes of configs/, on the shipped Moby-Dick: for benchmarks."""

import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # configs import configs.common

from configs import aunet, flat, hat  # noqa: E402
from configs.common import block_width, on_moby  # noqa: E402
from hlm import config  # noqa: E402
from hlm.config import Experiment  # noqa: E402

FAMILIES = ("flat", "hat", "aunet")
HAT_CHUNKS, AUNET_CHUNKS = 3 / 16, 2 / 5  # room for chunks in a row, as in configs/


def sized(
    family: str,
    width: int,
    depth: int,
    length: int,
    rows: int,
    chunks: int | None = None,
    byte_width: int | None = None,
    byte_depth: int = 1,
    head: int = 32,
    remat: bool = False,
    dtype: str = "float32",
    peak: float = 1e-3,
) -> Experiment:
    """A flat model, HAT or AU-Net of two stages: `width` and `depth` are those of the backbone,
    `byte_width` (half of it) and `byte_depth` of what runs for each byte; `head`: width of a head.

    `chunks`: room for them in a row; None: as much as the config of the family gives.
    """
    byte = byte_width or width // 2
    shared: dict[str, Any] = dict(run=on_moby, rows=rows, steps=1000, peak=peak, remat=remat)
    name = "sized"
    if family == "flat":
        module: Any = flat
        size = shared | dict(width=width, heads=width // head, depth=depth, length=length)
    elif family == "hat":
        module = hat
        size = shared | dict(
            byte=(byte, byte // head, byte_depth, byte_depth),
            word=(width, width // head, depth),
            longest=24,
            length=length,
            chunks=chunks or int(length * HAT_CHUNKS),
            eow=False,
            qk_norm=hat.TINY["qk_norm"],
        )
    elif family == "aunet":
        module = aunet
        room = chunks or int(length * AUNET_CHUNKS)
        bytes_ = aunet.Stage(byte, byte_depth, head, block_width(byte), 512, length)
        words = aunet.Stage(width, depth, head, block_width(width), 4096, room)
        size = shared | dict(stages=[bytes_, words], accumulate=1)
    else:
        raise ValueError(f"family: {family!r}; give one of {', '.join(FAMILIES)}")
    module.SIZES[name] = size
    try:
        exp = module.config(name)
    finally:
        del module.SIZES[name]
    return config.replace(exp, model=config.replace(exp.model, dtype=dtype))


def near_chunks_only(exp: Experiment, window: int) -> Experiment:
    """The same with attention among chunks limited to the last `window` of them: what is left is
    linear in bytes, or ought to be.
    """
    trunk = exp.model.trunk
    mixer = config.replace(trunk.backbone.block.mixer, window=window)
    block = config.replace(trunk.backbone.block, mixer=mixer)
    backbone = config.replace(trunk.backbone, block=block)
    trunk = config.replace(trunk, backbone=backbone)
    return config.replace(exp, model=config.replace(exp.model, trunk=trunk))
