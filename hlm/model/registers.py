"""Registers: a training objective that looks further ahead than the next symbol, and leaves the model as it is.

MuToR (Gerontopoulos et al. 2025, arXiv 2505.10518), section 3.
"""

import dataclasses

import jax
import jax.numpy as jnp

from hlm.config import check_least
from hlm.model.predicted import prefix_noise
from hlm.seq import Batch, Seq, take
from hlm.vocab import MASK

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Registers:
    """In training, a register stands behind every element; the one behind t sees the elements up to t and predicts a later symbol.

    How far it looks is drawn for each document: 1 (the next symbol) to `farthest` steps. Its position is that of the element before its
    target, and no other element sees it, so that without registers the model gives what it gave with them.

    `loss_weight`: of "loss/registers", where that of the next symbol is 1 (the paper's 0.3 and 0.7). `symbol`: whose embedding they are.
    """

    farthest: int = 4
    loss_weight: float = 3 / 7
    symbol: int = MASK

    def __post_init__(self):
        check_least(self, 1, "farthest")
        check_least(self, 0, "loss_weight", "symbol")

    def ahead(self, key: Array, seq: Seq) -> Array:
        """Steps from each register's element to its target, one number for each document; int32 [B, L]."""
        L = seq.doc.shape[1]
        i_L = jnp.arange(L, dtype=jnp.int32)
        last_BL = jnp.pad(seq.doc[:, 1:] != seq.doc[:, :-1], ((0, 0), (0, 1)), constant_values=True)
        end_BL = jax.lax.cummin(jnp.where(last_BL, i_L[None], L - 1), axis=1, reverse=True)
        drawn_BL = take(prefix_noise(key, seq), end_BL)  # noise of the whole document
        return 1 + jnp.minimum((drawn_BL * self.farthest).astype(jnp.int32), self.farthest - 1)

    def beside(self, seq: Seq, ahead_BL: Array) -> Seq:
        """Elements and their registers by turns: [B, 2L]."""

        def both(element: Array, register: Array) -> Array:
            return jnp.stack([element, register], axis=2).reshape(element.shape[0], -1)

        return Seq(
            token=both(seq.token, jnp.full_like(seq.token, self.symbol)),
            doc=both(seq.doc, seq.doc),
            pos=both(seq.pos, seq.pos + ahead_BL - 1),
            level=both(seq.level, jnp.zeros_like(seq.level)),
            shared=seq.shared,
            hidden=both(jnp.zeros_like(seq.doc, bool), jnp.ones_like(seq.doc, bool)),
        )

    def targets(self, batch: Batch, ahead_BL: Array) -> tuple[Array, Array]:
        """The symbol that each register predicts, and its weight; [B, L].

        It is 0 beyond the document, and where the element's own target has weight 0.
        """
        L = batch.doc.shape[1]
        to_BL = jnp.arange(L, dtype=jnp.int32)[None] + ahead_BL - 1
        inside_BL = jnp.minimum(to_BL, L - 1)
        good_BL = (to_BL < L) & (take(batch.doc, inside_BL) == batch.doc) & (batch.doc > 0) & (batch.weight > 0)
        return take(batch.target, inside_BL), jnp.where(good_BL, take(batch.weight, inside_BL), 0.0)
