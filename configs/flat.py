"""Flat bytes: one Transformer over bytes; the baseline without hierarchy.

    python train.py configs/flat.py:tiny --workdir runs/flat
    python train.py configs/flat.py:tiny_registers --workdir runs/registers

`tiny_registers` is the same model, trained by MuToR to look up to four bytes ahead (Gerontopoulos et al. 2025, arXiv 2505.10518).
"""

from typing import Any

from configs.common import block_width, on_moby
from hlm import LM, Attention, Block, Bytes, Embed, Heads, Stack, SwiGLU, mutor, split

TINY: dict[str, Any] = dict(width=128, heads=4, depth=4, length=512, rows=2, steps=1700, peak=4e-3, remat=False)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_registers": TINY | dict(objectives=(mutor.Registers(farthest=4),)),
    "peer": dict(width=256, heads=4, depth=6, length=512, rows=8, steps=1000, peak=1e-3, remat=False),  # benchmarks/train_speed.py
    "1b": dict(width=2048, heads=16, depth=24, length=8192, rows=128, steps=100_000, peak=6e-4, remat=True),
}


def model(size: str) -> LM:
    s = SIZES[size]
    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=Embed(width=s["width"]),
        trunk=Stack(s["depth"], Block(Attention(s["heads"]), SwiGLU(block_width(s["width"]))), remat=s["remat"]),
        heads=Heads(),
        objectives=s.get("objectives", ()),
    )


def config(size: str):
    s = SIZES[size]
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"])
