"""Fits of scaling laws: power laws with and without a floor, and minima by parabolas.

What is fitted is a line through logarithms, by least squares. How sure it is: the same fit to
points with noise added, many times.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

DRAWS = 400  # fits to points with noise
INNER = (16, 84)  # percentiles: one standard error on each side
FLOORS = 60  # that are tried


@dataclasses.dataclass(frozen=True)
class Power:
    """A power law of compute: floor + scale * (C / at) ** exponent. `at`: middle of what was
    fitted, where scale and exponent are independent.
    """

    at: float
    scale: float
    exponent: float
    floor: float = 0.0

    def __call__(self, compute: float | np.ndarray) -> np.ndarray:
        return self.floor + self.scale * (np.asarray(compute) / self.at) ** self.exponent

    def formula(self, name: str = "C") -> str:
        """Its numbers at C = 1: floor + a C^b."""
        head = f"{self.floor:.3g} + " if self.floor else ""
        return f"{head}{self(1.0) - self.floor:.3g} {name}^{self.exponent:.3f}"


def power(compute: Sequence[float], y: Sequence[float], floor: float = 0.0) -> Power:
    """The law of least squares in log(y - floor). Raises ValueError for fewer than two budgets."""
    if len(set(compute)) < 2:
        raise ValueError(f"budgets: {sorted(set(compute))}; a power law needs two or more")
    at = math.exp(np.mean(np.log(compute)))
    above = np.asarray(y) - floor
    exponent, level = np.polyfit(np.log(np.asarray(compute) / at), np.log(above), 1)
    return Power(at, math.exp(level), float(exponent), floor)


def error(law: Power, compute: Sequence[float], y: Sequence[float]) -> float:
    """Standard error of the exponent, from what the law leaves; not a number for two points."""
    x, left = np.log(compute), np.log(y) - np.log(law(np.asarray(compute)))
    n = len(x)
    return math.sqrt(np.sum(left**2) / (n - 2) / np.sum((x - x.mean()) ** 2)) if n > 2 else math.nan


def misfit(law: Power, compute: Sequence[float], y: Sequence[float]) -> float:
    """Root of the mean square of what is left, over degrees of freedom."""
    left = np.asarray(y) - law(np.asarray(compute))
    return math.sqrt(np.sum(left**2) / max(len(left) - (3 if law.floor else 2), 1))


def floors(
    compute: Sequence[float], y: Sequence[float], noise: float
) -> tuple[float, float, float]:
    """(least, best, greatest) floor of laws that miss the points by no more than `noise` explains:
    the sum of squares over noise^2 within 1 of the best one's (one standard error).
    """
    tried = np.linspace(0, min(y), FLOORS, endpoint=False)
    squares = np.array(
        [np.sum((power(compute, y, f)(np.asarray(compute)) - np.asarray(y)) ** 2) for f in tried]
    )
    fits = tried[squares <= squares.min() + noise**2]
    return float(fits.min()), float(tried[squares.argmin()]), float(fits.max())


def drawn(compute: Sequence[float], y: Sequence[float], noise: float, seed: int = 0) -> list[Power]:
    """Laws without a floor of points with normal noise added; the same seed, the same draws."""
    rng = np.random.default_rng(seed)
    some = np.asarray(y) + noise * rng.normal(size=(DRAWS, len(y)))
    return [power(compute, one) for one in np.maximum(some, 1e-6)]


def crossing(one: Power, other: Power) -> float:
    """The compute at which two laws without floors are equal; infinite if they are parallel."""
    slope = one.exponent - other.exponent
    gap = math.log(other(one.at) / one.scale)
    with np.errstate(over="ignore"):
        return float(one.at * np.exp(np.float64(gap) / slope)) if slope else math.inf


def vertex(x: Sequence[float], y: Sequence[float]) -> tuple[float, bool]:
    """Where y is least: the minimum of the parabola through the least y and its two neighbours, and
    True; where the least y is the first or the last one, its x and False.
    """
    order = np.argsort(x)
    at, of = np.asarray(x, float)[order], np.asarray(y, float)[order]
    i = int(np.argmin(of))
    if not 0 < i < len(at) - 1:
        return float(at[i]), False
    near = slice(i - 1, i + 2)
    if not np.isfinite(of[near]).all():
        return float(at[i]), True
    a, b, _ = np.polyfit(at[near] - at[i], of[near], 2)
    return float(at[i] - b / (2 * a)) if a > 0 else float(at[i]), True
