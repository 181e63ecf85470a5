"""SpaceByte: the global model runs after each space-like byte (Slagle 2024, arXiv 2404.14408).

    python train.py configs/spacebyte.py:tiny --workdir runs/spacebyte

`tiny_positions` is `tiny` as in the released code, with learned positions of bytes and chunks, which the published sizes have too.
Local blocks before and after the global ones share a residual stream: the global model's input is the local vector padded to its
width, its output is added back at the same bytes only.
"""

from typing import Any

from configs.common import on_moby
from hlm import (
    LM,
    Attention,
    Block,
    Bytes,
    Embed,
    Heads,
    Hierarchy,
    LayerNorm,
    Level,
    Positions,
    Stack,
    feed_forward,
    pool,
    split,
    unpool,
)

# width, heads (64 wide in the paper) and depth of local (half before, half after) and global blocks
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        local=(128, 2, 2),
        wide=(256, 4, 4),
        window=128,
        length=512,
        chunks=144,
        rows=2,
        steps=1700,
        peak=4e-3,
        remat=False,
        positions=False,
    ),
    "peer": dict(
        local=(128, 2, 2),
        wide=(256, 4, 4),
        window=128,
        length=512,
        chunks=128,
        rows=8,
        steps=1000,
        peak=1e-3,
        remat=False,
        positions=False,
    ),
    "1b": dict(
        local=(768, 12, 26),
        wide=(1536, 24, 28),
        window=768,
        length=8192,
        chunks=1344,
        rows=64,
        steps=57_000,
        peak=6e-4,
        remat=True,
        positions=True,
    ),
}

SIZES["tiny_positions"] = SIZES["tiny"] | dict(positions=True)


def config(size: str):
    s = SIZES[size]
    (width, heads, depth), (wide, wide_heads, wide_depth) = s["local"], s["wide"]
    norm = LayerNorm(bias=False)

    def positions(length: int) -> Positions | None:
        return Positions(length) if s["positions"] else None

    def local() -> Stack:
        return Stack(
            depth // 2,
            Block(Attention(heads, window=s["window"], qk_norm=norm), feed_forward.MLP(4 * width), norm),
            remat=s["remat"],
        )

    model = LM(
        codec=Bytes(split=split.SpaceLike(longest=s["window"])),
        embed=Embed(width=width, positions=positions(s["length"])),
        trunk=Hierarchy(
            encoder=local(),
            segmenter=Level(1),
            pool=pool.Select(wide, project=False),
            backbone=Stack(
                wide_depth,
                Block(Attention(wide_heads, qk_norm=norm), feed_forward.MLP(4 * wide), norm),
                remat=s["remat"],
                positions=positions(s["chunks"]),
            ),
            unpool=unpool.Scatter(),
            decoder=local(),
            capacity=s["chunks"],
        ),
        heads=Heads(),
        norm=norm,
    )
    return on_moby(model, s["length"], s["rows"], s["steps"], s["peak"])
