"""MegaByte: patches of a fixed number of bytes (Yu et al. 2023, arXiv 2305.07185).

    python train.py configs/megabyte.py:tiny --workdir runs/megabyte

The global model reads patches of concatenated byte embeddings; the local model writes the next patch from the slots of its output and
the bytes of that patch so far.
"""

from typing import Any

from configs.common import block_width, on_moby
from hlm import LM, Attention, Block, Bytes, Concat, Embed, Fixed, Heads, Hierarchy, Level, Lookup, Split, Stack, SwiGLU

SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(patch=4, local=(128, 2, 2), wide=(256, 4, 4), length=512, rows=2, steps=2000, peak=4e-3, remat=False),
    "peer": dict(patch=4, local=(128, 2, 2), wide=(256, 4, 4), length=512, rows=8, steps=1000, peak=1e-3, remat=False),
    "1.3b": dict(patch=8, local=(1024, 16, 24), wide=(2048, 16, 24), length=8192, rows=96, steps=100_000, peak=2e-4, remat=True),
}


def config(size: str):
    s = SIZES[size]
    patch, length = s["patch"], s["length"]
    (width, heads, depth), (wide, wide_heads, wide_depth) = s["local"], s["wide"]
    local = Block(Attention(heads, window=patch + 1), SwiGLU(block_width(width)))
    model = LM(
        codec=Bytes(split=Fixed(patch)),
        embed=Embed(width=width),
        trunk=Hierarchy(
            encoder=Lookup(Embed(width=wide // patch)),
            segmenter=Level(1),
            pool=Concat(patch),
            backbone=Stack(wide_depth, Block(Attention(wide_heads), SwiGLU(block_width(wide))), remat=s["remat"]),
            unpool=Split(patch),
            decoder=Stack(depth, local, per_chunk=True, remat=s["remat"]),
            capacity=length // patch + 1,
            skip_input=True,
        ),
        heads=Heads(),
    )
    return on_moby(model, length, s["rows"], s["steps"], s["peak"])
