"""Embedding: symbols to vectors."""

import abc

import jax
from flax import linen as nn

from hlm.nn.basic import lookup, normal, weight
from hlm.nn.position import Positions, WordPositions
from hlm.seq import Seq
from hlm.vocab import BYTE_SYMBOLS

Array = jax.Array


class Embedding(nn.Module, abc.ABC):
    """Base of all embeddings: (seq, dtype) -> [B, L, width]. Each has a field `size`, its number of
    symbols.
    """

    @abc.abstractmethod
    def __call__(self, seq: Seq, dtype: str) -> Array: ...


class Embed(Embedding):
    """Embedding table, plus learned positions if any."""

    width: int
    size: int = BYTE_SYMBOLS
    std: float = 1.0
    positions: Positions | WordPositions | None = None

    @nn.compact
    def __call__(self, seq: Seq, dtype: str) -> Array:
        table_VD = weight(self, "embedding", (self.size, self.width), init=normal(self.std))
        x_BLD = lookup(table_VD, seq.token, dtype)
        return x_BLD if self.positions is None else self.positions(x_BLD, seq)
