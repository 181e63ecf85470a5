"""The one convention for rows, documents and chunks; nothing else in the project decides who sees what.

    ends[t] is True: after reading element t, the level above receives one new element. It summarises the elements since the
    previous end, up to and including t, and positions >= t may see it. The first element of every document always ends a chunk.

Shapes, here and everywhere: B rows, L elements of this level, S chunks (elements one level up), D width here, E width above,
H heads, K head width, N look-ahead heads, V symbols.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hlm.metrics import Metrics, ratio

Array = jax.Array
Field = Any  # an array of JAX or, on the host, of numpy; or only its shape


@struct.dataclass
class Batch:
    """What the pipeline yields: packed rows, all [B, L]. Padding is doc == 0; its other fields do not matter."""

    token: Field  # int32: input symbols
    doc: Field  # int32: document number in the row from 1; 0 is padding
    level: Field  # uint8: how many levels end here, from symbols at or before this one only
    target: Field  # int32: next symbol of the same document
    weight: Field  # float32: loss weight of target; 0 for padding
    nbytes: Field  # uint8: text bytes that target stands for; 0 for EOS and EOW
    example: Field = None  # int32: what a part learns from besides the symbols, see Examples; may look ahead, so Seq has it not


@struct.dataclass
class Seq:
    """One resolution of packed rows: level 0 is bytes, level 1 their chunks, and so on. All [B, L]."""

    token: Array  # int32: the symbol that closes this element
    doc: Array  # int32: as in Batch
    pos: Array  # int32: index within the document
    level: Array  # uint8: as in Batch
    shared: Any = None  # what every layer of every level reads: see LM.shared

    def above(self, b: "Boundaries") -> "Seq":
        """The sequence of chunks: each field gathered at the ends."""
        token_BS, doc_BS, level_BS = (take(a, b.at) for a in (self.token, self.doc, self.level))
        doc_BS = jnp.where(b.used, doc_BS, 0)
        return Seq(token_BS, doc_BS, index_in_document(doc_BS), level_BS, self.shared)


@struct.dataclass
class Boundaries:
    """Where one level is cut into chunks. S is the static capacity."""

    ends: Array  # [B, L] bool: element t ends a chunk
    at: Array  # [B, S] int32: the element that ends chunk s
    used: Array  # [B, S] bool: chunk s exists
    first: Array  # [B, S] bool: chunk s is the first of its document
    seen: Array  # [B, L] int32: newest chunk visible at t
    member: Array  # [B, L] int32: chunk that t is pooled into; S = none (the tail of a document)
    prob: Array | None  # [B, L] float32: differentiable decision of a learned segmenter

    @property
    def capacity(self) -> int:
        return self.at.shape[1]

    def late(self, seq: Seq) -> "Boundaries":
        """A chunk is seen from the element behind its end on; only BOS sees its own."""
        return self.replace(seen=self.seen - (self.ends & (seq.pos > 0)).astype(jnp.int32))  # pyright: ignore[reportAttributeAccessIssue]


def take(x: Array, index_BI: Array) -> Array:
    """x [B, L, ...] at index [B, I] along axis 1 -> [B, I, ...]. Indices must be in range."""
    index = index_BI.reshape(index_BI.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="clip")


def index_in_document(doc_BL: Array) -> Array:
    """0, 1, 2, ... restarting wherever the document changes."""
    i_BL = jnp.broadcast_to(jnp.arange(doc_BL.shape[1], dtype=jnp.int32)[None], doc_BL.shape)
    new_BL = jnp.pad(doc_BL[:, 1:] != doc_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return i_BL - jax.lax.cummax(jnp.where(new_BL, i_BL, 0), axis=1)


def seq_of(batch: Batch) -> Seq:
    return Seq(batch.token, batch.doc, index_in_document(batch.doc), batch.level)


def boundaries(ends_BL: Array, seq: Seq, capacity: int, prob_BL: Array | None = None) -> tuple[Boundaries, Metrics]:
    """Cut rows at `ends`, forcing an end at the first element of each document and dropping ends beyond `capacity`.

    A dropped end loses nothing but resolution: the last chunk of the row stays open. The metric `overflow` counts them.
    """
    L = ends_BL.shape[1]
    real_BL = seq.doc > 0
    asked_BL = (ends_BL | (seq.pos == 0)) & real_BL
    ends_BL = asked_BL & (jnp.cumsum(asked_BL, axis=1, dtype=jnp.int32) <= capacity)
    count_BL = jnp.cumsum(ends_BL, axis=1, dtype=jnp.int32)  # chunks that ended at or before t
    slot_BL = jnp.where(ends_BL, count_BL - 1, capacity)
    nowhere_S, t_L = jnp.full(capacity, L - 1, jnp.int32), jnp.arange(L, dtype=jnp.int32)
    at_BS = jax.vmap(lambda slot_L: nowhere_S.at[slot_L].set(t_L, mode="drop"))(slot_BL)
    used_BS = jnp.arange(capacity, dtype=jnp.int32)[None] < count_BL[:, -1:]
    before_BL = count_BL - ends_BL.astype(jnp.int32)  # chunks that ended before t: t is pooled into the next one
    own_BL = jnp.minimum(before_BL, capacity - 1)
    closed_BL = (before_BL < capacity) & take(used_BS, own_BL) & (take(seq.doc, take(at_BS, own_BL)) == seq.doc)
    b = Boundaries(
        ends=ends_BL,
        at=at_BS,
        used=used_BS,
        first=used_BS & (take(seq.pos, at_BS) == 0),
        seen=jnp.maximum(count_BL - 1, 0),
        member=jnp.where(closed_BL & real_BL, own_BL, capacity),
        prob=prob_BL,
    )
    return b, {"elements_per_chunk": ratio(real_BL, ends_BL), "overflow": ratio(asked_BL & ~ends_BL, asked_BL)}
