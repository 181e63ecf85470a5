"""BLT: byte latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871), as released: chunks end where the next byte is hard to guess.

A small frozen language model inside judges that. It is trained first, and its threshold is fitted to a wanted size of chunks:

    python train.py configs/blt.py:entropy-tiny --workdir runs/entropy
    python -c "import hlm; print(hlm.fit_threshold(hlm.load('runs/entropy'), open('valid.txt', 'rb').read(), 4.5))"     # say, 1.9
    python train.py configs/blt.py:tiny --workdir runs/blt --init-from trunk/segmenter/frozen=runs/entropy \\
        model.trunk.segmenter.threshold=1.9

`1b` and `7b` have the released threshold, which cuts ordinary text into chunks of one or two bytes; `elements_per_chunk` is logged.
"""

from typing import Any

from configs.common import block_width, on_moby
from hlm import LM, Attention, Block, Bytes, Embed, Heads, Hierarchy, RMSNorm, Rope, Stack, SwiGLU, blt, split, unpool
from hlm.nn.cross import CrossAttentionBlock

# width, depth, heads, window
JUDGES: dict[str, tuple[int, int, int, int]] = {"tiny": (64, 2, 2, 64), "large": (768, 14, 12, 512)}
# bytes: width, encoder depth, decoder depth, heads, window; chunks: width, depth, heads; k vectors pass between them (published
# widths and depths; rows, steps and rates are ours)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        bytes=(128, 1, 1, 4, 128),
        chunks=(256, 3, 4),
        k=2,
        ngrams=(3, 4, 5, 6),
        buckets=5003,
        judge="tiny",
        threshold=2.5,  # to be fitted, as above
        length=512,
        room=192,
        rows=2,
        steps=1700,
        peak=2e-3,
        remat=False,
    ),
    "1b": dict(
        bytes=(1024, 1, 9, 16, 512),
        chunks=(2048, 25, 16),
        k=2,
        ngrams=(3, 4, 5, 6, 7, 8),
        buckets=500_002,
        judge="large",
        threshold=1.335442066192627,
        length=16384,
        room=8192,
        rows=1024,
        steps=60_000,
        peak=4e-4,
        remat=True,
    ),
    "7b": dict(
        bytes=(1280, 1, 6, 20, 512),
        chunks=(4096, 32, 32),
        k=4,
        ngrams=(3, 4, 5, 6, 7, 8),
        buckets=500_002,
        judge="large",
        threshold=1.335442066192627,
        length=16384,
        room=8192,
        rows=1024,
        steps=280_000,
        peak=4e-4,
        remat=True,
    ),
    "entropy-tiny": dict(judge="tiny", length=512, rows=8, steps=1000, peak=3e-3),
    "entropy": dict(judge="large", length=8192, rows=256, steps=100_000, peak=4e-4),
}


def block(width: int, heads: int, window: int | None, theta: float = 500_000.0) -> Block:
    return Block(Attention(heads, window=window, rope=Rope(theta)), SwiGLU(block_width(width, 64 if width < 512 else 256)))


def judge(name: str) -> LM:
    width, depth, heads, window = JUDGES[name]
    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=Embed(width, std=width**-0.5),
        trunk=Stack(depth, block(width, heads, window, theta=10_000.0)),
        heads=Heads(),
    )


def model(size: str) -> LM:
    s = SIZES[size]
    if "bytes" not in s:
        return judge(s["judge"])
    width, encoder, decoder, heads, window = s["bytes"]
    above, depth, above_heads = s["chunks"]

    def near() -> Block:
        return block(width, heads, window)

    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=blt.NgramEmbed(width, ngrams=s["ngrams"], buckets=s["buckets"], std=width**-0.5),
        trunk=Hierarchy(
            encoder=Stack(encoder, near(), remat=s["remat"]),
            segmenter=blt.Entropy(judge(s["judge"]), s["threshold"]),
            pool=blt.CrossAttentionPool(
                s["k"], heads, width=None if s["k"] * width == above else above, norm=RMSNorm(), residuals=2
            ),
            backbone=Stack(depth, block(above, above_heads, None), remat=s["remat"]),
            unpool=unpool.Keep(),
            decoder=Stack(decoder, CrossAttentionBlock(heads, near(), norm=RMSNorm(), residuals=2), remat=s["remat"]),
            capacity=s["room"],
            guide=blt.ChunkMemory(s["k"], width),
        ),
        heads=Heads(),
    )


def config(size: str):
    s = SIZES[size]
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"])
