"""H-Net: dynamic chunking, learned end to end in one or two stages (Hwang et al. 2025, 2507.07955).

A routing module cuts where a byte's vector differs from the one before, and a ratio loss holds the
mean chunk near `target` bytes. The idea, a diagram and what differs: hlm/papers/hnet.py.

Bits per byte of Moby-Dick's test chapters after 3e12 training FLOPs, one seed (docs/results.md):

    python benchmarks/quality.py runs/quality --only hnet:tiny        -> 3.043
    python benchmarks/quality.py runs/quality --only hnet:tiny_ssm    -> 2.646 (after 71 % of them)
    python benchmarks/quality.py runs/quality --only hnet:tiny2       -> 2.542

Published sizes are trained on text of yours (configs/common.py); no result of the paper is at hand.

    python train.py configs/hnet.py:2stage_XL --workdir gs://... data.source=...

`tiny` has attention outside, `tiny_ssm` Mamba-2 as published, `tiny2` two stages. `1stage_L`,
`1stage_XL`, `2stage_L`, `2stage_XL`: the paper's stages, with the learning rates of its XL models,
for v5e:16x16 as they are (docs/scaling.md).
`peer` and `peer_ssm` are for benchmarks/train_speed.py. Watch `overflow`: an untrained router cuts
at every second byte, and ends beyond the room for chunks (in published sizes 1.15 times the target)
are dropped until the loss has brought it down.
"""

import dataclasses
import itertools
import re
from typing import Any

from configs.common import on_moby, published
from hlm import (
    LM,
    Attention,
    Block,
    Bytes,
    Chain,
    Embed,
    Heads,
    Hierarchy,
    Mamba2,
    RMSNorm,
    Rope,
    Stack,
    SwiGLU,
    hnet,
    split,
)
from hlm.config import replace
from hlm.nn.basic import Normal


@dataclasses.dataclass(frozen=True)
class Stage:
    encoder: str  # such as T1m4: m is Mamba-2, t attention; a capital has a feed-forward layer too
    decoder: str  # empty for the innermost stage
    width: int
    feed_forward: int
    rate: float  # multiplies the learning rate


TINY: dict[str, Any] = dict(
    run=on_moby,
    heads=(4, 4, 4),
    state=64,
    window=128,
    target=6.0,
    rows=2,
    steps=1700,
    peak=3e-3,
    remat=False,
)
PEER: dict[str, Any] = TINY | dict(heads=(2, 4), elements=(512, 128), rows=8, steps=1000, peak=1e-3)
PAPER: dict[str, Any] = dict(
    run=published,
    heads=(16, 16, 16),
    state=128,
    window=1024,
    rows=256,
    steps=48_000,
    remat=True,
)
ONE_STAGE: dict[str, Any] = PAPER | dict(target=6.0, elements=(8192, 1568))
TWO_STAGES: dict[str, Any] = PAPER | dict(target=3.0, elements=(8192, 3136, 1056))
OUTER = Stage("m4", "m4", 1024, 0, 3.0)  # of all published sizes

