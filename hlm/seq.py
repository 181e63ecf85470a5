"""The one convention for rows, documents and chunks: who sees what.

    ends[t] is True: after reading element t, the level above receives one new element. It
    summarises the elements since the previous end, up to and including t, and positions >= t
    may see it. The first element of every document always ends a chunk.

One row by hand: two documents, "a bc d" cut behind its spaces and "x", each behind BOS, and two
elements of padding.

    element   0    1   2   3   4   5   6 | 7    8 | 9 10
    token     BOS  a   _   b   c   _   d | BOS  x | .  .
    doc       1    1   1   1   1   1   1 | 2    2 | 0  0
    pos       0    1   2   3   4   5   6 | 0    1 | 0  1    index in the document
    ends      1    0   1   0   0   1   0 | 1    0 | 0  0
    member    0    1   1   2   2   2   - | 3    - | -  -    chunk it is pooled into; -: none
    seen      0    0   1   1   1   2   2 | 3    3 | 3  3    newest chunk that it sees

    chunk     0   1   2   3                                 an element one level up
    at        0   2   5   7                                 the element that ends it
    number    0   1   2   0                                 index in the document: its `pos`

So "b" at 3 predicts "c" from chunks 0 and 1 and from the bytes since; chunk 2 helps from its own
end, element 5, on. "d" is the open tail of its document: no chunk holds it. Where a segmenter
departs from `member` or `seen`, it says so (hlm/model/segment.py: `members`, `visible`).

Shapes, here and everywhere: B rows, L elements of this level, S chunks (elements one level up),
D width here, E width above, H heads, K head width, V symbols, N look-ahead heads or vectors of
one chunk, M elements of a lengthened row; in attention G key heads, Q queries, T keys, R elements
of a KV cache. Other letters are local to a function.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hlm.gather import gathered
from hlm.metrics import Metrics, ratio

Array = jax.Array
Field = Any  # an array of JAX or, on the host, of numpy; or only its shape


@struct.dataclass
class Batch:
    """Packed rows, as the pipeline yields them: all [B, L]. Padding is doc == 0; its other fields
    do not matter.
    """

    token: Field  # int32: input symbols
    doc: Field  # int32: document number in the row from 1; 0 is padding
    level: Field  # uint8: how many levels end here, from symbols at or before this one only
    target: Field  # int32: next symbol of the same document
    # float32: loss weight of target; 0 for padding, and for text that is read and not learned
    weight: Field
    nbytes: Field  # uint8: text bytes that target stands for; 0 for EOS and EOW
    # int32: auxiliary labels (hlm/vocab.py); they may look ahead, so Seq has them not
    label: Field = None


@struct.dataclass
class Seq:
    """A sequence at one resolution, packed: level 0 is bytes, level 1 their chunks, and so on. All
    [B, L].
    """

    token: Array  # int32: the symbol that closes this element
    doc: Array  # int32: as in Batch
    pos: Array  # int32: index within the document
    level: Array  # uint8: as in Batch
    shared: Any = None  # what every layer of every level reads: see LM.shared
    decoding: "Decoding | None" = None  # None: rows are whole
    # bool: attends as others do, but is no key for any other element; None: all are keys
    query_only: Array | None = None

    def above(self, b: "Boundaries") -> "Seq":
        """The sequence of chunks: each field gathered at the ends."""
        token_BS, doc_BS, level_BS = (take(a, b.at) for a in (self.token, self.doc, self.level))
        decoding = None if self.decoding is None else self.decoding.above()
        return Seq(
            token_BS, jnp.where(b.used, doc_BS, 0), b.number, level_BS, self.shared, decoding
        )

    @property
    def continued(self) -> bool:
        """Whether something was read before these elements."""
        return self.decoding is not None and not self.decoding.prefill


@struct.dataclass
class Boundaries:
    """Where one level is cut into chunks. S is the static capacity."""

    ends: Array  # [B, L] bool: element t ends a chunk
    at: Array  # [B, S] int32: the element that ends chunk s
    used: Array  # [B, S] bool: chunk s exists
    first: Array  # [B, S] bool: chunk s is the first of its document
    seen: Array  # [B, L] int32: newest chunk visible at t; S: none (Segmenter.visible)
    member: Array  # [B, L] int32: chunk that t is pooled into; S = none (the tail of a document)
    pos: Array  # [B, L] int32: index of t in its document
    number: Array  # [B, S] int32: index of chunk s in its document
    prob: Array | None  # [B, L] float32: differentiable decision of a learned segmenter
    decoding: "Decoding | None" = None  # that of the chunks

    @property
    def capacity(self) -> int:
        return self.at.shape[1]


@struct.dataclass
class Decoding:
    """Incremental decoding: a row is read call by call, each a few elements that follow what was
    read before.

    A row is one document from position 0. New elements stand at its left, padding behind them; a
    row may have none. What layers remember is in KV caches (hlm/nn/kv_cache.py). A call may go back
    up to `rewind` positions and read others there: what was read at those positions leaves no
    trace.

        prefill      BOS T  h  e  _        the prompt, in one call
        a call       w  h  .  .  .         two elements, at positions 5 and 6
        a call       a  .  .  .  .         position 6 again: "h" was a draft and is taken back
    """

    prefill: bool = struct.field(pytree_node=False)  # nothing came before
    rewind: int = struct.field(pytree_node=False)  # elements of any later call at most
    ends: int = struct.field(pytree_node=False)  # of these, those that end a chunk at most
    # elements a layer without window remembers, by level
    capacity: tuple[int, ...] = struct.field(pytree_node=False)
    # elements in a chunk at most; None: not known
    longest: int | None = struct.field(pytree_node=False)
    # chunks go past the backbone (Hierarchy.run_backbone)
    draft: bool = struct.field(pytree_node=False, default=False)
    # bool: rows that may get more; a chunk's end then waits for those of all of them
    active_B: Array | None = None

    def longer(self, times: int, capacity: int) -> "Decoding":
        """For a part that makes `times` as many elements at most, `capacity` of them in a row."""
        return dataclasses.replace(
            self, capacity=(capacity, *self.capacity[1:]), rewind=times * self.rewind
        )

    def above(self) -> "Decoding":
        return dataclasses.replace(self, capacity=self.capacity[1:], longest=None)


def take(x: Array, index_BI: Array) -> Array:
    """Gather along axis 1: x [B, L, ...] at index [B, I] -> [B, I, ...].

    An index beyond the end reads the last element; who gives one masks what comes.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return _take(x, index_BI)
    return gathered(_take, x.dtype, x, index_BI)


