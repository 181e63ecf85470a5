"""Learned positions, in the document and in the word."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import lookup, normal, weight
from hlm.nn.kv_cache import CACHE, Ring
from hlm.seq import Seq, index_in_document

Array = jax.Array


class Positions(nn.Module):
    """Learned position embedding: x plus a vector for the index in the document, counted from
    `offset`, modulo `length`.
    """

    length: int
    offset: int = 0
    std: float = 1.0

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq) -> Array:
        return placed(self, x_BLD, seq.pos + self.offset)


class WordPositions(nn.Module):
    """Learned position embedding: x plus a vector for the index in the word (level 1), modulo
    `length`; 0 for its first byte.
    """

    length: int
    std: float = 1.0

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq) -> Array:
        ends_BL = (seq.level >= 1).astype(jnp.int32)
        first_BL = (seq.pos == 0).astype(jnp.int32)
        # an end belongs to the word it ends
        word_BL = jnp.cumsum(ends_BL + first_BL, axis=1, dtype=jnp.int32) - ends_BL
        index_BL = index_in_document(word_BL)
        if seq.decoding is not None:  # the first word of this call may have begun before
            after = self.variable(CACHE, "next", Ring.empty, 1 + seq.decoding.rewind, seq.pos)
            if seq.continued:
                index_BL += jnp.where(
                    word_BL == word_BL[:, :1], after.value.read(seq.pos[:, :1] - 1), 0
                )
            after.value = after.value.write(
                jnp.where(ends_BL > 0, 0, index_BL + 1), seq.pos, seq.doc > 0
            )
        return placed(self, x_BLD, index_BL)


def placed(module: Positions | WordPositions, x_BLD: Array, index_BL: Array) -> Array:
    table_TD = weight(module, "position", (module.length, x_BLD.shape[-1]), init=normal(module.std))
    return x_BLD + lookup(table_TD, jnp.mod(index_BL, module.length), x_BLD.dtype)
