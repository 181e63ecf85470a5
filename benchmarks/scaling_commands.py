"""Commands that train the size that suits a budget, by the laws of scaling_laws.py."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scaling_fit as fit
from budgeted import Recipe, file, own_peak
from scaling_ladder import BASES, RUNGS, rung, training
from scaling_report import PUBLISHED
from scaling_runs import Family

from hlm import config, flops
from hlm.config import Experiment
from hlm.subwords import Subwords
from tpu.slices import NAMED

NEAR = 3.0  # a published size is taken where its FLOPs a byte are within this factor
SURE = 4.0  # a fitted peak is taken where its law says it within this factor
REACH = 2.0  # decades beyond the last budget for which bits per byte are foretold


@dataclasses.dataclass(frozen=True)
class Size:
    """A model that a command can name. `flops`: training FLOPs a byte."""

    name: str
    overrides: tuple[str, ...]
    exp: Experiment
    held: flops.Rows
    flops: float

    @property
    def own_peak(self) -> float:
        """The config's; of a rung, its base's times the ratio of widths."""
        recipe = Recipe(self.name, ())
        base = config.load(file(self.name)).model.embed.width
        return own_peak(recipe) * base / self.exp.model.embed.width

    @property
    def chips(self) -> int:
        """Of its slice; 1 if none is named for it."""
        shape = NAMED.get(self.name, ":1").partition(":")[2]
        return math.prod(int(n) for n in shape.split("x"))


@functools.cache
def size(name: str, overrides: tuple[str, ...] = ()) -> Size:
    exp = config.load(file(name), overrides)
    held = flops.measure(exp)
    return Size(name, overrides, exp, held, training(exp, held))


def suited(family: str, aim: float) -> Size:
    """The published size nearest to `aim` FLOPs a byte, or the rung, where none is near."""

    def far(one: Size) -> float:
        return abs(math.log(one.flops / aim))

    named = [size(name) for name in NAMED if name.partition(":")[0] == family]
    if named and far(min(named, key=far)) < math.log(NEAR):
        return min(named, key=far)
    low, high = 0, len(RUNGS) - 1  # FLOPs a byte grow along the ladder
    while high - low > 1:
        middle = (low + high) // 2
        smaller = size(BASES[family], rung(family, RUNGS[middle])).flops < aim
        low, high = (middle, high) if smaller else (low, middle)
    return min((size(BASES[family], rung(family, RUNGS[i])) for i in (low, high)), key=far)


def settings(chosen: Size, budget: float, peak: float, nbytes: float) -> dict[str, Any]:
    """Rows, micro-batches and steps of a budget with about so many bytes a step: whole rows on each
    chip, and no more of them at once than the size is for.
    """
    exp, chips = chosen.exp, chosen.chips
    each = max(round(nbytes / chosen.held.nbytes / chips), 1)  # rows of a chip
    most = max(exp.rows // exp.accumulate // chips, 1) if chips > 1 else each
    parts = next(k for k in range(1, each + 1) if each % k == 0 and each // k <= most)
    steps = max(round(budget / chosen.flops / (each * chips * chosen.held.nbytes)), 1)
    numbers = dict(rows=each * chips, accumulate=parts, steps=steps)
    return numbers | {"optim.peak": f"{peak:.2g}", "optim.warmup": max(steps // 17, 1)}


def sure(family: Family, budget: float) -> bool:
    """Whether the error of its exponent leaves a law of peaks within SURE at a budget."""
    peaks = [p.peak[0] for p in family.curve]
    error = fit.error(family.peaks, family.budgets, peaks)
    return bool(abs(math.log(budget / family.peaks.at)) * error < math.log(SURE))


def rules(family: Family, chosen: Size, budget: float) -> dict[str, tuple[float, float]]:
    """(peak, bytes a step) by each law that there is."""
    peak, who = float(family.peaks(budget)), "these laws"
    if not sure(family, budget):
        peak, who = chosen.own_peak, "the config and these laws, whose peak does not reach so far"
    found = {who: (peak, float(family.batch(budget)))}
    if family.name in PUBLISHED:
        peaks, batch = PUBLISHED[family.name]
        unit = 1.0
        if isinstance(chosen.exp.model.codec, Subwords):
            unit = chosen.held.nbytes / chosen.held.elements[0]
        found["Videau et al. 2025"] = float(peaks(budget)), float(batch(budget)) * unit
    return found


def commands(found: Sequence[Family], budget: float) -> Iterator[str]:
    """Lines of a shell script, for each family and each law of its rates and batches."""
    for family in found:
        decades = math.log10(budget / max(family.budgets))
        chosen = suited(family.name, family.flops(budget))
        low, high = np.percentile([law(budget) for law in family.drawn], fit.INNER)
        bits = f"{low:.2f} to {high:.2f} bits per byte by a law without a floor; "
        yield (
            f"# {family.name}, {budget:.2g} FLOPs, {decades:.1f} decades beyond what was measured: "
            f"{bits if decades < REACH else ''}best size "
            f"{family.flops(budget):.2g} FLOPs a byte, {chosen.name} has {chosen.flops:.2g}; "
            f"{budget / chosen.flops / 1e9:.3g} GB of text; "
            + (f"slice {NAMED[chosen.name]}" if chosen.name in NAMED else "no slice is named")
        )
        if chosen.overrides and isinstance(chosen.exp.model.codec, Subwords):
            yield "# model.codec=@codec.json: learn as many subwords as embed.size, configs/bpe.py"
        for law, (peak, nbytes) in rules(family, chosen, budget).items():
            numbers = settings(chosen, budget, peak, nbytes)
            words = (*chosen.overrides, *(f"{name}={value}" for name, value in numbers.items()))
            stem, _, which = chosen.name.partition(":")
            yield f"# rate and batch by {law}"
            yield (
                f"python train.py configs/{stem}.py:{which} --workdir "
                f"gs://BUCKET/{stem}-{which}-{budget:.0e} data.source=... {' '.join(words)}"
            )
