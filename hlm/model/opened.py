"""A decoder whose groups begin with an element of their own."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.metrics import Metrics
from hlm.nn.basic import normal, weight
from hlm.nn.memory import preceded
from hlm.seq import Seq, index_in_document, take

Array = jax.Array


class Opened(nn.Module):
    """Puts a learned start element in front of every group of a document; BOS, the first element, becomes the start of the first.

    `starts`: the most groups in a row, static; the trunk runs over that many more elements.
    """

    trunk: nn.Module
    starts: int
    local: ClassVar[bool] = False  # as Stack.local

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> tuple[Array, Metrics]:
        L = x_BLD.shape[1]
        M = L + min(self.starts, L)
        before_BM = preceded(self, "group", group_BL, seq, 1, fill=-1)
        new_BL = (before_BM[:, 1:] != before_BM[:, :-1]) & (seq.pos > 0) & (seq.doc > 0)
        place_BL = jnp.arange(L, dtype=jnp.int32)[None] + jnp.cumsum(new_BL, axis=1, dtype=jnp.int32)  # where each element goes
        start_BL = jnp.where(new_BL, place_BL - 1, M)  # and the starts

        def row(place_L: Array, start_L: Array) -> Array:
            t_L = jnp.arange(L, dtype=jnp.int32)
            return jnp.full(M, L, jnp.int32).at[place_L].set(t_L, mode="drop").at[start_L].set(t_L, mode="drop")

        from_BM = jax.vmap(row)(place_BL, start_BL)  # the element there, for a start that behind it; L: none
        own_BM = jnp.minimum(from_BM, L - 1)
        doc_BM = jnp.where(from_BM < L, take(seq.doc, own_BM), 0)
        inserted_BM = jnp.pad(from_BM[:, 1:] == from_BM[:, :-1], ((0, 0), (0, 1))) & (from_BM < L)
        pos_BM, stream = index_in_document(doc_BM), None
        if seq.stream is not None:  # every group but the first has put one element before its own, and groups count from 0
            pos_BM = take(seq.pos + group_BL, own_BM) - inserted_BM.astype(jnp.int32)
            stream = seq.stream.longer(2, seq.stream.room[0] + self.starts)
        longer = Seq(take(seq.token, own_BM), doc_BM, pos_BM, take(seq.level, own_BM), seq.shared, stream)
        is_start_BM = take(jnp.pad(seq.pos == 0, ((0, 0), (0, 1))), from_BM) | inserted_BM
        start_D = weight(self, "start", (x_BLD.shape[-1],), init=normal(1.0)).astype(x_BLD.dtype)
        x_BMD = jnp.where(is_start_BM[:, :, None], start_D[None, None], take(x_BLD, own_BM))
        y_BMD, metrics = self.trunk(x_BMD, longer, take(group_BL, own_BM))
        return take(y_BMD, jnp.minimum(place_BL, M - 1)), metrics
