"""Byte2Word: words read by cross-attention and guessed in pieces (Lee, Guo & Qiu 2022).

A masked model: learned queries read the bytes of each word, a both-ways backbone reads the words,
and the pieces of a hidden word are guessed at once. The idea, a diagram and what differs:
hlm/papers/byte2word.py. Only the paper's abstract could be read.

Pieces of hidden words, every seventh of Moby-Dick's test chapters, one seed (docs/results.md):

    python train.py configs/byte2word.py:tiny --workdir runs/byte2word && \\
        python eval.py runs/byte2word --suite masked    -> 7.2 % of letters, 9.8 % of words right

3.12 bits a letter. `base` is trained on text of yours (configs/common.py):

    python train.py configs/byte2word.py:base --workdir gs://... data.source=...

It is for v5e:4x4 as it is (docs/scaling.md) and has BERT's base size; the abstract gives no number
for it. Our choices are also 16 queries of width 192, a learned vector for the place in the word and
in the text, and byte-level BPE of words in place of WordPiece. Pieces are learned from Moby-Dick
for both sizes: let `pieces` read yours.
"""

import functools
from typing import Any

from configs.common import MOBY, on_moby, published
from hlm import (
    Attention,
    Bytes,
    Chain,
    Embed,
    Hierarchy,
    LayerNorm,
    Level,
    Positions,
    PostNormBlock,
    Stack,
    WordPositions,
    byte2word,
    feed_forward,
    masked,
    pool,
    segment,
    split,
    unpool,
)
from hlm.data.pipeline import documents
from hlm.subwords import WordPieces

LONGEST = 20  # bytes of a word, so also its pieces at most
# byte: width, queries, heads
# length: elements of a row, of which `chunks` are words and `most` may be hidden pieces
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        run=on_moby,
        byte=(64, 4, 2),
        width=128,
        heads=4,
        depth=4,
        pieces=1024,
        most=64,
        length=512,
        chunks=112,
        rows=8,
        steps=800,
        peak=2e-3,
        remat=False,
    ),
    "base": dict(
        run=published,
        byte=(192, 16, 3),
        width=768,
        heads=12,
        depth=12,
        pieces=30_522,
        most=448,
        length=3584,
        chunks=592,
        rows=256,
        steps=1_000_000,
        peak=1e-4,
        remat=True,
    ),
}


@functools.cache
def pieces(size: int) -> WordPieces:
    return WordPieces.train([text for _, text in documents(MOBY["train"])], size)


def model(size: str) -> masked.MaskedLM:
    s = SIZES[size]
    width, chunks = s["width"], s["chunks"]
    byte_width, queries, byte_heads = s["byte"]
    words = PostNormBlock(
        Attention(s["heads"], causal=False, rope=None),
        feed_forward.GELU(4 * width),
    )
    return masked.MaskedLM(
        codec=Bytes(split=split.Words(longest=LONGEST, eow=True), labels=pieces(s["pieces"])),
        embed=Embed(width=byte_width, positions=WordPositions(LONGEST + 1)),
        trunk=Hierarchy(
            encoder=Chain(()),
            segmenter=segment.SeenWithin(Level(1)),
            pool=pool.Attend(width, queries=queries, heads=byte_heads, norm=LayerNorm()),
            backbone=Stack(s["depth"], words, positions=Positions(chunks), remat=s["remat"]),
            unpool=unpool.Repeat(),
            decoder=Chain(()),
            capacity=chunks,
        ),
        heads=byte2word.PieceHeads(size=s["pieces"], slots=LONGEST, most=s["most"]),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
