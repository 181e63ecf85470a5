"""Learned positions."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import normal, weight
from hlm.seq import Seq

Array = jax.Array


class Positions(nn.Module):
    """x plus a learned vector for the index in the document, counted from `offset`, modulo `length`."""

    length: int
    offset: int = 0
    std: float = 1.0

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq) -> Array:
        table_TD = weight(self, "position", (self.length, x_BLD.shape[-1]), init=normal(self.std))
        return x_BLD + table_TD.astype(x_BLD.dtype)[jnp.mod(seq.pos + self.offset, self.length)]