# heads of attention and elements per row at each stage; target: elements in a chunk
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY
    | dict(
        stages=[Stage("T1", "T1", 128, 384, 2.0), Stage("T4", "", 256, 768, 1.0)],
        elements=(512, 224),
    ),
    "tiny_ssm": TINY
    | dict(
        stages=[Stage("m1", "m1", 128, 0, 2.0), Stage("T5", "", 256, 768, 1.0)],
        elements=(512, 224),
    ),
    "tiny2": TINY
    | dict(
        stages=[
            Stage("m1", "m1", 128, 0, 3.0),
            Stage("T1m1", "m1T1", 128, 384, 1.5),
            Stage("T4", "", 256, 768, 1.0),
        ],
        state=32,
        target=3.0,
        elements=(512, 288, 160),
    ),
    "peer": PEER
    | dict(
        stages=[Stage("T1", "T1", 128, 384, 1.0), Stage("T4", "", 256, 704, 1.0)],
    ),
    "peer_ssm": PEER
    | dict(
        stages=[Stage("m1", "m1", 128, 0, 1.0), Stage("T4", "", 256, 704, 1.0)],
    ),
    "1stage_L": ONE_STAGE | dict(stages=[OUTER, Stage("T22", "", 1536, 4096, 0.9)], peak=6.25e-4),
    "1stage_XL": ONE_STAGE | dict(stages=[OUTER, Stage("T24", "", 2048, 5504, 0.9)], peak=5e-4),
    "2stage_L": TWO_STAGES
    | dict(
        stages=[
            OUTER,
            Stage("T1m4", "m4T1", 1024, 2816, 1.7),
            Stage("T26", "", 1536, 4096, 0.9),
        ],
        peak=6.25e-4,
    ),
    "2stage_XL": TWO_STAGES
    | dict(
        stages=[
            OUTER,
            Stage("T1m4", "m4T1", 1536, 4096, 1.7),
            Stage("T27", "", 2048, 5504, 0.9),
        ],
        peak=5e-4,
    ),
}
# of initial matrices; those that write into the residual stream divide it by the root of the number
# of writes
STD = 0.02


def runs(layout: str) -> list[tuple[str, int]]:
    """T1m4 -> [("T", 1), ("m", 4)]."""
    return [(letter, int(depth)) for letter, depth in re.findall(r"([mMtT])(\d+)", layout)]


def writes(layout: str) -> int:
    """How often a stack adds to its residual stream."""
    return sum(depth * (2 if letter.isupper() else 1) for letter, depth in runs(layout))


def trunk(s: dict[str, Any], level: int = 0, above: int = 0) -> Stack | Chain | Hierarchy:
    """Stage `level` and those inside it; `above`: writes of the stages outside."""
    stage, last = s["stages"][level], level == len(s["stages"]) - 1
    total = above + writes(stage.encoder) + writes(stage.decoder)
    initial = Normal(STD, STD * total**-0.5)

    def block(letter: str) -> Block:
        if letter in "mM":
            mixer = Mamba2(state=s["state"], initial=initial)
        else:
            heads = s["heads"][level]
            rope = Rope(dims=stage.width // heads // 2)
            window = None if last else s["window"]
            mixer = Attention(heads, window=window, rope=rope, initial=initial)
        mlp = SwiGLU(stage.feed_forward, initial=initial) if letter.isupper() else None
        return Block(mixer, mlp)

    def stack(layout: str) -> Stack | Chain:
        stacks = [Stack(n, block(letter), remat=s["remat"]) for letter, n in runs(layout)]
        if len(stacks) > 1:
            return Chain(tuple(stacks), norm=RMSNorm())
        return replace(stacks[0], norm=RMSNorm())

    if last:
        return stack(stage.encoder)
    return Hierarchy(
        encoder=stack(stage.encoder),
        segmenter=hnet.Router(target=s["target"]),
        pool=hnet.Widen(s["stages"][level + 1].width),
        backbone=trunk(s, level + 1, total),
        unpool=hnet.Smooth(),
        decoder=stack(stage.decoder),
        capacity=s["elements"][level + 1],
    )


def multipliers(stages: list[Stage]) -> dict[str, float]:
    """Learning rate of each stage; what widens a vector belongs to the stage inside."""
    rates = {"embed": stages[0].rate, "heads": stages[0].rate, "trunk": stages[0].rate}
    path = "trunk"
    for outer, inner in itertools.pairwise(stages):
        if inner.width > outer.width:
            rates[f"{path}/pool"] = inner.rate
        path += "/backbone"
        rates[path] = inner.rate
    return rates


def config(size: str):
    s = SIZES[size]
    model = LM(
        codec=Bytes(split=split.Unsplit()),
        embed=Embed(width=s["stages"][0].width),
        trunk=trunk(s),
        heads=Heads(std=STD),
        norm=None,  # the outermost decoder ends with one
    )
    exp = s["run"](model, s["elements"][0], s["rows"], s["steps"], s["peak"])
    return replace(exp, optim=replace(exp.optim, multipliers=multipliers(s["stages"])))
