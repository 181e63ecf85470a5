"""TFree-HAT: the architecture of Aleph Alpha's released byte models, not that of the HAT paper.

Bytes are read and written by causal stacks over the whole text, a learned query pools each word of
the hat splitter, and the newest complete word's vector is added in every layer of the decoder. The
idea, a diagram and what differs: hlm/papers/tfree_hat.py (the HAT paper's: configs/hat.py).

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only tfree_hat:tiny    -> 2.854

`7b` is trained on text of yours (configs/common.py), as it is on v5p:8x8x4 (docs/scaling.md). Of
the released model, another paper (Bolmo) reports 71.3, the average of its GenQA tasks.

    python train.py configs/tfree_hat.py:7b --workdir gs://... data.source=...

`7b` is reconstructed from its published parameter counts; rows, steps and learning rates are ours.
"""

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
    split,
    tfree_hat,
    unpool,
)

# bytes: width, depth of the encoder and of the decoder, feed-forward width, window
# words: width, depth, key-value heads, feed-forward width; head: width of all heads
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        run=on_moby,
        bytes=(128, 1, 1, block_width(128), 128),
        words=(256, 4, 2, block_width(256)),
        head=32,
        longest=32,
        length=512,
        room=192,
        rows=2,
        steps=1700,
        peak=2e-3,
        remat=False,
    ),
    "7b": dict(
        run=published,
        bytes=(1024, 6, 4, 2816, 768),
        words=(4096, 32, 8, 14336),
        head=128,
        longest=100,
        length=16384,
        room=3072,  # of 3,018 that Moby-Dick has in a row, and 2,744 that speeches have
        rows=1024,
        steps=250_000,
        peak=3e-4,
        remat=True,
    ),
}


def model(size: str) -> LM:
    s = SIZES[size]
    width, encoder, decoder, near, window = s["bytes"]
    above, depth, kv_heads, far = s["words"]
    head, remat, rope = s["head"], s["remat"], Rope(500_000.0)
    heads, above_heads = width // head, above // head

    def block() -> Block:
        return Block(Attention(heads, window=window, rope=rope), SwiGLU(near))

    word_block = Block(Attention(above_heads, kv_heads=kv_heads, rope=rope), SwiGLU(far))
    guided = tfree_hat.SingleKeyCrossAttention(heads, head, block(), RMSNorm())
    return LM(
        codec=Bytes(split=split.HatSplitter(longest=s["longest"])),
        embed=Embed(width, std=width**-0.5),
        trunk=Hierarchy(
            encoder=Stack(encoder, block(), remat=remat),
            segmenter=tfree_hat.LateWords(),
            pool=tfree_hat.LatentQuery(above, above_heads, head),
            backbone=Stack(depth, word_block, remat=remat),
            unpool=unpool.Keep(),
            decoder=Stack(decoder, guided, remat=remat),
            capacity=s["room"],
            guide=tfree_hat.NewestChunk(),
        ),
        heads=Heads(),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
