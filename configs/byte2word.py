"""Byte2Word: words read byte by byte and guessed in pieces (Lee, Guo & Qiu 2022). Of the paper only the abstract was read.

    python train.py configs/byte2word.py:tiny --workdir runs/byte2word
    python eval.py runs/byte2word                                  # accuracy and pseudo-likelihood of hidden words

Learned queries attend to the narrow embeddings of a word's bytes; a both-ways backbone reads the words; all pieces of a hidden word are
guessed at once, from the word's vector and the number of the piece. The abstract says: cross-attention network, subwords predicted from
word-level states, a tenth of BERT's parameters for embedding. The rest is our reading: 16 queries of width 192, slots, BERT's base size,
a learned vector for the place in the word and in the text, byte-level BPE of words in place of WordPiece.
"""

import functools
from typing import Any

from configs.common import MOBY, on_moby
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
# byte: width, queries, heads; length: elements of a row, of which `chunks` are words and `most` may be hidden pieces
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        byte=(64, 4, 2), width=128, heads=4, depth=4, pieces=1024, most=64, length=512, chunks=112, rows=8, steps=800, peak=2e-3
    ),
    "base": dict(
        byte=(192, 16, 3), width=768, heads=12, depth=12, pieces=30_522, most=448, length=3584, chunks=640, rows=256, steps=1_000_000,
        peak=1e-4,
    ),
}  # fmt: skip


@functools.cache
def pieces(size: int) -> WordPieces:
    return WordPieces.train([text for _, text in documents(MOBY["train"])], size)


def model(size: str) -> masked.MaskedLM:
    s = SIZES[size]
    byte_width, queries, byte_heads = s["byte"]
    words = PostNormBlock(Attention(s["heads"], causal=False, rope=None), feed_forward.GELU(4 * s["width"]))
    return masked.MaskedLM(
        codec=Bytes(split=split.Words(longest=LONGEST, eow=True), labels=pieces(s["pieces"])),
        embed=Embed(width=byte_width, positions=WordPositions(LONGEST + 1)),
        trunk=Hierarchy(
            encoder=Chain(()),
            segmenter=segment.SeenWithin(Level(1)),
            pool=pool.Attend(s["width"], queries=queries, heads=byte_heads, norm=LayerNorm()),
            backbone=Stack(s["depth"], words, positions=Positions(s["chunks"]), remat=not size.startswith("tiny")),
            unpool=unpool.Repeat(),
            decoder=Chain(()),
            capacity=s["chunks"],
        ),
        heads=byte2word.PieceHeads(size=s["pieces"], slots=LONGEST, most=s["most"]),
    )


def config(size: str):
    s = SIZES[size]
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"])