def _take(x: Array, index_BI: Array) -> Array:
    index = index_BI.reshape(index_BI.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="clip")


def where_rows(row_B: Array, new: Any, old: Any) -> Any:
    """A tree of arrays [B, ...]: `new` in the rows that are asked for, `old` elsewhere."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(row_B.reshape(row_B.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, new, old)


def index_in_document(doc_BL: Array) -> Array:
    """Positions 0, 1, 2, ... restarting wherever the document changes."""
    i_BL = jnp.broadcast_to(jnp.arange(doc_BL.shape[1], dtype=jnp.int32)[None], doc_BL.shape)
    new_BL = jnp.pad(doc_BL[:, 1:] != doc_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return i_BL - jax.lax.cummax(jnp.where(new_BL, i_BL, 0), axis=1)


def runs(a_BL: Array, b_BL: Array) -> Array:
    """Segment ids 0, 1, 2, ... along each row: runs in which both arrays stay constant."""
    new_BL = (a_BL[:, 1:] != a_BL[:, :-1]) | (b_BL[:, 1:] != b_BL[:, :-1])
    return jnp.pad(jnp.cumsum(new_BL, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))


def prefix_noise(key: Array, seq: Seq) -> Array:
    """Uniform noise that follows from the key and the document up to each element; float32 [B, L].

    So it is the same in any row, micro-batch and device: a hash of the symbols so far is folded
    into the key.
    """

    def after(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    golden = jnp.uint32(0x9E3779B1)  # 2^32 / golden ratio, made odd
    factor_BL = jnp.where(seq.pos == 0, jnp.uint32(0), golden)
    _, hash_BL = jax.lax.associative_scan(
        after, (factor_BL, seq.token.astype(jnp.uint32) + 1), axis=1
    )
    keys_N = jax.vmap(jax.random.fold_in, (None, 0))(key, hash_BL.reshape(-1))
    return jax.vmap(jax.random.uniform)(keys_N).reshape(hash_BL.shape)


def seq_of(batch: Batch) -> Seq:
    return Seq(batch.token, batch.doc, index_in_document(batch.doc), batch.level)


def boundaries(
    ends_BL: Array, seq: Seq, capacity: int, prob_BL: Array | None = None
) -> tuple[Boundaries, Metrics]:
    """Cut rows at `ends`, forcing an end at the first element of each document and dropping ends
    beyond `capacity`.

    A dropped end loses nothing but resolution: the last chunk of the row stays open. The metric
    `overflow` counts them.
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
    # chunks that ended before t: t is pooled into the next one
    before_BL = count_BL - ends_BL.astype(jnp.int32)
    own_BL = jnp.minimum(before_BL, capacity - 1)
    # The tail of a document is in no chunk: the next one that ends, if any, is another document's.
    closed_BL = (
        (before_BL < capacity)
        & take(used_BS, own_BL)
        & (take(seq.doc, take(at_BS, own_BL)) == seq.doc)
    )
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
        decoding=None if seq.decoding is None else seq.decoding.above(),
    )
    return b, {
        "elements_per_chunk": ratio(real_BL, ends_BL),
        "overflow": ratio(asked_BL & ~ends_BL, asked_BL),
    }
