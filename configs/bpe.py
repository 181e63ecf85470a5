"""BPE: one Transformer over subwords; the baseline with a tokenizer. Bits per byte come from the bytes that each subword stands for.

    python train.py configs/bpe.py:tiny --workdir runs/bpe

The tokenizer is learned from the config's own training text when the config is loaded, and kept inside the checkpoint.
"""

import functools
from typing import Any

from configs.common import MOBY, block_width, on_moby
from hlm import BPE, LM, Attention, Block, Embed, Heads, Stack, SwiGLU
from hlm.data.pipeline import documents

SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(width=256, heads=4, depth=4, vocabulary=2048, length=160, rows=2, steps=1700, peak=4e-3, remat=False),
    "1b": dict(
        width=2048, heads=16, depth=16, vocabulary=65536, length=3584, rows=1024, steps=72_000, peak=6e-4, remat=True
    ),  # HAT's baseline
    "3b": dict(width=3072, heads=24, depth=24, vocabulary=65536, length=3584, rows=1024, steps=72_000, peak=4e-4, remat=True),
    "7b": dict(width=4096, heads=32, depth=32, vocabulary=65536, length=3584, rows=1024, steps=72_000, peak=3e-4, remat=True),
}


@functools.cache
def tokenizer(size: int) -> BPE:
    return BPE.train([text for _, text in documents(MOBY["train"])], size)


def config(size: str):
    s = SIZES[size]
    model = LM(
        codec=tokenizer(s["vocabulary"]),
        embed=Embed(width=s["width"], size=s["vocabulary"]),
        trunk=Stack(s["depth"], Block(Attention(s["heads"]), SwiGLU(block_width(s["width"]))), remat=s["remat"]),
        heads=Heads(block=512 if s["vocabulary"] > 10_000 else None),
    )
    return on_moby(model, s["length"], s["rows"], s["steps"], s["peak"])
