"""A decoder whose groups begin with an element of their own."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.metrics import Metrics
from hlm.nn.basic import normal, weight
from hlm.seq import Seq, index_in_document, take

Array = jax.Array


class Opened(nn.Module):
    """Puts a learned start element in front of every group of a document; BOS, the first element, becomes the start of the first.

    `starts`: the most groups in a row, static; the trunk runs over that many more elements.
    """

    trunk: nn.Module
    starts: int

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> tuple[Array, Metrics]:
        L = x_BLD.shape[1]
        M = L + self.starts
        new_BL = jnp.pad(group_BL[:, 1:] != group_BL[:, :-1], ((0, 0), (1, 0))) & (seq.pos > 0) & (seq.doc > 0)
        place_BL = jnp.arange(L, dtype=jnp.int32)[None] + jnp.cumsum(new_BL, axis=1, dtype=jnp.int32)  # where each element goes
        start_BL = jnp.where(new_BL, place_BL - 1, M)  # and the starts

        def row(place_L: Array, start_L: Array) -> Array:
            t_L = jnp.arange(L, dtype=jnp.int32)
            return jnp.full(M, L, jnp.int32).at[place_L].set(t_L, mode="drop").at[start_L].set(t_L, mode="drop")

        from_BM = jax.vmap(row)(place_BL, start_BL)  # the element there, for a start that behind it; L: none
        own_BM = jnp.minimum(from_BM, L - 1)
        doc_BM = jnp.where(from_BM < L, take(seq.doc, own_BM), 0)
        longer = Seq(take(seq.token, own_BM), doc_BM, index_in_document(doc_BM), take(seq.level, own_BM))
        is_start_BM = take(jnp.pad(seq.pos == 0, ((0, 0), (0, 1))), from_BM)
        is_start_BM |= jnp.pad(from_BM[:, 1:] == from_BM[:, :-1], ((0, 0), (0, 1)))
        start_D = weight(self, "start", (x_BLD.shape[-1],), init=normal(1.0)).astype(x_BLD.dtype)
        x_BMD = jnp.where(is_start_BM[:, :, None], start_D[None, None], take(x_BLD, own_BM))
        y_BMD, metrics = self.trunk(x_BMD, longer, take(group_BL, own_BM))
        return take(y_BMD, jnp.minimum(place_BL, M - 1)), metrics
