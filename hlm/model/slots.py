"""Chunks of several vectors, each an element of the backbone and each in front of the word that they predict.

Learn Your Tokens (Thawani et al. 2023, arXiv 2310.11628), section 3.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.metrics import Metrics
from hlm.nn.cross import Memory
from hlm.nn.memory import preceded
from hlm.seq import Seq, index_in_document, take

Array = jax.Array


class Several(nn.Module):
    """A backbone in which each chunk's vector is `count` elements, one after the other. [B, S, count * D] -> the same."""

    trunk: nn.Module
    count: int

    def __call__(self, z_BSE: Array, seq: Seq, group_BS: Array | None = None) -> tuple[Array, Metrics]:
        B, S, E = z_BSE.shape
        if E % self.count:
            raise ValueError(f"count: {self.count} vectors do not divide the chunk width {E}")

        def each(a_BS: Array) -> Array:
            return jnp.repeat(a_BS, self.count, axis=1)

        pos_BM = self.count * each(seq.pos) + jnp.tile(jnp.arange(self.count, dtype=jnp.int32), S)[None]
        stream = None if seq.stream is None else seq.stream.longer(self.count, self.count * seq.stream.room[0])
        longer = Seq(each(seq.token), each(seq.doc), pos_BM, each(seq.level), seq.shared, stream)
        group_BM = None if group_BS is None else each(group_BS)
        y_BMD, metrics = self.trunk(z_BSE.reshape(B, S * self.count, -1), longer, group_BM)
        return y_BMD.reshape(B, S, -1), metrics


class Prefixed(nn.Module):
    """A decoder that starts every word from all slots of the chunk before it, one element each; the last replaces the end.

    Needs Hierarchy.guide=Guide(count, ...). The trunk runs over count - 1 more elements for every chunk.
    """

    trunk: nn.Module
    local: ClassVar[bool] = False  # as Stack.local

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array, memory: Memory) -> tuple[Array, Metrics]:
        (L, D), (S, N, F) = x_BLD.shape[1:], memory.slots_BSND.shape[1:]
        if F != D:
            raise ValueError(f"guide: slots of width {F} cannot stand before elements of width {D}; set Guide.width={D}")
        M = L + S * (N - 1)
        before_BM = preceded(self, "group", group_BL, seq, 1, fill=-1)
        ends_BL = before_BM[:, 1:] != before_BM[:, :-1]
        place_BL = jnp.arange(L, dtype=jnp.int32)[None] + (N - 1) * jnp.cumsum(ends_BL, axis=1, dtype=jnp.int32)
        m_M = jnp.arange(M, dtype=jnp.int32)
        # The element at each place; at those in front of an end, that end.
        from_BM = jax.vmap(lambda place_L: jnp.searchsorted(place_L, m_M).astype(jnp.int32))(place_BL)
        own_BM = jnp.minimum(from_BM, L - 1)
        slot_BM = jnp.maximum(N - 1 - (take(place_BL, own_BM) - m_M[None]), 0)
        slots_BTD = memory.slots_BSND.reshape(x_BLD.shape[0], S * N, D).astype(x_BLD.dtype)
        prefix_BMD = take(slots_BTD, take(memory.seen_BL, own_BM) * N + slot_BM)
        x_BMD = jnp.where(take(ends_BL, own_BM)[:, :, None], prefix_BMD, take(x_BLD, own_BM))
        doc_BM = jnp.where(from_BM < L, take(seq.doc, own_BM), 0)
        pos_BM, stream = index_in_document(doc_BM), None
        if seq.stream is not None:  # every chunk so far has put N - 1 elements before its end, and groups are numbers of chunks
            at_BL = seq.pos + (N - 1) * (1 + group_BL)
            pos_BM = take(at_BL, own_BM) - (take(place_BL, own_BM) - m_M[None])
            stream = seq.stream.longer(N, seq.stream.room[0] + (N - 1) * seq.stream.room[1])
        longer = Seq(take(seq.token, own_BM), doc_BM, pos_BM, take(seq.level, own_BM), seq.shared, stream)
        y_BMD, metrics = self.trunk(x_BMD, longer, take(group_BL, own_BM))
        return take(y_BMD, place_BL), metrics
