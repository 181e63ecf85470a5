"""Symbols to vectors."""

from typing import ClassVar

import jax
from flax import linen as nn

from hlm.metrics import Metrics
from hlm.nn.basic import lookup, normal, weight
from hlm.nn.position import Positions, WordPositions
from hlm.seq import Seq
from hlm.vocab import BYTE_SYMBOLS

Array = jax.Array


class Embed(nn.Module):
    """A table of `width` entries for each of `size` symbols, plus learned positions. An embedding is (seq, dtype) -> [B, L, width]."""

    width: int
    size: int = BYTE_SYMBOLS
    std: float = 1.0
    positions: Positions | WordPositions | None = None

    @nn.compact
    def __call__(self, seq: Seq, dtype: str) -> Array:
        table_VD = weight(self, "embedding", (self.size, self.width), init=normal(self.std))
        x_BLD = lookup(table_VD, seq.token, dtype)
        return x_BLD if self.positions is None else self.positions(x_BLD, seq)


class Lookup(nn.Module):
    """A trunk that forgets its input and embeds the symbols afresh, at its own width (MegaByte's global embedding)."""

    embed: Embed
    local: ClassVar[bool] = True  # as Stack.local

    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None) -> tuple[Array, Metrics]:
        return self.embed(seq, str(x_BLD.dtype)), {}
