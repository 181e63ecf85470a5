"""HLM: a hierarchical masked language model with an open vocabulary (Sun et al. 2023, "From Characters to Words").

    python train.py configs/hlm.py:tiny --workdir runs/hlm
    python eval.py runs/hlm                                        # accuracy and pseudo-likelihood of hidden words

A both-ways encoder inside words gives each word's vector, at the end-of-word symbol; a both-ways backbone reads the words; one more
layer inside words, of which the backbone's vector (plus the word's own) is one element, spells the hidden ones. `base` has the widths
of BERT base and the paper's depths. Our choices: learned positions of bytes in their word and of words in the text, words of at most
20 bytes, white space shown and never hidden.
"""

from typing import Any

from configs.common import on_moby
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
    "tiny": dict(width=128, heads=4, depths=(1, 4, 1), length=512, chunks=112, rows=8, steps=800, peak=2e-3, remat=False),
    "base": dict(width=768, heads=12, depths=(4, 12, 1), length=3584, chunks=640, rows=256, steps=1_000_000, peak=1e-4, remat=True),
}


def model(size: str) -> masked.MaskedLM:
    s = SIZES[size]
    width, (before, words, behind) = s["width"], s["depths"]

    def stack(depth: int, inside_word: bool) -> Stack:
        attention = Attention(s["heads"], window=LONGEST + 1 if inside_word else None, causal=False, rope=None)
        positions = None if inside_word else Positions(s["chunks"])
        return Stack(
            depth,
            PostNormBlock(attention, feed_forward.GELU(4 * width)),
            per_chunk=inside_word,
            positions=positions,
            remat=s["remat"],
        )

    return masked.MaskedLM(
        codec=Bytes(split=split.Words(longest=LONGEST, eow=True)),
        embed=Embed(width=width, positions=WordPositions(LONGEST + 1)),
        trunk=Hierarchy(
            encoder=stack(before, inside_word=True),
            segmenter=segment.SeenWithin(Level(1)),
            pool=pool.Select(width, project=False),
            backbone=stack(words, inside_word=False),
            unpool=unpool.Scatter(),
            decoder=stack(behind, inside_word=True),
            capacity=s["chunks"],
        ),
        heads=masked.Spell(),
    )


def config(size: str):
    s = SIZES[size]
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"])
