"""H-Net: dynamic chunking learned with the model, in one or two stages (Hwang et al. 2025, arXiv 2507.07955).

    python train.py configs/hnet.py:tiny --workdir runs/hnet            # attention outside
    python train.py configs/hnet.py:tiny_ssm --workdir runs/hnet_ssm    # Mamba-2 outside, as published
    python train.py configs/hnet.py:2stage_XL --workdir gs://...

A router cuts where a byte's vector differs from the one before; a loss keeps the mean chunk near `target` bytes. Watch `overflow`: an
untrained router cuts at every second byte, and ends beyond `chunks` are dropped until the loss has brought it down.
"""

import dataclasses
import itertools
import re
from typing import Any

from configs.common import on_moby
from hlm import LM, Attention, Block, Bytes, Chain, Embed, Heads, Hierarchy, Mamba2, RMSNorm, Rope, Stack, SwiGLU, hnet, split
from hlm.nn.basic import Normal


@dataclasses.dataclass(frozen=True)
class Stage:
    encoder: str  # such as T1m4: m is Mamba-2, t attention, followed by a feed-forward layer where it is a capital
    decoder: str  # empty for the innermost stage
    width: int
    feed_forward: int
    rate: float  # multiplies the learning rate


# elements: per row at each stage; target: elements in a chunk; the stages of L and XL are the paper's, rates those of its XL models
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        stages=[Stage("T1", "T1", 128, 384, 2.0), Stage("T4", "", 256, 768, 1.0)],
        heads=4, state=64, window=128, target=6.0, elements=(512, 224), rows=2, steps=1700, peak=3e-3, remat=False,
    ),
    "tiny_ssm": dict(
        stages=[Stage("m1", "m1", 128, 0, 2.0), Stage("T5", "", 256, 768, 1.0)],
        heads=4, state=64, window=128, target=6.0, elements=(512, 224), rows=2, steps=1700, peak=3e-3, remat=False,
    ),
    "tiny2": dict(
        stages=[Stage("m1", "m1", 128, 0, 3.0), Stage("T1m1", "m1T1", 128, 384, 1.5), Stage("T4", "", 256, 768, 1.0)],
        heads=4, state=32, window=128, target=3.0, elements=(512, 288, 160), rows=2, steps=1700, peak=3e-3, remat=False,
    ),
    "peer": dict(
        stages=[Stage("T1", "T1", 128, 384, 1.0), Stage("T4", "", 256, 768, 1.0)],
        heads=4, state=64, window=128, target=6.0, elements=(512, 128), rows=8, steps=1000, peak=1e-3, remat=True,
    ),
    "peer_ssm": dict(
        stages=[Stage("m1", "m1", 128, 0, 1.0), Stage("T4", "", 256, 768, 1.0)],
        heads=4, state=64, window=128, target=6.0, elements=(512, 128), rows=8, steps=1000, peak=1e-3, remat=True,
    ),
    "1stage_L": dict(
        stages=[Stage("m4", "m4", 1024, 0, 3.0), Stage("T22", "", 1536, 4096, 0.9)],
        heads=16, state=128, window=1024, target=6.0, elements=(8192, 2048), rows=256, steps=48_000, peak=6.25e-4, remat=True,
    ),
    "1stage_XL": dict(
        stages=[Stage("m4", "m4", 1024, 0, 3.0), Stage("T24", "", 2048, 5504, 0.9)],
        heads=16, state=128, window=1024, target=6.0, elements=(8192, 2048), rows=256, steps=48_000, peak=5e-4, remat=True,
    ),
    "2stage_L": dict(
        stages=[Stage("m4", "m4", 1024, 0, 3.0), Stage("T1m4", "m4T1", 1024, 2816, 1.7), Stage("T26", "", 1536, 4096, 0.9)],
        heads=16, state=128, window=1024, target=3.0, elements=(8192, 4096, 1536), rows=256, steps=48_000, peak=6.25e-4, remat=True,
    ),
    "2stage_XL": dict(
        stages=[Stage("m4", "m4", 1024, 0, 3.0), Stage("T1m4", "m4T1", 1536, 4096, 1.7), Stage("T27", "", 2048, 5504, 0.9)],
        heads=16, state=128, window=1024, target=3.0, elements=(8192, 4096, 1536), rows=256, steps=48_000, peak=5e-4, remat=True,
    ),
}  # fmt: skip
STD = 0.02  # of initial matrices; those that write into the residual stream divide it by the root of the number of writes


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
            rope = Rope(dims=stage.width // s["heads"] // 2)
            mixer = Attention(s["heads"], window=None if last else s["window"], rope=rope, initial=initial)
        return Block(mixer, SwiGLU(stage.feed_forward, initial=initial) if letter.isupper() else None)

    def stack(layout: str) -> Stack | Chain:
        first, *more = [Stack(depth, block(letter), remat=s["remat"]) for letter, depth in runs(layout)]
        return Chain((first, *more), norm=RMSNorm()) if more else dataclasses.replace(first, norm=RMSNorm())

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
    exp = on_moby(model, s["elements"][0], s["rows"], s["steps"], s["peak"])
    return dataclasses.replace(exp, optim=dataclasses.replace(exp.optim, multipliers=multipliers(s["stages"])))
