"""Learned positions, in the document and in the word."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import lookup, normal, weight
from hlm.nn.memory import Ring
from hlm.seq import Seq, index_in_document

Array = jax.Array


class Positions(nn.Module):
    """x plus a learned vector for the index in the document, counted from `offset`, modulo `length`."""

    length: int
    offset: int = 0
    std: float = 1.0

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq) -> Array:
        return placed(self, x_BLD, seq.pos + self.offset)


class WordPositions(nn.Module):
    """x plus a learned vector for the index since the last end of `level`, modulo `length`: 0 for the first byte of a word."""

    length: int
    level: int = 1
    std: float = 1.0

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq) -> Array:
        ends_BL = (seq.level >= self.level).astype(jnp.int32)
        first_BL = (seq.pos == 0).astype(jnp.int32)
        word_BL = jnp.cumsum(ends_BL + first_BL, axis=1, dtype=jnp.int32) - ends_BL  # an end belongs to the word it ends
        index_BL = index_in_document(word_BL)
        if seq.stream is not None:  # the first word of this call may have begun before
            next_ring = Ring(self, "next", 1 + seq.stream.back, seq.pos)
            if seq.begun:
                index_BL += jnp.where(word_BL == word_BL[:, :1], next_ring.read(seq.pos[:, :1] - 1), 0)
            next_ring.write(jnp.where(ends_BL > 0, 0, index_BL + 1), seq.pos, seq.doc > 0)
        return placed(self, x_BLD, index_BL)


def placed(module: Positions | WordPositions, x_BLD: Array, index_BL: Array) -> Array:
    table_TD = weight(module, "position", (module.length, x_BLD.shape[-1]), init=normal(module.std))
    return x_BLD + lookup(table_TD, jnp.mod(index_BL, module.length), x_BLD.dtype)
