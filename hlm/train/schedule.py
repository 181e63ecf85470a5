"""Schedules: how a learning rate, or the weight of a loss, changes over a run."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from hlm.config import check_least
from hlm.model.objective import Schedule


@runtime_checkable
class Decay(Schedule, Protocol):
    """Share of the peak learning rate at a fraction 0..1 of the steps after warm-up: a schedule
    that says where it ends.
    """

    @property
    def final(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to `final`."""

    final: float = 0.1

    def __call__(self, fraction: jax.Array) -> jax.Array:
        return self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(math.pi * fraction))


@dataclasses.dataclass(frozen=True)
class Linear:
    """A straight line from 1 down to `final`."""

    final: float = 0.0

    def __call__(self, fraction: jax.Array) -> jax.Array:
        return 1 - (1 - self.final) * fraction


@dataclasses.dataclass(frozen=True)
class Constant:
    """The peak from the warm-up on: a run can be continued for any number of steps."""

    @property
    def final(self) -> float:
        return 1.0

    def __call__(self, fraction: jax.Array) -> jax.Array:
        return jnp.ones_like(fraction)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """The peak, then a straight line down to `final` over the last `share` of the steps (Hu et al.
    2024).

    A checkpoint from before the decay can be continued with more steps as if they had been given at
    first.
    """

    final: float = 0.0
    share: float = 0.2

    def __post_init__(self):
        check_least(self, 0, "final", "share")
        if self.share > 1:
            raise ValueError(f"WarmupStableDecay.share: {self.share} must be at most 1")

    def __call__(self, fraction: jax.Array) -> jax.Array:
        left = (
            jnp.minimum((1 - fraction) / self.share, 1.0)
            if self.share
            else jnp.where(fraction < 1, 1.0, 0.0)
        )
        return self.final + (1 - self.final) * left
