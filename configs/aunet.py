"""AU-Net: autoregressive U-Net over bytes, words and groups of words (Videau et al. 2025, arXiv 2506.14761).

    python train.py configs/aunet.py:tiny --workdir runs/aunet          # 2 stages, the repeat up-sampling
    python train.py configs/aunet.py:tiny3 --workdir runs/aunet3        # 3 stages, multi-linear up-sampling
    python train.py configs/aunet.py:3-1b --workdir gs://...

Two stages repeat the word's vector; from three on, up-sampling has one matrix per distance from the word's end (paper, ablations).
"""

import dataclasses
from typing import Any

from configs.common import on_moby
from hlm import (
    LM,
    Attention,
    Block,
    Bytes,
    Embed,
    Heads,
    Hierarchy,
    Level,
    RMSNorm,
    Rope,
    Stack,
    SwiGLU,
    aunet,
    pool,
    split,
    unpool,
)


@dataclasses.dataclass(frozen=True)
class Stage:
    width: int
    depth: int  # of the encoder and of the decoder each; of the whole trunk for the last stage
    head_dim: int
    feed_forward: int
    window: int | None
    elements: int  # per row


def stages(length: int, *table: tuple[int, int, int, int]) -> list[Stage]:
    """Bytes see 512 bytes back, higher stages 4096 elements; at most every 2.5th byte ends a word, every 5th a group."""
    room = [length, length * 2 // 5, length // 5, length // 8]
    return [Stage(*row, 512 if i == 0 else 4096, room[i]) for i, row in enumerate(table)]


# width, depth, head width, feed-forward width of each stage: the paper's table; tiny and peer are ours
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(stages=stages(512, (128, 1, 32, 384), (256, 3, 64, 704)), rows=2, steps=1700, peak=4e-3, remat=False),
    "tiny3": dict(
        stages=stages(512, (96, 1, 32, 256), (192, 1, 48, 512), (256, 4, 64, 704)), rows=2, steps=1700, peak=4e-3, remat=False
    ),
    "tiny4": dict(
        stages=stages(512, (96, 1, 32, 256), (192, 1, 48, 512), (256, 1, 64, 704), (256, 3, 64, 704)),
        rows=2,
        steps=1700,
        peak=4e-3,
        remat=False,
    ),
    "peer": dict(
        stages=[Stage(128, 1, 32, 384, 128, 512), Stage(256, 4, 64, 704, 512, 160)], rows=8, steps=1000, peak=1e-3, remat=False
    ),
    "peer3": dict(
        stages=[Stage(128, 1, 32, 384, 128, 512), Stage(192, 1, 48, 512, 512, 160), Stage(256, 3, 64, 704, 512, 96)],
        rows=8,
        steps=1000,
        peak=1e-3,
        remat=False,
    ),
    "2-1b": dict(stages=stages(8192, (512, 3, 64, 1536), (2048, 25, 128, 5632)), rows=192, steps=180_000, peak=1.65e-3, remat=True),
    "3-1b": dict(
        stages=stages(8192, (512, 3, 64, 1536), (2048, 3, 128, 5632), (3072, 18, 128, 8192)),
        rows=342,
        steps=105_000,
        peak=1.65e-3,
        remat=True,
    ),
    "4-1b": dict(
        stages=stages(8192, (512, 3, 64, 1536), (2048, 3, 128, 5632), (3072, 4, 128, 8192), (4608, 10, 128, 12288)),
        rows=342,
        steps=105_000,
        peak=1.65e-3,
        remat=True,
    ),
    "2-8b": dict(stages=stages(8192, (1024, 3, 64, 4096), (4096, 32, 128, 14336)), rows=512, steps=278_000, peak=1e-3, remat=True),
}


def trunk(stages: list[Stage], level: int, multilinear: bool, remat: bool) -> Stack | Hierarchy:
    here, above = stages[0], stages[1:]

    def stack() -> Stack:
        attention = Attention(here.width // here.head_dim, window=here.window, rope=Rope(theta=500_000.0))
        return Stack(here.depth, Block(attention, SwiGLU(here.feed_forward)), remat=remat)

    if not above:
        return stack()
    return Hierarchy(
        encoder=stack(),
        segmenter=Level(level),
        pool=pool.Select(above[0].width, norm=RMSNorm()),
        backbone=trunk(above, level + 1, multilinear, remat),
        unpool=aunet.Offset(16, norm=RMSNorm()) if multilinear else unpool.Broadcast(norm=RMSNorm()),
        decoder=stack(),
        capacity=above[0].elements,
    )


def config(size: str):
    s = SIZES[size]
    first, levels = s["stages"][0], len(s["stages"]) - 1
    model = LM(
        codec=Bytes(split=split.WordGroups(counts=tuple(2**i for i in range(levels)), longest=64)),
        embed=Embed(width=first.width, std=first.width**-0.5),
        trunk=trunk(s["stages"], 1, multilinear=levels > 1, remat=s["remat"]),
        heads=Heads(),
    )
    return on_moby(model, first.elements, s["rows"], s["steps"], s["peak"])
