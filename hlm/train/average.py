"""Average of the weights: what is evaluated is smoother than what is trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class EMA:
    """Exponential moving average of the parameters, which is evaluated in their place.

    After step n (from 0) it is d * average + (1 - d) * parameters with d = min(decay, (n + 1) /
    (n + 10)): the first averages forget the initial parameters. It costs as much memory as the
    parameters, and is split over devices as they are.
    """

    decay: float = 0.999

    def __post_init__(self):
        if not 0 < self.decay < 1:
            raise ValueError(f"EMA.decay: {self.decay} must lie between 0 and 1")

    def init(self, params: Any) -> Any:
        return jax.tree.map(jnp.copy, params)

    def update(self, average: Any, params: Any, step: Array) -> Any:
        n = step.astype(jnp.float32)
        keep = jnp.minimum(jnp.float32(self.decay), (n + 1) / (n + 10))
        return jax.tree.map(lambda a, p: a + (1 - keep).astype(a.dtype) * (p - a), average, params)
