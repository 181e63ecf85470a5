"""Dynamic token pooling: an hourglass with a boundary predictor (Nawrot et al. 2023, 2211.09761).

A few layers read bytes, a segmenter cuts their stream, the mean of each chunk is one step of the
middle layers, and bytes are written from the newest chunk. The idea, a diagram and what differs:
hlm/papers/dynamic_pooling.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only dtp:tiny            -> 2.513
    python benchmarks/quality.py runs/quality --only dtp:tiny_entropy    -> 2.512
    python benchmarks/quality.py runs/quality --only dtp:tiny_pieces     -> 2.494
    python benchmarks/quality.py runs/quality --only dtp:tiny_space      -> 2.515
    python benchmarks/quality.py runs/quality --only dtp:tiny_fixed      -> 2.567

Published sizes are trained on text of yours (configs/common.py), for v5e:2x4 as they are
(docs/scaling.md). Bits per character of text8's test part in the paper:

    python train.py configs/dtp.py:41m --workdir gs://... data.source=...            # 1.136
    python train.py configs/dtp.py:41m_entropy --workdir gs://... data.source=...    # 1.138
    python train.py configs/dtp.py:41m_pieces --workdir gs://... data.source=...     # 1.134
    python train.py configs/dtp.py:41m_space --workdir gs://... data.source=...      # 1.133
    python train.py configs/dtp.py:41m_fixed --workdir gs://... data.source=...      # 1.149
    python train.py configs/dtp.py:41m_vanilla --workdir gs://... data.source=...    # 1.143

`tiny`, `41m`: boundaries are drawn, about one of five bytes (Gumbel). `..._entropy`: the predictor
learns where the model is least sure what follows. `..._pieces`: it learns a tokenizer's pieces, the
paper's Unigram's, here those of the BPE of configs/bpe.py, learned from Moby-Dick for all sizes.
`..._space`: chunks end at spaces. `..._fixed`: after two bytes. `41m_vanilla`: no chunks.
"""

import functools
from collections.abc import Callable
from typing import Any

from configs.common import MOBY, on_moby, published
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
from hlm.model.objective import Objective
from hlm.model.segment import Segmenter
from hlm.nn.relative import RelativeAttention, RelativeBias
from hlm.subwords import Pieces

Cut = tuple[Bytes, Segmenter, tuple[Objective, ...]]  # what decides on chunks


def drawn(inner: int) -> Cut:
    segmenter = dynamic_pooling.Gumbel(inner, prior=0.2, temperature=0.5)
    return Bytes(split=split.Unsplit()), segmenter, ()


def by_entropy(inner: int) -> Cut:
    segmenter = dynamic_pooling.Predicted(inner)
    return Bytes(split=split.Unsplit()), segmenter, (dynamic_pooling.Spikes(2),)


def by_pieces(vocabulary: int) -> Callable[[int], Cut]:
    def cut(inner: int) -> Cut:
        codec = Bytes(split=split.Unsplit(), labels=pieces(vocabulary))
        return codec, dynamic_pooling.Predicted(inner), (dynamic_pooling.GivenEnds(),)

    return cut


def after_spaces(inner: int) -> Cut:
    return Bytes(split=split.After((32,))), Level(1), ()


def fixed(size: int) -> Callable[[int], Cut]:
    def cut(inner: int) -> Cut:
        return Bytes(split=split.Fixed(size, first=1)), Level(1), ()

    return cut


@functools.cache
def pieces(vocabulary: int) -> Pieces:
    return Pieces(BPE.train([text for _, text in documents(MOBY["train"])], vocabulary).tokenizer)


TINY: dict[str, Any] = dict(
    run=on_moby,
    width=128,
    heads=4,
    inner=512,
    depths=(1, 4, 1),
    length=512,
    rows=2,
    steps=1700,
    peak=3e-3,
    remat=False,
)
PEER = TINY | dict(width=256, inner=1024, rows=8, steps=1000, peak=1e-3)
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
    remat=True,
)
# chunks: per row; `tiny` has room for the many that an untrained segmenter makes, `peer` for those
# after some ten steps, others for 1.15 times what it is taught; ends beyond that are dropped
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY | dict(cut=drawn, chunks=256, depths=(1, 8, 1)),
    "tiny_entropy": TINY | dict(cut=by_entropy, chunks=256),
    "tiny_pieces": TINY | dict(cut=by_pieces(1024), chunks=256),
    "tiny_space": TINY | dict(cut=after_spaces, chunks=144, depths=(1, 10, 1)),
    "tiny_fixed": TINY | dict(cut=fixed(2), chunks=264),
    "peer": PEER | dict(cut=drawn, chunks=144),
    "peer_space": PEER | dict(cut=after_spaces, chunks=144),
    "peer_fixed4": PEER | dict(cut=fixed(4), chunks=136),
    "41m": PAPER | dict(cut=drawn, chunks=472),
    "41m_entropy": PAPER | dict(cut=by_entropy, chunks=768),
    "41m_pieces": PAPER | dict(cut=by_pieces(10_000), chunks=552),
    "41m_space": PAPER | dict(cut=after_spaces, chunks=376),
    "41m_fixed": PAPER | dict(cut=fixed(2), chunks=1040),
    "41m_vanilla": PAPER | dict(cut=None, depths=(12, 0, 0)),
}


def model(size: str) -> LM:
    s = SIZES[size]
    heads, (before, inside, behind) = s["heads"], s["depths"]

    def stack(depth: int, isolate_bos: bool = True) -> Stack:
        block = PostNormBlock(RelativeAttention(heads), feed_forward.GELU(s["inner"]))
        return Stack(depth, block, isolate_bos=isolate_bos, remat=s["remat"])

    trunk, codec, objectives = stack(before), Bytes(split=split.Unsplit()), ()
    if s["cut"] is not None:
        codec, segmenter, objectives = s["cut"](s["inner"])
        trunk = Hierarchy(
            encoder=trunk,
            segmenter=segmenter,
            pool=pool.Mean(None, norm=LayerNorm(), null=True),
            backbone=stack(inside, isolate_bos=False),
            unpool=unpool.Broadcast(project=False),
            decoder=stack(behind),
            capacity=s["chunks"],
        )
    return LM(
        codec=codec,
        embed=Embed(width=s["width"], std=0.02),
        trunk=trunk,
        heads=Heads(bias=True),
        norm=None,
        shared=RelativeBias(heads, s["width"] // heads),
        objectives=objectives,
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
