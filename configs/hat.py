"""HAT: hierarchical autoregressive Transformer (Neitemeier et al. 2025, arXiv 2501.10322), the paper's model.

    python train.py configs/hat.py:tiny --workdir runs/hat         # what `make train` runs
    python train.py configs/hat.py:1b --workdir gs://...           # 1.1B parameters

Words are read by a both-ways encoder that sees only the word, a causal backbone models the words, and a causal decoder that sees only
the backbone's prediction and the word so far writes the next one. `tiny_eow` ends words by the explicit symbol of the paper, whose
encoder output is the word's vector; otherwise the space does both. `tiny_drafts` is not of the paper: it learns to guess ahead, by eight
heads inside a word and by a module that stands for the backbone, for `lm.generate(..., speculate=k)`. Nor is `tiny_gaps`: half of its
texts have a gap, which it learns to fill (hlm/gaps.py), for `lm.generate(hlm.Gap(prefix, suffix), ...)`.
"""

from typing import Any

from configs.common import on_moby, with_gaps
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

# byte width, heads, depth of encoder and of decoder; word width and heads and depth (the paper's table: width = 128 * depth)
PAPER = dict(longest=64, length=16384, chunks=4096, rows=1024, steps=72_000, eow=True, qk_norm=None, remat=True)
TINY = dict(byte=(128, 4, 1, 3), word=(256, 4, 2), longest=24, rows=2, steps=1700, peak=5e-3, qk_norm=RMSNorm(), remat=False)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(TINY, length=512, chunks=96, eow=False),
    "tiny_eow": dict(TINY, length=608, chunks=96, eow=True),
    "tiny_drafts": dict(TINY, length=512, chunks=96, eow=False, ahead=8, shortcut=True),
    "tiny_gaps": dict(TINY, length=512, chunks=96, eow=False, gaps=FIM()),
    "1b": dict(PAPER, byte=(768, 6, 3, 3), word=(2304, 18, 18), peak=5.3e-4),
    "3b": dict(PAPER, byte=(768, 6, 3, 3), word=(3584, 28, 28), peak=3.4e-4),
    "7b": dict(PAPER, byte=(1024, 8, 4, 4), word=(4608, 36, 36), peak=2.7e-4),
}


def model(size: str) -> LM:
    s = SIZES[size]
    width, heads, encoder_depth, decoder_depth = s["byte"]
    word_width, word_heads, word_depth = s["word"]

    def inside_word(depth: int, causal: bool) -> Stack:
        attention = Attention(heads, window=s["longest"] + 1, causal=causal, qk_norm=s["qk_norm"])
        return Stack(depth, Block(attention, SwiGLU(8 * width // 3)), per_chunk=True, remat=s["remat"])

    def word_block() -> Block:
        return Block(Attention(word_heads, qk_norm=s["qk_norm"]), SwiGLU(8 * word_width // 3))

    codec = Bytes(split=split.Words(longest=s["longest"], eow=s["eow"]))
    codec = FIMCodec(codec) if "gaps" in s else codec
    drafts = bool(s.get("shortcut"))
    kind = chunk_mtp.DraftingHierarchy if drafts else Hierarchy
    more: dict[str, Any] = dict(shortcut=chunk_mtp.ChunkMTP(Stack(1, word_block(), remat=s["remat"]))) if drafts else {}
    return LM(
        codec=codec,
        embed=Embed(width=width, size=codec.size),
        trunk=kind(
            encoder=inside_word(encoder_depth, causal=False),
            segmenter=Level(1),
            pool=pool.Select(word_width),
            backbone=Stack(word_depth, word_block(), remat=s["remat"]),
            unpool=unpool.Prefix(),
            decoder=inside_word(decoder_depth, causal=True),
            capacity=s["chunks"],
            skip_input=True,
            **more,
        ),
        heads=Heads(ahead=s.get("ahead", 1)),
        objectives=(objective.Ahead(), chunk_mtp.ChunkMTPLoss()) if drafts else (),
    )


def config(size: str):
    s = SIZES[size]
    exp = on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"])
    return with_gaps(exp, s["gaps"]) if "gaps" in s else exp
