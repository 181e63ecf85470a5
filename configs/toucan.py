"""Toucan: dynamic pooling that writes a chunk at once (Fleshman & Van Durme 2023, 2311.08620).

Chunks are drawn as in configs/dtp.py:tiny; the decoder says where its chunk ends, so that encoder
and backbone run once for each chunk. The idea, a diagram and what differs: hlm/papers/toucan.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only toucan:tiny    -> 3.109

`x5` and `x10` are the paper's, one chunk for every five or ten bytes, and trained on text of yours
(configs/common.py), for v5e:2x4 as they are (docs/scaling.md); no result of the paper is at hand.

    python train.py configs/toucan.py:x5 --workdir gs://... data.source=...

Embeddings start at unit size, not at the 0.02 of dynamic pooling: they are added to normed chunk
vectors, in which they would drown.
"""

import functools
from typing import Any

from configs.common import on_moby, published
from hlm import (
    LM,
    AdamW,
    Bytes,
    Embed,
    Heads,
    Hierarchy,
    LayerNorm,
    PostNormBlock,
    Stack,
    dynamic_pooling,
    feed_forward,
    pool,
    schedule,
    split,
    toucan,
    unpool,
)
from hlm.nn.cross import ChunkMemory
from hlm.nn.relative import RelativeAttention, RelativeBias

OPTIM = AdamW(  # the paper's
    peak=2.5e-4,
    warmup=4000,
    decay=schedule.Cosine(final=0.0),
    b2=0.999,
    weight_decay=0.0,
    clip=0.25,
)
PAPER: dict[str, Any] = dict(
    run=functools.partial(published, optim=OPTIM),
    width=512,
    heads=8,
    inner=2048,
    depths=(2, 8, 2),
    length=2048,
    rows=8,
    steps=200_000,
    peak=OPTIM.peak,
)
# prior: the share of elements that end a chunk
# chunks: per row; `tiny` has room for the many that an untrained segmenter makes, others have 1.15
# times the prior, and drop the ends beyond it until it is met
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        run=on_moby,
        width=128,
        heads=4,
        inner=512,
        depths=(1, 4, 1),
        length=512,
        rows=2,
        steps=1700,
        peak=3e-3,
        prior=0.2,
        chunks=256,
    ),
    "x5": PAPER | dict(prior=0.2, chunks=472),
    "x10": PAPER | dict(prior=0.1, chunks=236),
}


def model(size: str) -> LM:
    s = SIZES[size]
    heads, (before, inside, behind) = s["heads"], s["depths"]

    def stack(depth: int) -> Stack:
        return Stack(depth, PostNormBlock(RelativeAttention(heads), feed_forward.GELU(s["inner"])))

    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=Embed(width=s["width"]),
        trunk=Hierarchy(
            encoder=stack(before),
            segmenter=dynamic_pooling.Gumbel(s["inner"], prior=s["prior"], temperature=0.5),
            pool=pool.Mean(None, norm=LayerNorm(), null=True),
            backbone=stack(inside),
            unpool=unpool.Broadcast(project=False),
            decoder=toucan.EndSlots(stack(behind)),
            capacity=s["chunks"],
            skip_input=True,
            guide=ChunkMemory(1, None),
        ),
        heads=toucan.EndHeads(Heads(bias=True)),
        norm=None,
        objectives=(toucan.ChunkEnds(),),
        shared=RelativeBias(heads, s["width"] // heads),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
