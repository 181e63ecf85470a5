"""Statistics as (total, weight) pairs: returned by every part, added over micro-batches, steps,
hosts and files, divided last.
"""

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Mean:
    """A weighted sum and its weight, both float32 scalars (or equal shapes)."""

    total: Array
    weight: Array

    def value(self) -> float:
        return float(self.total) / max(float(self.weight), 1e-30)


Metrics = dict[str, Mean]


def mean(value: Array, weight: Array | float = 1.0) -> Mean:
    """The mean of `value` under `weight` (broadcast), summed over all axes."""
    weight = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), value.shape)
    return Mean(jnp.sum(value.astype(jnp.float32) * weight), jnp.sum(weight))


def ratio(total: Array, weight: Array) -> Mean:
    """sum(total) / sum(weight), divided last."""
    return Mean(jnp.sum(total, dtype=jnp.float32), jnp.sum(weight, dtype=jnp.float32))


def mean_of_rows(value_BL: Array, weight_BL: Array) -> Mean:
    """The mean over rows of each row's mean, so that micro-batches of equally many rows add up
    whatever their padding.
    """
    row_B = jnp.sum(value_BL * weight_BL, axis=1) / jnp.maximum(jnp.sum(weight_BL, axis=1), 1.0)
    return Mean(jnp.sum(row_B), jnp.asarray(row_B.shape[0], jnp.float32))


def merge(a: Metrics, b: Metrics) -> Metrics:
    return jax.tree.map(jnp.add, a, b)


def under(prefix: str, metrics: Metrics) -> Metrics:
    return {f"{prefix}/{name}": m for name, m in metrics.items()}


def to_floats(metrics: Metrics) -> dict[str, float]:
    return {name: m.value() for name, m in jax.device_get(metrics).items()}
