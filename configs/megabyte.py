"""MegaByte: patches of a fixed number of bytes (Yu et al. 2023, arXiv 2305.07185).

    python train.py configs/megabyte.py:tiny --workdir runs/megabyte
    python train.py configs/megabyte.py:tiny_pads --workdir runs/megabyte-pads

The global model reads patches of concatenated byte embeddings; the local model writes the next patch from the slots of its output and
the bytes of that patch so far. `tiny` and the paper's sizes have Llama blocks. There is no code of the authors; two others' are here
as well: `pads`, that of SpaceByte (learned positions, a learned vector for the first patch) and `starts`, MEGABYTE-pytorch (token
shift, and a learned start element before every patch, so that a patch's last byte is what predicts the first of the next).
"""

from typing import Any

from configs.common import block_width, on_moby
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
    RMSNorm,
    Stack,
    SwiGLU,
    feed_forward,
    megabyte,
    segment,
    split,
)


def paper(patch: int, length: int, local: tuple[int, int, int], wide: tuple[int, int, int], remat: bool) -> LM:
    (width, heads, depth), (wide_width, wide_heads, wide_depth) = local, wide
    block = Block(Attention(heads, window=patch + 1), SwiGLU(block_width(width)))
    return LM(
        codec=Bytes(split=split.Fixed(patch)),
        embed=Embed(width=width),
        trunk=Hierarchy(
            encoder=megabyte.Lookup(Embed(width=wide_width // patch)),
            segmenter=Level(1),
            pool=megabyte.Concat(patch),
            backbone=Stack(wide_depth, Block(Attention(wide_heads), SwiGLU(block_width(wide_width))), remat=remat),
            unpool=megabyte.Split(patch),
            decoder=Stack(depth, block, per_chunk=True, remat=remat),
            capacity=length // patch + 1,
            skip_input=True,
        ),
        heads=Heads(),
    )


def pads(patch: int, length: int, local: tuple[int, int, int], wide: tuple[int, int, int], remat: bool) -> LM:
    (width, heads, depth), (wide_width, wide_heads, wide_depth) = local, wide
    norm = LayerNorm(bias=False)

    def block(width: int, heads: int, window: int | None = None) -> Block:
        return Block(Attention(heads, window=window, qk_norm=norm), feed_forward.MLP(4 * width), norm)

    return LM(
        codec=Bytes(split=split.Fixed(patch)),
        embed=Embed(width=width, positions=Positions(patch)),
        trunk=Hierarchy(
            encoder=megabyte.Lookup(Embed(width=wide_width // patch, positions=Positions(length, offset=patch - 1))),
            segmenter=Level(1),
            pool=megabyte.Concat(patch, null=True),
            backbone=Stack(wide_depth, block(wide_width, wide_heads), remat=remat),
            unpool=megabyte.Split(patch),
            decoder=Stack(depth, block(width, heads, patch), per_chunk=True, remat=remat),
            capacity=length // patch + 1,
            skip_input=True,
        ),
        norm=norm,
    )


def starts(patch: int, length: int, local: tuple[int, int, int], wide: tuple[int, int, int], remat: bool) -> LM:
    (width, heads, depth), (wide_width, wide_heads, wide_depth) = local, wide
    capacity = length // patch + 1

    def stack(depth: int, width: int, heads: int, window: int | None = None) -> Stack:
        attention = Attention(heads, head_dim=64, window=window, rope=None)
        block = megabyte.ShiftBlock(attention, feed_forward.GELU(4 * width))
        return Stack(depth, block, per_chunk=window is not None, norm=RMSNorm(), remat=remat)

    return LM(
        codec=Bytes(split=split.Fixed(patch)),
        embed=Embed(width=width),
        trunk=Hierarchy(
            encoder=megabyte.Lookup(Embed(width=width)),
            segmenter=segment.SeenLater(Level(1)),
            pool=megabyte.Concat(patch, width=wide_width, norm=LayerNorm(), norm_out=LayerNorm(), null=True),
            backbone=stack(wide_depth, wide_width, wide_heads),
            unpool=megabyte.Unfold(patch),
            decoder=megabyte.StartTokens(stack(depth, width, heads, window=patch + 1), starts=capacity),
            capacity=capacity,
            skip_input=True,
        ),
        heads=Heads(bias=True),
        norm=None,
    )


TINY: dict[str, Any] = dict(patch=4, local=(128, 2, 2), wide=(256, 4, 3), length=512, rows=2, steps=1700, peak=4e-3, remat=False)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY | dict(model=paper),
    "tiny_pads": TINY | dict(model=pads),
    "tiny_starts": TINY | dict(model=starts, peak=2e-3),
    "peer": TINY | dict(model=paper, wide=(256, 4, 4), rows=8, steps=1000, peak=1e-3),
    "1.3b": dict(
        model=paper,
        patch=8,
        local=(1024, 16, 24),
        wide=(2048, 16, 24),
        length=8192,
        rows=96,
        steps=100_000,
        peak=2e-4,
        remat=True,
    ),
    # the readme of MEGABYTE-pytorch
    "readme": dict(
        model=starts, patch=4, local=(256, 8, 4), wide=(512, 8, 6), length=4096, rows=16, steps=100_000, peak=2e-4, remat=True
    ),
}


def config(size: str):
    s = SIZES[size]
    model = s["model"](s["patch"], s["length"], s["local"], s["wide"], s["remat"])
    return on_moby(model, s["length"], s["rows"], s["steps"], s["peak"])
