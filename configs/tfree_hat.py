"""TFree-HAT: the architecture of Aleph Alpha's released byte models, which is not that of the HAT paper (configs/hat.py).

    python train.py configs/tfree_hat.py:tiny --workdir runs/tfree_hat
    python train.py configs/tfree_hat.py:7b --workdir gs://...

Bytes are read and written by causal stacks over the whole text; a learned query pools each word of the hat splitter; the backbone's
vector of the last complete word is added in every layer of the decoder.
"""

from typing import Any

from configs.common import block_width, on_moby
from hlm import LM, Attention, Block, Bytes, Embed, Heads, Hierarchy, RMSNorm, Rope, Stack, SwiGLU, split, tfree_hat, unpool

# bytes: width, depth of the encoder and of the decoder, feed-forward width, window; words: width, depth, key-value heads, feed-forward
# width; head: width of all heads. The 7b's are reconstructed from its published parameter counts; rows, steps and rates are ours.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
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
        bytes=(1024, 6, 4, 2816, 768),
        words=(4096, 32, 8, 14336),
        head=128,
        longest=100,
        length=16384,
        room=4096,
        rows=1024,
        steps=250_000,
        peak=3e-4,
        remat=True,
    ),
}


def config(size: str):
    s = SIZES[size]
    width, encoder, decoder, near, window = s["bytes"]
    above, depth, kv_heads, far = s["words"]

    def block() -> Block:
        return Block(Attention(width // s["head"], window=window, rope=Rope(500_000.0)), SwiGLU(near))

    model = LM(
        codec=Bytes(split=split.HatSplitter(longest=s["longest"])),
        embed=Embed(width, std=width**-0.5),
        trunk=Hierarchy(
            encoder=Stack(encoder, block(), remat=s["remat"]),
            segmenter=tfree_hat.LateWords(),
            pool=tfree_hat.LatentQuery(above, above // s["head"], s["head"]),
            backbone=Stack(
                depth, Block(Attention(above // s["head"], kv_heads=kv_heads, rope=Rope(500_000.0)), SwiGLU(far)), remat=s["remat"]
            ),
            unpool=unpool.Keep(),
            decoder=Stack(
                decoder, tfree_hat.SingleKeyCrossAttention(width // s["head"], s["head"], block(), RMSNorm()), remat=s["remat"]
            ),
            capacity=s["room"],
            guide=tfree_hat.NewestChunk(),
        ),
        heads=Heads(),
    )
    return on_moby(model, s["length"], s["rows"], s["steps"], s["peak"])
