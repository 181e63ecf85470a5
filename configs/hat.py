"""HAT: hierarchical autoregressive Transformer (Neitemeier et al. 2025, arXiv 2501.10322), the paper's model.

    python train.py configs/hat.py:tiny --workdir runs/hat         # what `make train` runs
    python train.py configs/hat.py:1b --workdir gs://...           # 1.1B parameters

Words are read by a both-ways encoder that sees only the word, a causal backbone models the words, and a causal decoder that sees only
the backbone's prediction and the word so far writes the next one. `tiny_eow` ends words by the explicit symbol of the paper, whose
encoder output is the word's vector; otherwise the space does both.
"""

from typing import Any

from configs.common import on_moby
from hlm import LM, Attention, Block, Bytes, Embed, Heads, Hierarchy, Level, Prefix, Select, Stack, SwiGLU, Words

# byte width and heads, byte depth (encoder = decoder), word width = 128 * depth = 128 * heads (paper, table of sizes)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(byte=(128, 4, 2), word=(256, 4, 4), longest=24, length=512, chunks=128, rows=8, steps=1000, peak=2e-3, eow=False),
    "tiny_eow": dict(
        byte=(128, 4, 2), word=(256, 4, 4), longest=24, length=640, chunks=128, rows=8, steps=1000, peak=2e-3, eow=True
    ),
    "1b": dict(
        byte=(768, 6, 3), word=(2304, 18, 18), longest=64, length=16384, chunks=4096, rows=1024, steps=72_000, peak=5.3e-4, eow=True
    ),
    "3b": dict(
        byte=(768, 6, 3), word=(3584, 28, 28), longest=64, length=16384, chunks=4096, rows=1024, steps=72_000, peak=3.4e-4, eow=True
    ),
    "7b": dict(
        byte=(1024, 8, 4),
        word=(4608, 36, 36),
        longest=64,
        length=16384,
        chunks=4096,
        rows=1024,
        steps=72_000,
        peak=2.7e-4,
        eow=True,
    ),
}


def model(size: str) -> LM:
    s = SIZES[size]
    width, heads, depth = s["byte"]
    word_width, word_heads, word_depth = s["word"]

    def inside_word(causal: bool) -> Stack:
        attention = Attention(heads, window=s["longest"] + 1, causal=causal)
        return Stack(depth, Block(attention, SwiGLU(8 * width // 3)), per_chunk=True)

    return LM(
        codec=Bytes(split=Words(longest=s["longest"], eow=s["eow"])),
        embed=Embed(width=width),
        trunk=Hierarchy(
            encoder=inside_word(causal=False),
            segmenter=Level(1),
            pool=Select(word_width),
            backbone=Stack(word_depth, Block(Attention(word_heads), SwiGLU(8 * word_width // 3))),
            unpool=Prefix(),
            decoder=inside_word(causal=True),
            capacity=s["chunks"],
            skip_input=True,
        ),
        heads=Heads(),
    )


def config(size: str):
    s = SIZES[size]
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"])
