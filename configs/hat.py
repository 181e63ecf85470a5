"""HAT: hierarchical autoregressive Transformer (Neitemeier et al. 2025, arXiv 2501.10322).

A both-ways encoder reads each word by itself, a causal backbone models the words, and a causal
decoder writes each word from the backbone's vector and the word so far (hlm/model/hierarchy.py).

Bits per byte of Moby-Dick's test chapters, one seed (docs/results.md): after 3e12 training FLOPs,

    python benchmarks/quality.py runs/quality --only hat:tiny           -> 2.388
    python benchmarks/quality.py runs/quality --only hat:tiny_eow       -> 2.449
    python benchmarks/quality.py runs/quality --only hat:tiny_drafts    -> 2.603
    python benchmarks/quality.py runs/quality --only hat:tiny_gaps      -> 2.410

and after all 1,700 steps,

    python train.py configs/hat.py:tiny --workdir runs/hat-tiny         -> 2.08
    python train.py configs/hat.py:tiny_gaps --workdir runs/gaps        -> 2.116

`make train` trains the same model with Muon and rows for 2 KB a step, 2.6 MB of text:

    python train.py configs/hat.py:moby --workdir runs/hat-tiny         -> 1.925

Published sizes are trained on text of yours. Words that are right as a whole, in the paper, trained
on DCLM-Baseline (configs/bpe.py has its baselines):

    python train.py configs/hat.py:1b --workdir gs://bucket/hat-1b \\
        data.source='TextFiles(paths=("/data/*.txt",), piece=8192)'          # 35.5 %
    python train.py configs/hat.py:3b --workdir gs://... data.source=...     # 37.8 %
    python train.py configs/hat.py:7b --workdir gs://... data.source=...     # 39.0 %

As they are, `1b` is for v5e:16x16, `3b` and `7b` for v5p:8x8x4 (docs/scaling.md).

`tiny_eow`, `1b`, `3b`, `7b`: words end with a symbol, as in the paper, whose encoder output is the
word's vector; in the other sizes the space is both. `tiny_drafts` also learns to guess ahead, for
`lm.generate(..., speculate=k)`: by eight heads inside a word (hlm/model/objective.py) and past the
backbone (hlm/papers/chunk_mtp.py). `tiny_gaps`: half of its texts have a gap that it learns to
fill, for `lm.generate(hlm.Infill(prefix, suffix), ...)` (hlm/fim.py). Neither is in the paper.
"""

import functools
from typing import Any

from configs.common import muon, on_moby, published, with_gaps
from hlm import (
    FIM,
    LM,
    Attention,
    Block,
    Bytes,
    Embed,
    FIMCodec,
    Heads,
    Hierarchy,
    Level,
    RMSNorm,
    Stack,
    SwiGLU,
    chunk_mtp,
    objective,
    pool,
    split,
    unpool,
)

TINY: dict[str, Any] = dict(
    run=on_moby,
    byte=(128, 4, 1, 3),
    word=(256, 4, 2),
    longest=24,
    length=512,
    chunks=96,
    rows=2,
    steps=1700,
    peak=5e-3,
    eow=False,
    qk_norm=RMSNorm(),
    remat=False,
)
PAPER: dict[str, Any] = dict(
    run=functools.partial(published, accumulate=2),
    longest=64,
    length=16384,
    chunks=2432,  # of 2,417 that Moby-Dick has in a row, and 2,313 that speeches have
    rows=1024,
    steps=72_000,
    eow=True,
    qk_norm=None,
    remat=True,
)
AT_ONCE = PAPER | dict(run=published)  # a v5p has memory for all rows of a step
# byte: width, heads, depth of encoder and of decoder
# word: width, heads, depth (the paper's table: width = 128 * depth)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_eow": TINY | dict(length=608, eow=True),
    "tiny_drafts": TINY | dict(ahead=8),
    "tiny_gaps": TINY | dict(gaps=FIM()),
    "moby": TINY
    | dict(run=functools.partial(on_moby, optim=muon(TINY["peak"])), rows=4, steps=1300),
    "1b": PAPER | dict(byte=(768, 6, 3, 3), word=(2304, 18, 18), peak=5.3e-4),
    "3b": AT_ONCE | dict(byte=(768, 6, 3, 3), word=(3584, 28, 28), peak=3.4e-4),
    "7b": AT_ONCE | dict(byte=(1024, 8, 4, 4), word=(4608, 36, 36), peak=2.7e-4),
}


def model(size: str) -> LM:
    s = SIZES[size]
    width, heads, encoder_depth, decoder_depth = s["byte"]
    word_width, word_heads, word_depth = s["word"]

    def inside_word(depth: int, causal: bool) -> Stack:
        window = s["longest"] + 1
        attention = Attention(heads, window=window, causal=causal, qk_norm=s["qk_norm"])
        block = Block(attention, SwiGLU(8 * width // 3))
        return Stack(depth, block, per_chunk=True, remat=s["remat"])

    def over_words(depth: int) -> Stack:
        block = Block(Attention(word_heads, qk_norm=s["qk_norm"]), SwiGLU(8 * word_width // 3))
        return Stack(depth, block, remat=s["remat"])

    codec = Bytes(split=split.Words(longest=s["longest"], eow=s["eow"]))
    codec = FIMCodec(codec) if "gaps" in s else codec
    parts: dict[str, Any] = dict(
        encoder=inside_word(encoder_depth, causal=False),
        segmenter=Level(1),
        pool=pool.Select(word_width),
        backbone=over_words(word_depth),
        unpool=unpool.Prefix(),
        decoder=inside_word(decoder_depth, causal=True),
        capacity=s["chunks"],
        skip_input=True,
    )
    drafts = "ahead" in s
    trunk = Hierarchy(**parts)
    if drafts:
        trunk = chunk_mtp.DraftingHierarchy(**parts, shortcut=chunk_mtp.ChunkMTP(over_words(1)))
    return LM(
        codec=codec,
        embed=Embed(width=width, size=codec.size),
        trunk=trunk,
        heads=Heads(ahead=s.get("ahead", 1)),
        objectives=(objective.Ahead(), chunk_mtp.ChunkMTPLoss()) if drafts else (),
    )


def config(size: str):
    s = SIZES[size]
    exp = s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
    return with_gaps(exp, s["gaps"]) if "gaps" in s else exp
