"""MegaByte: patches of a fixed number of bytes (Yu et al. 2023, arXiv 2305.07185).

A global model reads patches, the embeddings of their bytes side by side; a local model writes each
next patch from a slot of its output for each byte. The idea, a diagram and what differs:
hlm/papers/megabyte.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only megabyte:tiny           -> 2.691
    python benchmarks/quality.py runs/quality --only megabyte:tiny_pads      -> 2.890
    python benchmarks/quality.py runs/quality --only megabyte:tiny_starts    -> 2.783

Published sizes are trained on text of yours (configs/common.py), as they are `1.3b` on v5e:4x8 and
`readme` on v5e:2x4 (docs/scaling.md); no result of the paper is at hand.

    python train.py configs/megabyte.py:1.3b --workdir gs://... data.source=...

There is no code of the authors. `tiny`, `peer` (for benchmarks/train_speed.py) and `1.3b` are the
paper's model, with Llama's blocks; `tiny_pads` is that of SpaceByte's authors; `tiny_starts` and
`readme` are that of MEGABYTE-pytorch, whose readme has the latter size.
"""

import functools
from typing import Any

from configs.common import block_width, on_moby, published
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

Shape = tuple[int, int, int]  # width, heads, depth


def paper(patch: int, length: int, local: Shape, wide: Shape, remat: bool) -> LM:
    (width, heads, depth), (wide_width, wide_heads, wide_depth) = local, wide
    block = Block(Attention(heads, window=patch + 1), SwiGLU(block_width(width)))
    wide_block = Block(Attention(wide_heads), SwiGLU(block_width(wide_width)))
    return LM(
        codec=Bytes(split=split.Fixed(patch)),
        embed=Embed(width=width),
        trunk=Hierarchy(
            encoder=megabyte.Lookup(Embed(width=wide_width // patch)),
            segmenter=Level(1),
            pool=megabyte.Concat(patch),
            backbone=Stack(wide_depth, wide_block, remat=remat),
            unpool=megabyte.Split(patch),
            decoder=Stack(depth, block, per_chunk=True, remat=remat),
            capacity=length // patch + 1,
            skip_input=True,
        ),
        heads=Heads(),
    )


def pads(patch: int, length: int, local: Shape, wide: Shape, remat: bool) -> LM:
    (width, heads, depth), (wide_width, wide_heads, wide_depth) = local, wide
    norm = LayerNorm(bias=False)

    def block(width: int, heads: int, window: int | None = None) -> Block:
        attention = Attention(heads, window=window, qk_norm=norm)
        return Block(attention, feed_forward.MLP(4 * width), norm)

    positions = Positions(length, offset=patch - 1)
    return LM(
        codec=Bytes(split=split.Fixed(patch)),
        embed=Embed(width=width, positions=Positions(patch)),
        trunk=Hierarchy(
            encoder=megabyte.Lookup(Embed(width=wide_width // patch, positions=positions)),
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


def starts(patch: int, length: int, local: Shape, wide: Shape, remat: bool) -> LM:
    (width, heads, depth), (wide_width, wide_heads, wide_depth) = local, wide
    capacity, norm = length // patch + 1, LayerNorm()

    def stack(depth: int, width: int, heads: int, window: int | None = None) -> Stack:
        attention = Attention(heads, head_dim=64, window=window, rope=None)
        block = megabyte.ShiftBlock(attention, feed_forward.GELU(4 * width))
        return Stack(depth, block, per_chunk=window is not None, norm=RMSNorm(), remat=remat)

    decoder = stack(depth, width, heads, window=patch + 1)
    return LM(
        codec=Bytes(split=split.Fixed(patch)),
        embed=Embed(width=width),
        trunk=Hierarchy(
            encoder=megabyte.Lookup(Embed(width=width)),
            segmenter=segment.SeenLater(Level(1)),
            pool=megabyte.Concat(patch, width=wide_width, norm=norm, norm_out=norm, null=True),
            backbone=stack(wide_depth, wide_width, wide_heads),
            unpool=megabyte.Unfold(patch),
            decoder=megabyte.StartTokens(decoder, starts=capacity),
            capacity=capacity,
            skip_input=True,
        ),
        heads=Heads(bias=True),
        norm=None,
    )


TINY: dict[str, Any] = dict(
    run=on_moby,
    model=paper,
    patch=4,
    local=(128, 2, 2),
    wide=(256, 4, 3),
    length=512,
    rows=2,
    steps=1700,
    peak=4e-3,
    remat=False,
)
LARGE: dict[str, Any] = dict(run=published, steps=100_000, peak=2e-4, remat=True)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_pads": TINY | dict(model=pads),
    "tiny_starts": TINY | dict(model=starts, peak=2e-3),
    "peer": TINY | dict(wide=(256, 4, 4), rows=8, steps=1000, peak=1e-3),
    "1.3b": LARGE
    | dict(
        run=functools.partial(published, accumulate=3),
        model=paper,
        patch=8,
        local=(1024, 16, 24),
        wide=(2048, 16, 24),
        length=8192,
        rows=96,
    ),
    "readme": LARGE
    | dict(
        model=starts,
        patch=4,
        local=(256, 8, 4),
        wide=(512, 8, 6),
        length=4096,
        rows=16,
    ),
}


def config(size: str):
    s = SIZES[size]
    model = s["model"](s["patch"], s["length"], s["local"], s["wide"], s["remat"])
    return s["run"](model, s["length"], s["rows"], s["steps"], s["peak"])
