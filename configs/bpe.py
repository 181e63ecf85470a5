"""BPE: one Transformer over subwords; the baseline with a tokenizer.

Subwords come from byte-level byte-pair encoding, in `tiny_unigram` from a unigram model; and
`moby_dropout` is `tiny` trained with BPE-dropout. Bits per byte count the bytes that each subword
stands for.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only bpe:tiny            -> 2.262
    python benchmarks/quality.py runs/quality --only bpe:tiny_unigram    -> 2.266

Subwords are learned from Moby-Dick when the config is loaded, for all sizes, and kept inside the
checkpoint. For another text learn them from it, in Python, and hand them over by a file:

    codec = hlm.BPE.train(texts, 2048)
    open("codec.json", "w").write(json.dumps(hlm.registry.to_json(codec)))
    python train.py configs/bpe.py:tiny --workdir runs/bpe data.source=... model.codec=@codec.json

`1b`, `3b` and `7b` are the baselines of the HAT paper (configs/hat.py), trained on DCLM-Baseline;
words that are right as a whole, there: 35.3 %, 37.7 % and 39.2 %. As they are, `1b` is for
v5e:16x16, `3b` and `7b` for v5p:8x8x4 (docs/scaling.md).
"""

import dataclasses
import functools
from typing import Any

from configs.common import MOBY, block_width, on_moby, published
from hlm import BPE, LM, Attention, Block, Embed, Heads, Stack, SwiGLU, Unigram
from hlm.data.pipeline import documents

PAPER: dict[str, Any] = dict(
    run=published,
    vocabulary=65536,
    length=3584,
    rows=1024,
    steps=72_000,
    remat=True,
)
TINY: dict[str, Any] = dict(
    run=on_moby,
    width=256,
    heads=4,
    depth=4,
    vocabulary=2048,
    length=160,
    rows=2,
    steps=1700,
    peak=4e-3,
    remat=False,
)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_unigram": TINY | dict(subwords=Unigram),
    "moby_dropout": TINY | dict(dropout=0.1),
    "1b": PAPER
    | dict(
        run=functools.partial(published, accumulate=2),
        width=2048,
        heads=16,
        depth=16,
        peak=6e-4,
    ),
    "3b": PAPER | dict(width=3072, heads=24, depth=24, peak=4e-4),
    "7b": PAPER | dict(width=4096, heads=32, depth=32, peak=3e-4),
}


@functools.cache
def tokenizer(size: int, subwords: type[BPE] = BPE) -> BPE:
    return subwords.train([text for _, text in documents(MOBY["train"])], size)


def config(size: str):
    s = SIZES[size]
    block = Block(Attention(s["heads"]), SwiGLU(block_width(s["width"])))
    codec = tokenizer(s["vocabulary"], s.get("subwords", BPE))
    model = LM(
        codec=dataclasses.replace(codec, dropout=s["dropout"]) if "dropout" in s else codec,
        embed=Embed(width=s["width"], size=s["vocabulary"]),
        trunk=Stack(s["depth"], block, remat=s["remat"]),
        heads=Heads(block=512 if s["vocabulary"] > 10_000 else None),
    )
    return s["run"](model, s["length"], s["rows"], s["steps"], s["peak"])
