"""AU-Net: an autoregressive U-Net over bytes and words (Videau et al. 2025, arXiv 2506.14761).

A causal U-Net: stages keep the vectors at the ends of words, of two words and of four, the deepest
does most of the work, and its vectors are spread over the bytes that follow. The idea, a diagram
and what differs: hlm/papers/aunet.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only aunet:tiny     -> 2.906
    python benchmarks/quality.py runs/quality --only aunet:tiny3    -> 2.888
    python benchmarks/quality.py runs/quality --only aunet:tiny4    -> 2.899

Published sizes are trained on text of yours (configs/common.py). HellaSwag in the paper, 0-shot,
trained on 60B tokens of DCLM (`2-8b`: 200B):

    python train.py configs/aunet.py:2-1b --workdir gs://... data.source=...    # 64.2
    python train.py configs/aunet.py:3-1b --workdir gs://... data.source=...    # 67.4
    python train.py configs/aunet.py:4-1b --workdir gs://... data.source=...    # 66.4
    python train.py configs/aunet.py:2-8b --workdir gs://... data.source=...    # 79.1

As they are, `2-1b`, `3-1b` and `4-1b` are for v5e:8x8, `2-8b` for v5p:8x8x4 (docs/scaling.md);
on 256 chips, `2-1b` needs rows=256.

`tiny`, `tiny3`, `tiny4`: two, three, four stages. Two repeat the word's vector; from three on, each
distance from the word's end has a matrix of its own. `moby` is `tiny` with a recipe that learns
faster on little text: bytes see 16 bytes back, and embeddings begin at size one. `peer...` are for
benchmarks/train_speed.py.
"""

import dataclasses
from typing import Any

from configs.common import on_moby, published
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


def stages(room: tuple[int, ...], *table: tuple[int, int, int, int]) -> list[Stage]:
    """Bytes see 512 bytes back, higher stages 4096 elements."""
    return [
        Stage(*row, 512 if i == 0 else 4096, elements)
        for i, (row, elements) in enumerate(zip(table, room, strict=False))
    ]


SHORT = (512, 204, 102, 64)  # elements of a row at each stage: what a row has at worst
# what rows of 8,192 bytes hold: of Moby-Dick 1,700, 988, 632, of speeches 1,524, 851, 514
ROOM = (8192, 1664, 960, 600)


TINY: dict[str, Any] = dict(run=on_moby, rows=2, steps=1700, peak=4e-3, remat=False)
PEER: dict[str, Any] = dict(run=on_moby, rows=8, steps=1000, peak=1e-3, remat=False)
PAPER: dict[str, Any] = dict(run=published, peak=1.65e-3, remat=True)

# width, depth, head width, feed-forward width of each stage
TINY_OUTER = ((96, 1, 32, 256), (192, 1, 48, 512))
PEER_BYTES = Stage(128, 1, 64, 384, 128, 512)
BYTES, WORDS = (512, 3, 64, 1536), (2048, 3, 128, 5632)  # the paper's table, and below
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY | dict(stages=stages(SHORT, (128, 1, 32, 384), (256, 3, 64, 704))),
    "moby": TINY
    | dict(
        stages=[Stage(128, 1, 32, 384, 16, 512), Stage(256, 3, 64, 704, 4096, 204)],
        std=1.0,
    ),
    "tiny3": TINY | dict(stages=stages(SHORT, *TINY_OUTER, (256, 4, 64, 704))),
    "tiny4": TINY | dict(stages=stages(SHORT, *TINY_OUTER, (256, 1, 64, 704), (256, 3, 64, 704))),
    "peer": PEER | dict(stages=[PEER_BYTES, Stage(256, 4, 64, 704, 512, 160)]),
    "peer3": PEER
    | dict(
        stages=[
            PEER_BYTES,
            Stage(192, 1, 64, 512, 512, 160),
            Stage(256, 3, 64, 704, 512, 96),
        ],
    ),
    "2-1b": PAPER
    | dict(
        stages=stages(ROOM, BYTES, (2048, 25, 128, 5632)),
        rows=192,
        steps=180_000,
    ),
    "3-1b": PAPER
    | dict(
        stages=stages(ROOM, BYTES, WORDS, (3072, 18, 128, 8192)),
        again=2,
        rows=320,  # the paper has 342, which no slice divides, and 105,000 steps
        steps=112_000,
    ),
    "4-1b": PAPER
    | dict(
        stages=stages(ROOM, BYTES, WORDS, (3072, 4, 128, 8192), (4608, 10, 128, 12288)),
        again=2,
        rows=320,  # the paper has 342, which no slice divides, and 105,000 steps
        steps=112_000,
    ),
    "2-8b": PAPER
    | dict(
        stages=stages(ROOM, (1024, 3, 64, 4096), (4096, 32, 128, 14336)),
        rows=512,
        steps=278_000,
        peak=1e-3,
    ),
}


def trunk(s: dict[str, Any], level: int = 0) -> Stack | Hierarchy:
    """Stage `level` and those inside it. The outer `again` stages compute their products again:
    kept, these take the most memory for the fewest FLOPs.
    """
    here, inside = s["stages"][level], s["stages"][level + 1 :]

    def stack() -> Stack:
        rope = Rope(theta=500_000.0)
        attention = Attention(here.width // here.head_dim, window=here.window, rope=rope)
        block = Block(attention, SwiGLU(here.feed_forward))
        keep = level >= s.get("again", 0)
        return Stack(here.depth, block, remat=s["remat"], keep_projections=keep)

    if not inside:
        return stack()
    norm = RMSNorm()
    multilinear = len(s["stages"]) > 2
    return Hierarchy(
        encoder=stack(),
        segmenter=Level(level + 1),
        pool=pool.Select(inside[0].width, norm=norm),
        backbone=trunk(s, level + 1),
        unpool=aunet.Offset(16, norm=norm) if multilinear else unpool.Broadcast(norm=norm),
        decoder=stack(),
        capacity=inside[0].elements,
    )


def config(size: str):
    s = SIZES[size]
    first, levels = s["stages"][0], len(s["stages"]) - 1
    groups = tuple(2**i for i in range(levels))
    model = LM(
        codec=Bytes(split=split.WordGroups(counts=groups, longest=64)),
        embed=Embed(width=first.width, std=s.get("std", first.width**-0.5)),
        trunk=trunk(s),
        heads=Heads(),
    )
    return s["run"](model, first.elements, s["rows"], s["steps"], s["peak"])
