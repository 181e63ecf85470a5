"""Learn Your Tokens: words of several vectors (Thawani et al. 2023, arXiv 2310.11628).

    python train.py configs/lyt.py:tiny --workdir runs/lyt
    python train.py configs/lyt.py:39m --workdir runs/lyt-39m

A word is what stands between two spaces. A both-ways encoder reads it, four learned queries pool it into four vectors, which are four
elements of a causal backbone; the four that come out stand before the next word, and a causal decoder writes it from them, up to its
space. `39m` has the widths, depths and rates of the released code, with bytes as base units; its parameters are counted here, since the
paper's tables of sizes are for subwords. Different: the queries read the encoder's output in place of running through it, and a word's
space takes the place of the padding that stops it.
"""

from typing import Any

from configs.common import on_moby
from hlm import (
    LM,
    AdamW,
    Attention,
    Block,
    Bytes,
    Embed,
    Heads,
    Hierarchy,
    LayerNorm,
    Level,
    Positions,
    PostNormBlock,
    Stack,
    WordPositions,
    blt,
    feed_forward,
    lyt,
    pool,
    schedule,
    split,
    unpool,
)

# heads: of the encoder, of the backbone and the decoder; depths: of the three; longest: bytes of a word that have positions of their own
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(width=128, heads=(4, 4), depths=(1, 2, 2), longest=24, length=512, words=144, rows=2, steps=1700, peak=2e-3),
    "39m": dict(width=512, heads=(4, 8), depths=(2, 8, 2), longest=64, length=1152, words=193, rows=2, steps=100_000, peak=1e-4),
}
VECTORS = 4  # of a word


def model(size: str) -> LM:
    s = SIZES[size]
    width, longest = s["width"], s["longest"]
    (reading, writing), (before, inside, behind) = s["heads"], s["depths"]
    reader = PostNormBlock(Attention(reading, window=longest, causal=False, rope=None), feed_forward.MLP(4 * width))

    def block(window: int | None = None) -> Block:
        return Block(Attention(writing, window=window, rope=None), feed_forward.GELU(4 * width), LayerNorm())

    places = Positions(VECTORS * s["words"], std=0.02)
    return LM(
        codec=Bytes(split=split.After((32,))),
        embed=Embed(width, std=0.02, positions=WordPositions(longest, std=0.02)),
        trunk=Hierarchy(
            encoder=Stack(before, reader, per_chunk=True),
            segmenter=Level(1),
            pool=pool.Attend(None, queries=VECTORS, heads=reading),
            backbone=lyt.MultiVectorBackbone(Stack(inside, block(), norm=LayerNorm(), positions=places), VECTORS),
            unpool=unpool.Keep(),
            decoder=lyt.PrefixVectors(Stack(behind, block(window=longest + VECTORS), per_chunk=True)),
            capacity=s["words"],
            skip_input=True,
            guide=blt.ChunkMemory(VECTORS, None),
        ),
        heads=Heads(std=0.02),
        norm=LayerNorm(),
    )


def config(size: str):
    s = SIZES[size]
    released = AdamW(peak=s["peak"], warmup=0, decay=schedule.Linear(final=1.0), b2=0.95)
    changes = {} if size.startswith("tiny") else dict(optim=released)
    return on_moby(model(size), s["length"], s["rows"], s["steps"], s["peak"], **changes)
