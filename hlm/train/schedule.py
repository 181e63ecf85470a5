"""Schedules: how a learning rate, or the weight of a loss, changes over a run."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp


@runtime_checkable
class Schedule(Protocol):
    """Share of the peak learning rate at a fraction 0..1 of the steps after warm-up."""

    @property
    def final(self) -> float: ...

    def __call__(self, fraction: jax.Array) -> jax.Array: ...


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
