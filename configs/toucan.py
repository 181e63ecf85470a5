"""Toucan: dynamic pooling that writes a chunk at once (Fleshman & Van Durme 2023, arXiv 2311.08620).

    python train.py configs/toucan.py:tiny --workdir runs/toucan

Chunks are drawn as in configs/dtp.py:tiny. The decoder builds on the bytes in place of the encoder's output and says where its chunk
ends, so that encoder and backbone need to run only once for each chunk. `x5` and `x10` are the paper's: one chunk for every five or
ten bytes. Different: bits per byte count a symbol's both ways, at once and behind the end of a chunk, where the paper counts the way
that was drawn (which is what is trained: the sum of `loss` and `loss/ending`); and embeddings start at unit size, not at 0.02, for
here they are added to normed chunk vectors, in which they would drown.
"""

from typing import Any

from configs.common import on_moby
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
    blt,
    dynamic_pooling,
    feed_forward,
    pool,
    schedule,
    split,
    toucan,
    unpool,
)
from hlm.nn.relative import RelativeAttention, RelativeBias

PAPER: dict[str, Any] = dict(width=512, heads=8, inner=2048, depths=(2, 8, 2), length=2048, rows=8, steps=200_000, peak=2.5e-4)
# prior: the share of elements that end a chunk; chunks per row, with room for the many that an untrained segmenter makes
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(width=128, heads=4, inner=512, depths=(1, 4, 1), length=512, rows=2, steps=1700, peak=3e-3, prior=0.2, chunks=256),
    "x5": PAPER | dict(prior=0.2, chunks=768),
    "x10": PAPER | dict(prior=0.1, chunks=512),
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
            guide=blt.ChunkMemory(1, None),
        ),
        heads=toucan.EndHeads(Heads(bias=True)),
        norm=None,
        objectives=(toucan.ChunkEnds(),),
        shared=RelativeBias(heads, s["width"] // heads),
    )


def config(size: str):
    s = SIZES[size]
    paper = AdamW(peak=s["peak"], warmup=4000, decay=schedule.Cosine(final=0.0), b2=0.999, weight_decay=0.0, clip=0.25)
    changes = {} if size.startswith("tiny") else dict(optim=paper)
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"], **changes)
