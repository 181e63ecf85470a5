"""Learn Your Tokens: words of several vectors (Thawani et al. 2023, arXiv 2310.11628).

A both-ways encoder reads each word, learned queries pool it into four vectors, elements of a causal
backbone, and a causal decoder writes the next word behind those that come out. The idea, a diagram
and what differs: hlm/papers/lyt.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only lyt:tiny    -> 2.696

`39m` is trained on text of yours (configs/common.py). It has the widths, depths and learning rates
of the released code, with bytes as base units; its parameters are counted here, since the paper's
tables of sizes are for subwords, and no result of the paper belongs to it.

    python train.py configs/lyt.py:39m --workdir runs/lyt-39m data.source=...    # on one chip
"""

import functools
from typing import Any

from configs.common import on_moby, published
from hlm import (
    LM,
    AdamW,
    Attention,
    Block,
    Bytes,
    Embed,
    Heads,
    Hierarchy,
    LayerNorm,
    Level,
    Positions,
    PostNormBlock,
    Stack,
    WordPositions,
    feed_forward,
    lyt,
    pool,
    schedule,
    split,
    unpool,
)
from hlm.nn.cross import ChunkMemory

RELEASED = AdamW(peak=1e-4, warmup=0, decay=schedule.Linear(final=1.0), b2=0.95)
# heads: of the encoder, of the backbone and the decoder; depths: of the three
# longest: bytes of a word that have positions of their own
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        run=on_moby,
        width=128,
        heads=(4, 4),
        depths=(1, 2, 2),
        longest=24,
        length=512,
        words=144,
        rows=2,
        steps=1700,
        peak=2e-3,
    ),
    "39m": dict(
        run=functools.partial(published, optim=RELEASED),
        width=512,
        heads=(4, 8),
        depths=(2, 8, 2),
        longest=64,
        length=1152,
        words=193,
        rows=2,
        steps=100_000,
        peak=RELEASED.peak,
    ),
}
VECTORS = 4  # of a word


def model(size: str) -> LM:
    s = SIZES[size]
    width, longest = s["width"], s["longest"]
    (reading, writing), (before, inside, behind) = s["heads"], s["depths"]
    reader = PostNormBlock(
        Attention(reading, window=longest, causal=False, rope=None),
        feed_forward.MLP(4 * width),
    )

    def block(window: int | None = None) -> Block:
        attention = Attention(writing, window=window, rope=None)
        return Block(attention, feed_forward.GELU(4 * width), LayerNorm())

    places = Positions(VECTORS * s["words"], std=0.02)
    backbone = Stack(inside, block(), norm=LayerNorm(), positions=places)
    decoder = Stack(behind, block(window=longest + VECTORS), per_chunk=True)
    return LM(
        codec=Bytes(split=split.After((32,))),
        embed=Embed(width, std=0.02, positions=WordPositions(longest, std=0.02)),
        trunk=Hierarchy(
            encoder=Stack(before, reader, per_chunk=True),
            segmenter=Level(1),
            pool=pool.Attend(None, queries=VECTORS, heads=reading),
            backbone=lyt.MultiVectorBackbone(backbone, VECTORS),
            unpool=unpool.Keep(),
            decoder=lyt.PrefixVectors(decoder),
            capacity=s["words"],
            skip_input=True,
            guide=ChunkMemory(VECTORS, None),
        ),
        heads=Heads(std=0.02),
        norm=LayerNorm(),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
