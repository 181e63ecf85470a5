"""Dynamic token pooling: an hourglass whose chunks may be learned (Nawrot et al. 2023, arXiv 2211.09761).

    python train.py configs/dtp.py:tiny --workdir runs/dtp                 # chunks drawn, about every fifth byte (Gumbel)
    python train.py configs/dtp.py:tiny_entropy --workdir runs/entropy     # chunks end where the model is least sure what follows
    python train.py configs/dtp.py:tiny_pieces --workdir runs/pieces       # chunks imitate the pieces of a tokenizer
    python train.py configs/dtp.py:tiny_space --workdir runs/space         # chunks end at spaces
    python train.py configs/dtp.py:tiny_fixed --workdir runs/fixed         # chunks of two bytes

Blocks are those of Transformer-XL: relative positions whose two bias vectors all layers share, norms behind the sums. `41m...` are the
paper's models for text8, `41m_vanilla` the one without chunks. The paper's pieces are of a Unigram model; here they are of the BPE of
configs/bpe.py, whose training gives the same merges every time.
"""

import functools
from typing import Any

from configs.common import MOBY, on_moby
from hlm import (
    BPE,
    LM,
    AdamW,
    Bytes,
    Embed,
    Heads,
    Hierarchy,
    LayerNorm,
    Level,
    PostNormBlock,
    Stack,
    dynamic_pooling,
    feed_forward,
    pool,
    schedule,
    split,
    unpool,
)
from hlm.data.pipeline import documents
from hlm.nn.relative import RelativeAttention, RelativeBias
from hlm.subwords import Pieces

TINY: dict[str, Any] = dict(width=128, heads=4, inner=512, depths=(1, 4, 1), length=512, rows=2, steps=1700, peak=3e-3, remat=False)
PAPER: dict[str, Any] = dict(
    width=512, heads=8, inner=2048, depths=(2, 8, 2), length=2048, rows=8, steps=200_000, peak=2.5e-4, remat=True
)

# kind of chunks; chunks per row, with room for the many that an untrained segmenter makes
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY | dict(kind="gumbel", chunks=256, depths=(1, 8, 1)),
    "tiny_entropy": TINY | dict(kind="entropy", chunks=256),
    "tiny_pieces": TINY | dict(kind="pieces", chunks=256, vocabulary=1024),
    "tiny_space": TINY | dict(kind="space", chunks=144, depths=(1, 10, 1)),
    "tiny_fixed": TINY | dict(kind="fixed", chunks=264),
    "41m": PAPER | dict(kind="gumbel", chunks=768),
    "41m_entropy": PAPER | dict(kind="entropy", chunks=768),
    "41m_pieces": PAPER | dict(kind="pieces", chunks=768, vocabulary=10_000),
    "41m_space": PAPER | dict(kind="space", chunks=512),
    "41m_fixed": PAPER | dict(kind="fixed", chunks=1040),
    "41m_vanilla": PAPER | dict(kind="none", depths=(12, 0, 0)),
}


@functools.cache
def pieces(vocabulary: int) -> Pieces:
    return Pieces(BPE.train([text for _, text in documents(MOBY["train"])], vocabulary).tokenizer)


def codec(s: dict[str, Any]) -> Bytes:
    match s["kind"]:
        case "space":
            return Bytes(split=split.After((32,)))
        case "fixed":
            return Bytes(split=split.Fixed(2, first=1))
        case "pieces":
            return Bytes(split=split.Unsplit(), labels=pieces(s["vocabulary"]))
    return Bytes(split=split.Unsplit())


def segmenter(s: dict[str, Any]) -> Level | dynamic_pooling.Gumbel | dynamic_pooling.Predicted:
    match s["kind"]:
        case "gumbel":
            return dynamic_pooling.Gumbel(s["inner"], prior=0.2, temperature=0.5)
        case "entropy" | "pieces":
            return dynamic_pooling.Predicted(s["inner"])
    return Level(1)


def model(size: str) -> LM:
    s = SIZES[size]
    heads, (before, inside, behind) = s["heads"], s["depths"]

    def stack(depth: int, isolate_bos: bool = True) -> Stack:
        block = PostNormBlock(RelativeAttention(heads), feed_forward.GELU(s["inner"]))
        return Stack(depth, block, isolate_bos=isolate_bos, remat=s["remat"])

    trunk = stack(before)
    if s["kind"] != "none":
        trunk = Hierarchy(
            encoder=trunk,
            segmenter=segmenter(s),
            pool=pool.Mean(None, norm=LayerNorm(), null=True),
            backbone=stack(inside, isolate_bos=False),
            unpool=unpool.Broadcast(project=False),
            decoder=stack(behind),
            capacity=s["chunks"],
        )
    return LM(
        codec=codec(s),
        embed=Embed(width=s["width"], std=0.02),
        trunk=trunk,
        heads=Heads(bias=True),
        norm=None,
        shared=RelativeBias(heads, s["width"] // heads),
        objectives={"entropy": (dynamic_pooling.Spikes(2),), "pieces": (dynamic_pooling.GivenEnds(),)}.get(s["kind"], ()),
    )


def config(size: str):
    s = SIZES[size]
    paper = AdamW(peak=s["peak"], warmup=4000, decay=schedule.Cosine(final=0.0), b2=0.999, weight_decay=0.0, clip=0.25)
    changes = {} if size.startswith("tiny") else dict(optim=paper)
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"], **changes)
