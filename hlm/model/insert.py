"""Lengthened rows: elements that a part puts between those of a row.

A start token before each group, several vectors for a chunk, a slot behind every element,
registers: all are a number of elements before and behind each of the row's own. Two before
elements 1 and 3, in a row of four with room for eight:

    row          a  b  c  d                  before    0  2  0  2
    longer row   a  +  +  b  c  +  +  d
    owner        0  1  1  1  2  3  3  3      whose place it is, or who added what stands there
    offset       0 -2 -1  0  0 -2 -1  0      0: the owner; below: before it; above: behind it
    place        0        3  4        7      where each element went
"""

import jax
import jax.numpy as jnp
from flax import struct

from hlm.seq import Seq, index_in_document, take

Array = jax.Array


@struct.dataclass
class Longer:
    """A row of L elements and what was added to them, M places."""

    owner_BM: Array  # int32; L where nothing stands
    offset_BM: Array  # int32
    place_BL: Array  # int32

    @property
    def own_BM(self) -> Array:
        """bool: an element of the row itself stands there."""
        return (self.offset_BM == 0) & self.used_BM

    @property
    def added_BM(self) -> Array:
        return (self.offset_BM != 0) & self.used_BM

    @property
    def used_BM(self) -> Array:
        return self.owner_BM < self.place_BL.shape[1]

    def spread(self, a_BL: Array) -> Array:
        """[B, L, ...] -> [B, M, ...]: at each place what its owner has."""
        return take(a_BL, jnp.minimum(self.owner_BM, a_BL.shape[1] - 1))

    def own(self, y_BM: Array) -> Array:
        """[B, M, ...] -> [B, L, ...]: what stands at the row's own elements."""
        return take(y_BM, jnp.minimum(self.place_BL, y_BM.shape[1] - 1))

    def seq(
        self, seq: Seq, pos_BL: Array | None = None, decoding_times: int = 1, capacity: int = 0
    ) -> Seq:
        """The sequence of the longer row: fields are the owner's, positions count on over what was
        added.

        In decoding `pos_BL` is where each element stands in its lengthened document;
        `decoding_times` and `capacity`: as of `Decoding.longer`.
        """
        doc_BM = jnp.where(self.used_BM, self.spread(seq.doc), 0)
        if seq.decoding is None or pos_BL is None:
            pos_BM, decoding = index_in_document(doc_BM), None
        else:
            pos_BM = self.spread(pos_BL) + self.offset_BM
            decoding = seq.decoding.longer(decoding_times, capacity)
        return Seq(
            self.spread(seq.token), doc_BM, pos_BM, self.spread(seq.level), seq.shared, decoding
        )


def insert_before(before_BL: Array, room: int) -> Longer:
    """`before` elements in front of each, and `room` for all of them together."""
    L = before_BL.shape[1]
    place_BL = jnp.arange(L, dtype=jnp.int32)[None] + jnp.cumsum(before_BL, axis=1, dtype=jnp.int32)
    m_M = jnp.arange(L + room, dtype=jnp.int32)
    # The first element that stands here or behind.
    owner_BM = jax.vmap(lambda place_L: jnp.searchsorted(place_L, m_M).astype(jnp.int32))(place_BL)
    return Longer(owner_BM, m_M[None] - take(place_BL, jnp.minimum(owner_BM, L - 1)), place_BL)


def insert_each(rows: int, length: int, before: int = 0, behind: int = 0) -> Longer:
    """The same numbers before and behind every element."""
    step = 1 + before + behind
    m_M, t_L = jnp.arange(step * length, dtype=jnp.int32), jnp.arange(length, dtype=jnp.int32)
    found = (m_M // step, m_M % step - before, step * t_L + before)
    return Longer(*(jnp.broadcast_to(a[None], (rows, a.size)) for a in found))
