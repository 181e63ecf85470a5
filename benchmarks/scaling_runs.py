"""Runs of scaling_laws.py, and what those of one family say: its curve, its rules."""

import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import scaling_fit as fit


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run. `flops`: training FLOPs a byte; `nbytes`: bytes of text a step; `valid` and
    `test`: bits per byte, infinite if training failed, None if not read.
    """

    family: str
    eighths: int
    budget: float
    rows: int
    peak: float
    seed: int
    parameters: int
    flops: float
    nbytes: float
    steps: int
    valid: float
    test: float | None
    seconds: float

    @property
    def text(self) -> float:
        return self.steps * self.nbytes

    def __str__(self) -> str:
        test = "" if self.test is None else f", test {self.test:.4f}"
        return (
            f"{self.family}-{self.eighths} {self.budget:.2g} FLOPs, {self.rows} rows, peak "
            f"{self.peak:g}, seed {self.seed}: {self.steps} steps, {self.text / 1e6:.2f} MB, valid "
            f"{self.valid:.4f}{test}, {self.seconds:.0f} s"
        )


@dataclasses.dataclass(frozen=True)
class Point:
    """The runs of a size at a budget with so many rows a step: of the first seed one for each peak,
    of others at the best.
    """

    runs: tuple[Run, ...]

    @functools.cached_property
    def best(self) -> Run:
        return min((r for r in self.runs if r.seed == 0), key=lambda r: r.valid)

    @functools.cached_property
    def peak(self) -> tuple[float, bool]:
        """The best peak, between those tried; whether worse ones were tried on both sides."""
        first = [r for r in self.runs if r.seed == 0]
        at, inside = fit.vertex([math.log(r.peak) for r in first], [r.valid for r in first])
        return math.exp(at), inside

    @functools.cached_property
    def tests(self) -> list[float]:
        """Of the best peak, one for each seed."""
        same = [r for r in self.runs if r.peak == self.best.peak and r.test is not None]
        return [r.test for r in sorted(same, key=lambda r: r.seed) if r.test is not None]


def points(runs: Iterable[Run], **asked: object) -> list[Point]:
    """Runs by family, budget, size and rows; of those with the values that are asked for."""

    def key(run: Run) -> tuple[str, float, int, int]:
        return run.family, run.budget, run.eighths, run.rows

    chosen = [r for r in runs if all(getattr(r, name) == x for name, x in asked.items())]
    groups = itertools.groupby(sorted(chosen, key=key), key)
    found = [Point(tuple(group)) for _, group in groups]
    return [p for p in found if any(r.seed == 0 for r in p.runs)]


@dataclasses.dataclass(frozen=True)
class Family:
    """What the runs of one family say. `rows`: a step, but for other batches; `middle`: the budget
    of all sizes.
    """

    name: str
    runs: tuple[Run, ...]
    rows: int
    middle: float

    def points(self, **asked: object) -> list[Point]:
        return points(self.runs, **asked)

    @functools.cached_property
    def curve(self) -> list[Point]:
        """The best size of each budget."""
        usual = self.points(rows=self.rows)
        by_budget = itertools.groupby(usual, lambda p: p.best.budget)
        return [min(sizes, key=lambda p: p.best.valid) for _, sizes in by_budget]

    @property
    def budgets(self) -> list[float]:
        return [p.best.budget for p in self.curve]

    @property
    def bits(self) -> list[float]:
        """Of the test text, means over seeds."""
        return [float(np.mean(p.tests)) for p in self.curve]

    @functools.cached_property
    def law(self) -> fit.Power:
        return fit.power(self.budgets, self.bits)

    @functools.cached_property
    def noise(self) -> float:
        """Standard deviation of a point: the more of that of seeds and of what the law leaves."""
        spread = [np.var(p.tests, ddof=1) for p in self.curve if len(p.tests) > 1]
        seeds = math.sqrt(np.mean(spread)) if spread else 0.0
        return max(seeds, fit.misfit(self.law, self.budgets, self.bits))

    @functools.cached_property
    def drawn(self) -> list[fit.Power]:
        own = zlib.crc32(self.name.encode())  # noise of families is independent
        return fit.drawn(self.budgets, self.bits, self.noise, seed=own)

    @functools.cached_property
    def ratio(self) -> tuple[float, bool]:
        """Bytes of text for each FLOP a byte of the best size at the middle budget; whether sizes
        on both sides were worse.
        """
        sizes = [p.best for p in self.points(budget=self.middle, rows=self.rows)]
        at, inside = fit.vertex([math.log(r.flops) for r in sizes], [r.valid for r in sizes])
        return self.middle / math.exp(at) ** 2, inside

    def flops(self, budget: float) -> float:
        """FLOPs a byte of the size that suits a budget."""
        return math.sqrt(budget / self.ratio[0])

    @functools.cached_property
    def peaks(self) -> fit.Power:
        return fit.power(self.budgets, [p.peak[0] for p in self.curve])

    @functools.cached_property
    def batches(self) -> list[tuple[float, float, bool]]:
        """(budget, best bytes a step, whether fewer and more were worse), where some were tried."""
        found = []
        for point in self.curve:
            same = self.points(budget=point.best.budget, eighths=point.best.eighths)
            if len(same) > 2:
                sizes = [math.log(p.best.nbytes) for p in same]
                at, inside = fit.vertex(sizes, [p.best.valid for p in same])
                found.append((point.best.budget, math.exp(at), inside))
        return found

    @functools.cached_property
    def batch(self) -> fit.Power:
        """Bytes a step: a law of two budgets or more, otherwise what is known, for all."""
        known = self.batches or [(self.middle, self.curve[0].best.nbytes, False)]
        if len(known) > 1:
            return fit.power([b for b, _, _ in known], [n for _, n, _ in known])
        return fit.Power(known[0][0], known[0][1], 0.0)


def families(runs: Sequence[Run], rows: int, middle: float) -> list[Family]:
    """Those with a curve of two budgets or more and sizes at the middle one."""
    named = [
        Family(name, tuple(r for r in runs if r.family == name), rows, middle)
        for name in dict.fromkeys(r.family for r in runs)
    ]
    return [f for f in named if len(f.curve) > 1 and f.points(budget=middle, rows=rows)]


def read(out: pathlib.Path) -> list[Run]:
    path = out / "runs.json"
    return [Run(**run) for run in json.loads(path.read_text())] if path.exists() else []


def write(out: pathlib.Path, runs: Sequence[Run]) -> None:
    new = out / "runs.json.new"
    new.write_text(json.dumps([dataclasses.asdict(run) for run in runs], indent=0) + "\n")
    os.replace(new, out / "runs.json")
