"""HLM: a hierarchical masked language model over words (Sun et al. 2023, arXiv 2305.14571).

A both-ways encoder reads each word, a both-ways backbone reads the words, and hidden words are
spelled from the backbone's vector. The idea, a diagram and what differs: hlm/papers/masked.py.

Letters of hidden words, every seventh of Moby-Dick's test chapters, one seed (docs/results.md):

    python train.py configs/hlm.py:tiny --workdir runs/hlm && \\
        python eval.py runs/hlm --suite masked    -> 19.4 % of letters, 11.9 % of words right

3.87 bits a letter. `base` is trained on text of yours (configs/common.py):

    python train.py configs/hlm.py:base --workdir gs://... data.source=...

As it is, it is for v5e:4x4 (docs/scaling.md). In the paper, tuned to find names: 86.4 on
NCBI-disease (BERT 83.8) and 47.9 on WNUT16 (45.7). It has the widths of BERT base and the paper's
depths. Our choices: learned positions of bytes in their word and of words in the text, words of at
most 20 bytes, white space shown and never hidden.
"""

from typing import Any

from configs.common import on_moby, published
from hlm import (
    Attention,
    Bytes,
    Embed,
    Hierarchy,
    Level,
    Positions,
    PostNormBlock,
    Stack,
    WordPositions,
    feed_forward,
    masked,
    pool,
    segment,
    split,
    unpool,
)

LONGEST = 20  # bytes of a word
# depths: encoder, backbone, decoder; length: elements of a row, of which `chunks` are words
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        run=on_moby,
        width=128,
        heads=4,
        depths=(1, 4, 1),
        length=512,
        chunks=112,
        rows=8,
        steps=800,
        peak=2e-3,
        remat=False,
    ),
    "base": dict(
        run=published,
        width=768,
        heads=12,
        depths=(4, 12, 1),
        length=3584,
        chunks=592,
        rows=256,
        steps=1_000_000,
        peak=1e-4,
        remat=True,
    ),
}


def model(size: str) -> masked.MaskedLM:
    s = SIZES[size]
    width, (before, words, behind) = s["width"], s["depths"]

    def block(window: int | None) -> PostNormBlock:
        attention = Attention(s["heads"], window=window, causal=False, rope=None)
        return PostNormBlock(attention, feed_forward.GELU(4 * width))

    def inside_word(depth: int) -> Stack:
        return Stack(depth, block(LONGEST + 1), per_chunk=True, remat=s["remat"])

    positions = Positions(s["chunks"])
    return masked.MaskedLM(
        codec=Bytes(split=split.Words(longest=LONGEST, eow=True)),
        embed=Embed(width=width, positions=WordPositions(LONGEST + 1)),
        trunk=Hierarchy(
            encoder=inside_word(before),
            segmenter=segment.SeenWithin(Level(1)),
            pool=pool.Select(width, project=False),
            backbone=Stack(words, block(None), positions=positions, remat=s["remat"]),
            unpool=unpool.Scatter(),
            decoder=inside_word(behind),
            capacity=s["chunks"],
        ),
        heads=masked.Spell(),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
