"""BLT: byte latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871), as released.

A patch ends where a small frozen language model finds the next byte hard to guess; cross-attention
pools bytes with their n-grams into patches, and gives patches back to bytes. The idea, a diagram
and what differs: hlm/papers/blt.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md),
the training of the judge included, patches of 6 bytes:

    python benchmarks/quality.py runs/quality --only blt:tiny    -> 2.410

By hand: the judge is trained first, and the threshold of entropy is fitted to a wanted patch size.

    python train.py configs/blt.py:entropy-tiny --workdir runs/entropy
    python -c "import hlm; text = open('valid.txt', 'rb').read()
    print(hlm.fit_threshold(hlm.load('runs/entropy'), text, 4.5))"       # say, 1.9
    python train.py configs/blt.py:tiny --workdir runs/blt \\
        --init-from trunk/segmenter/frozen=runs/entropy model.trunk.segmenter.threshold=1.9

`entropy`, `1b` and `7b` are trained likewise, on text of yours (configs/common.py), as they are
`entropy` on v5e:8x8, `1b` and `7b` on v5p:8x8x4 (docs/scaling.md). `1b` and `7b` have the released
threshold, which cuts ordinary text into patches of one or two bytes (`elements_per_chunk` is
logged), and room for patches of two; with a threshold fitted to 4.5 bytes, give
model.trunk.capacity=4096. Widths and depths are published; rows, steps and learning rates are ours,
and no result of the paper belongs to them.
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
    RMSNorm,
    Rope,
    Stack,
    SwiGLU,
    blt,
    split,
    unpool,
)
from hlm.nn.cross import ChunkMemory, CrossAttentionBlock

# width, depth, heads, window
SMALL_JUDGE, JUDGE = (64, 2, 2, 64), (768, 14, 12, 512)
PAPER: dict[str, Any] = dict(
    run=functools.partial(published, accumulate=4),
    ngrams=(3, 4, 5, 6, 7, 8),
    buckets=500_002,
    judge=JUDGE,
    threshold=1.335442066192627,
    length=16384,
    room=8192,
    rows=1024,
    peak=4e-4,
    remat=True,
)
# bytes: width, encoder depth, decoder depth, heads, window; chunks: width, depth, heads
# k: vectors that pass between them for each patch
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        run=on_moby,
        bytes=(128, 1, 1, 4, 128),
        chunks=(256, 3, 4),
        k=2,
        ngrams=(3, 4, 5, 6),
        buckets=5003,
        judge=SMALL_JUDGE,
        threshold=2.5,  # to be fitted, as above
        length=512,
        room=192,
        rows=2,
        steps=1700,
        peak=2e-3,
        remat=False,
    ),
    "peer": dict(
        run=on_moby,
        bytes=(128, 1, 1, 2, 128),
        chunks=(256, 4, 4),
        k=2,
        ngrams=(3, 4, 5, 6, 7, 8),
        buckets=4099,
        judge=SMALL_JUDGE,
        threshold=2.5,
        length=512,
        room=128,
        rows=8,
        steps=1000,
        peak=1e-3,
        remat=False,
    ),
    "1b": PAPER | dict(bytes=(1024, 1, 9, 16, 512), chunks=(2048, 25, 16), k=2, steps=60_000),
    "7b": PAPER | dict(bytes=(1280, 1, 6, 20, 512), chunks=(4096, 32, 32), k=4, steps=280_000),
    "entropy-tiny": dict(
        run=on_moby,
        judge=SMALL_JUDGE,
        length=512,
        rows=8,
        steps=1000,
        peak=3e-3,
    ),
    "entropy": dict(
        run=functools.partial(published, accumulate=4),
        judge=JUDGE,
        length=8192,
        rows=256,
        steps=100_000,
        peak=4e-4,
    ),
}


def block(width: int, heads: int, window: int | None, theta: float = 500_000.0) -> Block:
    attention = Attention(heads, window=window, rope=Rope(theta))
    return Block(attention, SwiGLU(block_width(width, 64 if width < 512 else 256)))


def judge(width: int, depth: int, heads: int, window: int) -> LM:
    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=Embed(width, std=width**-0.5),
        trunk=Stack(depth, block(width, heads, window, theta=10_000.0)),
        heads=Heads(),
    )


def model(size: str) -> LM:
    s = SIZES[size]
    frozen = judge(*s["judge"])
    if size.startswith("entropy"):
        return frozen
    width, encoder, decoder, heads, window = s["bytes"]
    above, depth, above_heads = s["chunks"]
    k, remat, norm = s["k"], s["remat"], RMSNorm()

    def near() -> Block:
        return block(width, heads, window)

    pooled = None if k * width == above else above
    reading = CrossAttentionBlock(heads, near(), norm=norm, residuals=2)
    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=blt.NgramEmbed(
            width,
            ngrams=s["ngrams"],
            buckets=s["buckets"],
            std=width**-0.5,
        ),
        trunk=Hierarchy(
            encoder=Stack(encoder, near(), remat=remat),
            segmenter=blt.Entropy(frozen, s["threshold"]),
            pool=blt.CrossAttentionPool(k, heads, width=pooled, norm=norm, residuals=2),
            backbone=Stack(depth, block(above, above_heads, None), remat=remat),
            unpool=unpool.Keep(),
            decoder=Stack(decoder, reading, remat=remat),
            capacity=s["room"],
            guide=ChunkMemory(k, width),
        ),
        heads=Heads(),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
