"""Rotary positions whose low frequencies are stretched for texts longer than those of the first
training.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from hlm.nn.basic import Rope

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Llama3Rope(Rope):
    """As Llama 3.1: waves longer than `length / low` are stretched by `factor`, those shorter than
    `length / high` are not.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192  # elements in a row of the first training

    def frequencies(self, half: int) -> Array:
        frequency = super().frequencies(half)
        turns = self.length * frequency / (2 * math.pi)  # in a row of the first training
        kept = jnp.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return frequency * (kept + (1 - kept) / self.factor)
