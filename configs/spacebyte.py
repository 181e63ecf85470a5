"""SpaceByte: global blocks after each space-like byte only (Slagle 2024, arXiv 2404.14408).

Local blocks before and after the global ones share a residual stream of bytes: the global model's
input is the local vector padded to its width, and its output is added back at the same bytes.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only spacebyte:tiny              -> 2.778
    python benchmarks/quality.py runs/quality --only spacebyte:tiny_positions    -> 2.929

`1b` is trained on text of yours (configs/common.py), as it is on v5e:8x8 (docs/scaling.md); no
result of the paper is at hand.

    python train.py configs/spacebyte.py:1b --workdir gs://... data.source=...

`tiny_positions` is `tiny` as in the released code, with learned positions of bytes and chunks, and
so is `1b`. `peer` is for benchmarks/train_speed.py.
"""

from typing import Any

from configs.common import on_moby, published
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

# local (half before, half after) and wide (global) blocks: width, heads (64 wide in the paper),
# depth
TINY: dict[str, Any] = dict(
    run=on_moby,
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
)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_positions": TINY | dict(positions=True),
    "peer": TINY | dict(chunks=128, rows=8, steps=1000, peak=1e-3),
    "1b": dict(
        run=published,
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


def model(size: str) -> LM:
    s = SIZES[size]
    (width, heads, depth), (wide, wide_heads, wide_depth) = s["local"], s["wide"]
    norm = LayerNorm(bias=False)

    def positions(length: int) -> Positions | None:
        return Positions(length) if s["positions"] else None

    def block(width: int, heads: int, window: int | None = None) -> Block:
        attention = Attention(heads, window=window, qk_norm=norm)
        return Block(attention, feed_forward.MLP(4 * width), norm)

    def local() -> Stack:
        return Stack(depth // 2, block(width, heads, s["window"]), remat=s["remat"])

    return LM(
        codec=Bytes(split=split.SpaceLike(longest=s["window"])),
        embed=Embed(width=width, positions=positions(s["length"])),
        trunk=Hierarchy(
            encoder=local(),
            segmenter=Level(1),
            pool=pool.Select(wide, project=False),
            backbone=Stack(
                wide_depth,
                block(wide, wide_heads),
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


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
