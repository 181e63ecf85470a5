"""Flat bytes: one Transformer over bytes; the baseline without hierarchy.

`tiny_registers` is `tiny` trained by MuToR to look up to four bytes ahead (Gerontopoulos et al.
2025, arXiv 2505.10518). The idea, a diagram and what differs: hlm/papers/mutor.py.

Bits per byte of Moby-Dick's test chapters, one seed (docs/results.md): after 3e12 training FLOPs,

    python benchmarks/quality.py runs/quality --only flat:tiny              -> 2.720
    python benchmarks/quality.py runs/quality --only flat:tiny_registers    -> 3.143

and after all 1,700 steps (`hat:tiny` has 2.08),

    python train.py configs/flat.py:tiny --workdir runs/flat-tiny           -> 2.185

`moby` is trained as `make train` trains its HAT (1.925), with Muon and 2 KB a step:

    python train.py configs/flat.py:moby --workdir runs/flat-moby           -> 2.024

Registers cost more than half of the FLOPs and are there in training only, so that `tiny_registers`
has read 0.4 of the text of `tiny`.

`1b` is no model of a paper, and has no result; as it is, it is for v5e:8x16 (docs/scaling.md).
`peer` is for benchmarks/train_speed.py.
"""

import functools
from typing import Any

from configs.common import block_width, muon, on_moby, published
from hlm import LM, Attention, Block, Bytes, Embed, Heads, Stack, SwiGLU, mutor, split

TINY: dict[str, Any] = dict(
    run=on_moby,
    width=128,
    heads=4,
    depth=4,
    length=512,
    rows=2,
    steps=1700,
    peak=4e-3,
    remat=False,
)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tiny_registers": TINY | dict(objectives=(mutor.Registers(farthest=4),)),
    "moby": TINY
    | dict(run=functools.partial(on_moby, optim=muon(TINY["peak"])), rows=4, steps=1300),
    "peer": TINY | dict(width=256, depth=6, rows=8, steps=1000, peak=1e-3),
    "1b": dict(
        run=published,
        width=2048,
        heads=16,
        depth=24,
        length=8192,
        rows=128,
        steps=100_000,
        peak=6e-4,
        remat=True,
    ),
}


def model(size: str) -> LM:
    s = SIZES[size]
    block = Block(Attention(s["heads"]), SwiGLU(block_width(s["width"])))
    return LM(
        codec=Bytes(split=split.Unsplit()),
        embed=Embed(width=s["width"]),
        trunk=Stack(s["depth"], block, remat=s["remat"]),
        heads=Heads(),
        objectives=s.get("objectives", ()),
    )


def config(size: str):
    s = SIZES[size]
    return s["run"](model(size), s["length"], s["rows"], s["steps"], s["peak"])
