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
class Stream:
    """A row is read piece by piece: one document, from position 0, each call a few elements that follow what was read (hlm/nn/memory.py).

    New elements stand at the left of a row, padding behind them; a row may have none. A call may go back up to `back` positions and
    read others there: what was read at those positions leaves no trace.
    """

    fresh: bool = struct.field(pytree_node=False)  # nothing came before
    back: int = struct.field(pytree_node=False)  # elements of any later call at most
    ends: int = struct.field(pytree_node=False)  # of these, those that end a chunk at most
    room: tuple[int, ...] = struct.field(pytree_node=False)  # elements that a layer without a window remembers, at each level
    longest: tuple[int | None, ...] = struct.field(pytree_node=False)  # elements in a chunk at most; None: not known
    draft: bool = struct.field(pytree_node=False, default=False)  # chunks go past the backbone, by Hierarchy.shortcut
    open_B: Array | None = None  # bool: rows that may get more elements; a chunk's end then waits for those of all of them

    def longer(self, times: int, room: int) -> "Stream":
        """For the elements of a part that makes `times` as many at most, `room` of them in a row."""
        return self.replace(room=(room, *self.room[1:]), back=times * self.back)  # pyright: ignore[reportAttributeAccessIssue]

    def above(self) -> "Stream":
        return self.replace(room=self.room[1:], longest=self.longest[1:])  # pyright: ignore[reportAttributeAccessIssue]


@struct.dataclass
class Seq:
    """One resolution of packed rows: level 0 is bytes, level 1 their chunks, and so on. All [B, L]."""

    token: Array  # int32: the symbol that closes this element
    doc: Array  # int32: as in Batch
    pos: Array  # int32: index within the document
    level: Array  # uint8: as in Batch
    shared: Any = None  # what every layer of every level reads: see LM.shared
    stream: Stream | None = None  # None: rows are whole
    hidden: Array | None = None  # bool: attends as others do, but no other element attends to it; None: nothing is hidden

    def above(self, b: "Boundaries") -> "Seq":
        """The sequence of chunks: each field gathered at the ends."""
        token_BS, doc_BS, level_BS = (take(a, b.at) for a in (self.token, self.doc, self.level))
        stream = None if self.stream is None else self.stream.above()
        return Seq(token_BS, jnp.where(b.used, doc_BS, 0), b.number, level_BS, self.shared, stream)

    @property
    def begun(self) -> bool:
        """Whether something was read before these elements."""
        return self.stream is not None and not self.stream.fresh


@struct.dataclass
class Boundaries:
    """Where one level is cut into chunks. S is the static capacity."""

    ends: Array  # [B, L] bool: element t ends a chunk
    at: Array  # [B, S] int32: the element that ends chunk s
    used: Array  # [B, S] bool: chunk s exists
    first: Array  # [B, S] bool: chunk s is the first of its document
    seen: Array  # [B, L] int32: newest chunk visible at t
    member: Array  # [B, L] int32: chunk that t is pooled into; S = none (the tail of a document)
    pos: Array  # [B, L] int32: index of t in its document
    number: Array  # [B, S] int32: index of chunk s in its document
    prob: Array | None  # [B, L] float32: differentiable decision of a learned segmenter
    stream: Stream | None = None  # that of the chunks

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
    doc_BS = jnp.where(used_BS, take(seq.doc, at_BS), 0)
    b = Boundaries(
        ends=ends_BL,
        at=at_BS,
        used=used_BS,
        first=used_BS & (take(seq.pos, at_BS) == 0),
        seen=jnp.maximum(count_BL - 1, 0),
        member=jnp.where(closed_BL & real_BL, own_BL, capacity),
        pos=seq.pos,
        number=index_in_document(doc_BS),
        prob=prob_BL,
        stream=None if seq.stream is None else seq.stream.above(),
    )
    return b, {"elements_per_chunk": ratio(real_BL, ends_BL), "overflow": ratio(asked_BL & ~ends_BL, asked_BL)}
