"""Measured numbers that know their units, so that each has a standard error and each difference
between two models an interval.

A unit is what was drawn: a document (or a piece of one), a question, a sentence. A number is a
ratio of sums over units, such as nats over bytes or right answers over questions. Errors are those
of the ratio, linearised; intervals are percentiles of the bootstrap over units, with the same draws
for both models (paired: Efron and Tibshirani 1993, chapters 8 and 13).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWS = 1000  # of the bootstrap
MOST_UNITS = 2000  # more are added up in so many groups before they are drawn
LEVEL = 0.95  # of an interval


@dataclasses.dataclass(frozen=True)
class Measure:
    """sum(total) / sum(weight) over units, both float64 [n]; relative to that of `base`, minus 1,
    if there is one.

    `chance`: what a model reaches that knows nothing.
    """

    total: np.ndarray
    weight: np.ndarray
    chance: float | None = None
    base: "Measure | None" = None

    @property
    def units(self) -> int:
        return len(self.total)

    @property
    def value(self) -> float | None:
        """None: nothing to divide by."""
        return self._of(self.total.sum(), self.weight.sum())

    def _of(self, total: float, weight: float) -> float | None:
        base = 1.0 if self.base is None else self.base.value
        if not weight or not base:
            return None
        return float(total / weight) / base - (self.base is not None)

    @property
    def error(self) -> float | None:
        """The standard error; None for a single unit."""
        if self.units < 2 or self.value is None:
            return None
        e = self._influence()
        return float(math.sqrt(np.sum((e - e.mean()) ** 2) * self.units / (self.units - 1)))

    def _influence(self) -> np.ndarray:
        """How much each unit moves the value, float64 [n]."""
        weight = self.weight.sum()
        ratio = self.total.sum() / weight
        own = (self.total - ratio * self.weight) / weight
        if self.base is None:
            return own
        base = self.base.value
        assert base
        return own / base - ratio * self.base._influence() / base**2

    def drawn(self, times_RN: np.ndarray) -> np.ndarray:
        """The value for each of R samples in which unit n counts `times_RN` times, float64 [R]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (times_RN @ self.total) / (times_RN @ self.weight)
            return ratio if self.base is None else ratio / self.base.drawn(times_RN) - 1

    def grouped(self) -> "Measure":
        """The same with at most MOST_UNITS units."""
        if self.units <= MOST_UNITS:
            return self
        group = np.arange(self.units) % MOST_UNITS
        total, weight = (np.bincount(group, a) for a in (self.total, self.weight))
        base = self.base and self.base.grouped()
        return dataclasses.replace(self, total=total, weight=weight, base=base)

    def report(self) -> dict[str, Any]:
        found = {"value": self.value, "error": self.error, "units": self.units}
        return found if self.chance is None else found | {"chance": self.chance}


def mean(values: Sequence[float] | np.ndarray, chance: float | None = None) -> Measure:
    """The mean over units."""
    total = np.asarray(values, np.float64)
    return Measure(total, np.ones(len(total)), chance)


def ratio(total: Any, weight: Any) -> Measure:
    """A ratio of sums over units."""
    return Measure(np.asarray(total, np.float64), np.asarray(weight, np.float64))


def change(now: Measure, before: Measure) -> Measure:
    """The relative change of a measure: 0.1 is 10 % more."""
    return dataclasses.replace(now, chance=None, base=before)


def single(value: float | None) -> Measure:
    """A number that is not of units, without an error."""
    return mean([] if value is None else [value])


@functools.lru_cache(maxsize=2)
def draws(units: int, seed: int) -> np.ndarray:
    """How often each unit is drawn in each sample of the bootstrap, float64 [DRAWS, units]."""
    rng = np.random.default_rng([seed, units])
    return rng.multinomial(units, np.full(units, 1 / units), size=DRAWS).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A value of one model less that of another, with its interval."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Zero is outside the interval."""
        return self.low > 0 or self.high < 0


def difference(a: Measure, b: Measure, seed: int = 0) -> Difference | None:
    """a - b with a paired bootstrap interval; None where the two do not have the same units, at
    least two, or no value.
    """
    first, second = a.value, b.value
    if a.units != b.units or a.units < 2 or first is None or second is None:
        return None
    a, b = a.grouped(), b.grouped()
    times_RN = draws(a.units, seed)
    apart = a.drawn(times_RN) - b.drawn(times_RN)
    apart = apart[np.isfinite(apart)]
    if not len(apart):
        return None
    low, high = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(first - second, float(low), float(high))
