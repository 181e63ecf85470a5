"""Byte2Word: words read by cross-attention and guessed in pieces (Lee, Guo & Qiu 2022).

arXiv 2205.11490. The idea: BERT's vocabulary costs most of its parameters at the input and a
softmax over words at the output. Here a word's bytes become its vector by cross-attention, and a
hidden word is guessed as a few word pieces, all at once, from the word's vector and one learned
vector for each place.

    bytes [B, L, D] ── learned queries (hlm.pool.Attend) ── [B, S, E] ── both ways ── w [B, S, E]

    piece j of a hidden word: softmax(W gelu(T (w + slot_j))), j = 1, 2, ...
    loss: mean over pieces

The model around it is hlm/papers/masked.py. No code was released and only the abstract could be
read: sizes are ours.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import LayerNorm, Linear, lookup, weight
from hlm.papers.masked import Questions, linear, surprise
from hlm.seq import Batch, Boundaries, index_in_document, runs, take
from hlm.subwords import WordPieces
from hlm.vocab import Bytes, Codec

Array = jax.Array


class PieceHeads(nn.Module):
    """Piece heads: the pieces of a hidden word are guessed at once, by one softmax for all.

    The j-th is guessed from the word's vector plus that of slot j. Answers of a
    `codec.labels=WordPieces(...)` of at most `size` pieces. The elements' vectors are those of
    their words. In between is the hidden layer of BERT's head. A row is asked for its first `most`
    hidden pieces only: softmaxes are large and most elements are not hidden.
    """

    size: int
    slots: int
    most: int

    def check(self, codec: Codec) -> None:
        pieces = codec.labels if isinstance(codec, Bytes) else None
        if not isinstance(pieces, WordPieces):
            raise ValueError(
                f"codec.labels: {pieces!r} holds no pieces of words; hlm.byte2word.PieceHeads "
                "needs hlm.subwords.WordPieces"
            )
        if pieces.size > self.size:
            raise ValueError(
                f"heads.size: {self.size} answers but codec.labels has {pieces.size} pieces"
            )
        if self.most < self.slots:
            raise ValueError(
                f"heads.most: {self.most} pieces of a row; a word alone may have {self.slots} "
                "(heads.slots)"
            )

    def questions(self, batch: Batch, b: Boundaries, hidden_BL: Array) -> Questions:
        i_BL = jnp.broadcast_to(
            jnp.arange(hidden_BL.shape[1], dtype=jnp.int32)[None], hidden_BL.shape
        )
        begins_BL = batch.label > 0
        by_BL = jax.lax.cummax(jnp.where(begins_BL, i_BL, -1), axis=1)
        same_BL = (by_BL >= 0) & (take(b.member, jnp.maximum(by_BL, 0)) == b.member)
        asked_BL = hidden_BL & begins_BL
        asked_BL &= jnp.cumsum(asked_BL, axis=1, dtype=jnp.int32) <= self.most
        return Questions(asked_BL, batch.label - 1, jnp.where(same_BL, by_BL, -1))

    def logits(self, y_BLD: Array, batch: Batch, b: Boundaries) -> Array:
        return self.answers(y_BLD, slot(batch, b))

    def __call__(
        self, y_BLD: Array, batch: Batch, b: Boundaries, q: Questions
    ) -> tuple[Array, Array]:
        L = y_BLD.shape[1]
        # the asked ones first
        at_BM = jnp.argsort(~q.asked, axis=1, stable=True)[:, : min(self.most, L)]
        found_BM = surprise(
            self.answers(take(y_BLD, at_BM), take(slot(batch, b), at_BM)), take(q.answer, at_BM)
        )

        def back(found_M: Array, at_M: Array) -> Array:
            return jnp.zeros(L, found_M.dtype).at[at_M].set(found_M)

        nats_BL, right_BL = (jax.vmap(back)(a, at_BM) for a in found_BM)
        return nats_BL, right_BL

    @nn.compact
    def answers(self, y_BMD: Array, slot_BM: Array) -> Array:
        """Logits [B, M, V] for the pieces in these slots."""
        D = y_BMD.shape[-1]
        slots_JD = weight(self, "slot_position", (self.slots, D), init=1.0)
        slot_BMD = lookup(slots_JD, jnp.minimum(slot_BM, self.slots - 1), y_BMD.dtype)
        h_BMD = Linear(D, bias=True, name="transform")(y_BMD + slot_BMD)
        h_BMD = LayerNorm()(self, jax.nn.gelu(h_BMD, approximate=False), "transform")
        return linear(self, h_BMD, self.size)


def slot(batch: Batch, b: Boundaries) -> Array:
    """How many pieces of the same chunk begin before each element; int32 [B, L]."""
    begins_BL = (batch.label > 0).astype(jnp.int32)
    before_BL = jnp.cumsum(begins_BL, axis=1, dtype=jnp.int32) - begins_BL
    i_BL = jnp.arange(begins_BL.shape[1], dtype=jnp.int32)[None]
    first_BL = i_BL - index_in_document(runs(batch.doc, b.member))
    return before_BL - take(before_BL, first_BL)
