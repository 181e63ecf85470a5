"""Incremental decoding of a Hierarchy: the prefill, and calls of a few elements that follow.

A chunk's vector is pooled from the remembered elements of the open chunk, by the same pool and,
where the encoder sees nothing but the chunk, by the same encoder; so no part needs a second form.
What passes between calls is one `State`.

A call of two elements in the text "a bc d", after "BOS a _ b" were read; of its chunks the newest
one before the call stands first:

    element    c  _        positions 4 and 5
    ends       0  1        chunk 2 ends: pooled from the remembered "b" and the new "c", "_"
    chunks     1 | 2       its vector joins that of chunk 1, which was the newest
    seen       0  1        what follows "c" comes from chunk 1, what follows "_" from chunk 2

With `Decoding.active_B` (calls of one element), an element that ends a chunk waits until every
active row waits for the level above, and then one call of the backbone serves all of them: it
runs once per chunk, whatever the number of rows.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from hlm.auxiliary import Aux, Ready
from hlm.nn.kv_cache import CACHE, Bounded, Ring, decoding_of
from hlm.seq import Boundaries, Seq, boundaries, take, where_rows

if TYPE_CHECKING:
    from hlm.model.hierarchy import Hierarchy

Array = jax.Array


@struct.dataclass
class Elements:
    """Elements on their way through one level; all [B, L]."""

    skip: Array  # [B, L, D]: what the decoder builds on
    token: Array
    pos: Array
    level: Array
    prob: Array | None

    def seq(self, real_BL: Array, like: Seq) -> Seq:
        return Seq(
            self.token, real_BL.astype(jnp.int32), self.pos, self.level, like.shared, like.decoding
        )


@struct.dataclass
class State(Bounded):
    """What a Hierarchy keeps from call to call."""

    # of each element what the pool takes, or the encoder, if it reads finished chunks
    element: Ring
    token: Ring
    level: Ring
    count: Ring  # chunks that ended up to an element, itself included
    last: Ring  # position at which the newest of them ended
    chunk: Ring  # the backbone's outputs, by number of the chunk; the newest is what elements see
    held: Elements  # [B, 1]: the newest element of each row, which may wait for its chunk
    waits_B1: Array  # bool: it does
    calls: Array  # int32: calls of the backbone
    full_B: Array
    capacity: int = struct.field(pytree_node=False)  # chunks that the backbone has room for

    @property
    def crowded_B(self) -> Array:
        """Rows whose next chunk may have no room in the backbone's caches; bool."""
        return jnp.max(self.count.values, axis=1) >= self.capacity

    def before(self, pos_BL: Array) -> tuple[Array, Array]:
        """Chunks that ended before the first of these elements, and where the last one did; [B, 1]
        each.
        """
        return self.count.read(pos_BL[:, :1] - 1), self.last.read(pos_BL[:, :1] - 1)

    def with_elements(self, seq: Seq, h_BLD: Array, count_BL: Array, last_BL: Array) -> "State":
        new = {
            "element": h_BLD,
            "token": seq.token,
            "level": seq.level,
            "count": count_BL,
            "last": last_BL,
        }
        rings = {
            name: getattr(self, name).write(value, seq.pos, seq.doc > 0)
            for name, value in new.items()
        }
        return dataclasses.replace(self, **rings)


@struct.dataclass
class Chunks:
    """The newest chunk before these elements and those that end among them, N = 1 + S of them."""

    z_BNE: Array  # the backbone's outputs
    number_BN: Array  # index in the document
    there_BS: Array  # bool: a new chunk whose output is there


def encodes_finished_chunks(h: "Hierarchy") -> bool:
    """Whether the encoder serves the pool alone and sees one chunk only: it then reads a chunk
    once, when it has ended.
    """
    return h.skip_input and not h.segmenter.learned and h.encoder.chunk_local  # pyright: ignore[reportAttributeAccessIssue]


def advance(h: "Hierarchy", x_BLD: Array, seq: Seq, group_BL: Array | None) -> tuple[Array, Aux]:
    """As Hierarchy.__call__, in decoding."""
    if not seq.continued:
        return prefill(h, x_BLD, seq, group_BL)
    variable = h.variable(CACHE, "state")
    step = block_step if decoding_of(seq).active_B is None else waiting_step
    y_BLD, there_BL, variable.value = step(h, variable.value, x_BLD, seq, group_BL)
    return y_BLD, Aux(left=(Ready(there_BL),))


def prefill(h: "Hierarchy", x_BLD: Array, seq: Seq, group_BL: Array | None) -> tuple[Array, Aux]:
    """The first call: as in whole rows, and what later calls need is remembered."""
    decoding = decoding_of(seq)
    # Rows are not packed: more chunks than there is room for are an error that the reader hears of,
    # not an overflow.
    capacity = min(decoding.capacity[1] + 1, seq.token.shape[1])
    whole = dataclasses.replace(seq, decoding=None)
    if h.segmenter.learned:
        h_BLD, _ = h.encoder(x_BLD, seq, group_BL)
        ends_BL, prob_BL, _ = h.segmenter(h_BLD, seq)
        b, _ = h.bounded(ends_BL, seq, capacity, prob_BL)
    else:
        ends_BL, prob_BL, _ = h.segmenter(x_BLD, seq)
        b, _ = h.bounded(ends_BL, seq, capacity, prob_BL)
        # also of the open tail, on which the next call builds
        open_BL = b.seen + 1 - b.ends.astype(jnp.int32)
        finished = encodes_finished_chunks(h)
        h_BLD, _ = h.encoder(x_BLD, whole, b.member) if finished else h.encoder(x_BLD, seq, open_BL)
    z_BSE, _ = h.run_backbone(h.pool(h_BLD, b), seq.above(b))

    count_BL = jnp.cumsum(b.ends, axis=1, dtype=jnp.int32)
    skip_BLD = x_BLD if h.skip_input else h_BLD
    kept_BLD, few = x_BLD if encodes_finished_chunks(h) else h_BLD, 1 + decoding.rewind
    newest_B1 = jnp.maximum(jnp.sum(seq.doc > 0, axis=1, keepdims=True, dtype=jnp.int32) - 1, 0)
    held = Elements(skip_BLD, seq.token, seq.pos, seq.level, b.prob)

    def start() -> State:
        size = history(h, seq) + decoding.rewind
        state = State(
            element=Ring.empty(size, kept_BLD),
            token=Ring.empty(size, seq.token),
            level=Ring.empty(size, seq.level),
            count=Ring.empty(few, seq.pos),
            last=Ring.empty(few, seq.pos),
            chunk=Ring.empty(few, z_BSE).write(z_BSE, b.number, b.used),
            held=jax.tree.map(lambda a: take(a, newest_B1), held),
            waits_B1=jnp.zeros(newest_B1.shape, bool),
            calls=jnp.zeros((), jnp.int32),
            full_B=count_BL[:, -1] > decoding.capacity[1],
            capacity=decoding.capacity[1],
        )
        return state.with_elements(seq, kept_BLD, count_BL, take(b.at, b.seen))

    h.variable(CACHE, "state", start)
    return h.write(z_BSE, skip_BLD, seq, b)


def block_step(
    h: "Hierarchy", state: State, x_BLD: Array, seq: Seq, group_BL: Array | None
) -> tuple[Array, Array, State]:
    """Read a block of elements: the level above runs whenever any of them ends a chunk. (y, which
    outputs are there, state).
    """
    state, now, ends_BL = encode(h, state, x_BLD, seq, group_BL)
    real_BL = seq.doc > 0
    chunks, state = new_chunks(h, state, seq, now, real_BL, ends_BL, jnp.any(ends_BL))
    return write(h, state, seq, now, real_BL, ends_BL, chunks), real_BL, state


def waiting_step(
    h: "Hierarchy", state: State, x_BLD: Array, seq: Seq, group_BL: Array | None
) -> tuple[Array, Array, State]:
    """Read one element of each row that does not wait: the level above runs when all active rows
    wait for it.

    A row without a new element goes on with the one that it holds. The output of an element that
    waits comes with a later call.
    """
    state, now, ends_B1 = encode(h, state, x_BLD, seq, group_BL)
    new_B1 = seq.doc > 0
    now = where_rows(new_B1[:, 0], now, state.held)
    inside_B1, ends_B1 = new_B1 & ~ends_B1, jnp.where(new_B1, ends_B1, state.waits_B1)
    active_B = decoding_of(seq).active_B
    assert active_B is not None
    run = jnp.any(ends_B1) & jnp.all(ends_B1 | ~active_B[:, None])
    chunks, state = new_chunks(h, state, seq, now, jnp.ones_like(new_B1), ends_B1, run)
    # One whose chunk waits a level up is read there again, to the same effect.
    there_B1 = chunks.there_BS
    state = dataclasses.replace(state, held=now, waits_B1=ends_B1 & ~there_B1)
    real_B1 = inside_B1 | there_B1
    return write(h, state, seq, now, real_B1, there_B1, chunks), real_B1, state


def encode(
    h: "Hierarchy", state: State, x_BLD: Array, seq: Seq, group_BL: Array | None
) -> tuple[State, Elements, Array]:
    """Encode and cut new elements, and remember them: (state, the elements, which of them end a
    chunk).
    """
    h_BLD = h.encoder(x_BLD, seq, group_BL)[0] if h.segmenter.learned else x_BLD
    ends_BL, prob_BL, _ = h.segmenter(h_BLD, seq)
    ends_BL = ends_BL & (seq.doc > 0)
    count_B1, last_B1 = state.before(seq.pos)
    count_BL = count_B1 + jnp.cumsum(ends_BL, axis=1, dtype=jnp.int32)
    last_BL = jnp.maximum(last_B1, jax.lax.cummax(jnp.where(ends_BL, seq.pos, -1), axis=1))
    if not h.segmenter.learned and not encodes_finished_chunks(h):
        h_BLD = h.encoder(x_BLD, seq, count_BL - ends_BL.astype(jnp.int32))[0]
    skip_BLD = x_BLD if h.skip_input else h_BLD
    now = Elements(skip_BLD, seq.token, seq.pos, seq.level, prob_BL)
    return state.with_elements(seq, h_BLD, count_BL, last_BL), now, ends_BL


def new_chunks(
    h: "Hierarchy",
    state: State,
    seq: Seq,
    now: Elements,
    real_BL: Array,
    ends_BL: Array,
    run: Array,
) -> tuple[Chunks, State]:
    """Run the level above over the chunks that end among `now`, if `run`."""
    count_B1, _ = state.before(now.pos)
    S = min(now.pos.shape[1], decoding_of(seq).ends)
    number_BN = count_B1 - 1 + jnp.arange(1 + S, dtype=jnp.int32)[None]
    before_B1E = state.chunk.read(number_BN[:, :1])

    def above(h: "Hierarchy", given: Any) -> tuple[Array, Array]:
        z_BSE, seq_BS = pooled(h, seq, *given)
        y_BSE, aux = h.run_backbone(z_BSE, seq_BS, before_B1E)
        ready = aux.first(Ready)
        return y_BSE, seq_BS.doc > 0 if ready is None else ready.there_BL

    def nothing(h: "Hierarchy", given: Any) -> tuple[Array, Array]:
        shape = (now.pos.shape[0], S)
        return jnp.zeros((*shape, before_B1E.shape[-1]), before_B1E.dtype), jnp.zeros(shape, bool)

    y_BSE, there_BS = nn.cond(run, above, nothing, h, (state, now, real_BL, ends_BL))
    calls = state.calls if decoding_of(seq).draft else state.calls + run.astype(jnp.int32)
    state = dataclasses.replace(
        state, chunk=state.chunk.write(y_BSE, number_BN[:, 1:], there_BS), calls=calls
    )
    return Chunks(jnp.concatenate([before_B1E, y_BSE], axis=1), number_BN, there_BS), state


def pooled(
    h: "Hierarchy", like: Seq, state: State, now: Elements, real_BL: Array, ends_BL: Array
) -> tuple[Array, Seq]:
    """The chunks that end among `now`, in order: their vectors and sequence.

    They are pooled from a row that begins in an earlier chunk: its first elements, and BOS, end
    chunks that are not asked for.
    """
    size = history(h, like)
    count_B1, last_B1 = state.before(now.pos)
    L, S = now.pos.shape[1], min(now.pos.shape[1], decoding_of(like).ends)
    pos_BM = now.pos[:, :1] + jnp.arange(-size, L, dtype=jnp.int32)[None]
    # the open chunk began before this row
    cut_off_BM = (pos_BM == pos_BM[:, :1]) & (pos_BM > last_B1)
    old_BM = (pos_BM >= 0) & (pos_BM >= last_B1 - h.segmenter.overlap) | cut_off_BM
    doc_BM = jnp.concatenate([old_BM[:, :size], real_BL], axis=1).astype(jnp.int32)
    ends_BM = jnp.concatenate([((pos_BM == last_B1) | cut_off_BM)[:, :size], ends_BL], axis=1)
    row = Seq(state.token.read(pos_BM), doc_BM, pos_BM, state.level.read(pos_BM), like.shared)
    b, _ = h.bounded(ends_BM, row, 2 + S)
    skipped_B1 = jnp.sum(b.ends[:, :size], axis=1, keepdims=True, dtype=jnp.int32)
    b = dataclasses.replace(
        b, number=count_B1 - skipped_B1 + jnp.arange(2 + S, dtype=jnp.int32)[None]
    )
    h_BMD = state.element.read(pos_BM)
    if encodes_finished_chunks(h):
        h_BMD, _ = h.encoder(h_BMD, row, b.member)
    slot_BS = jnp.minimum(skipped_B1 + jnp.arange(S, dtype=jnp.int32)[None], 1 + S)
    above = row.above(b)
    token, doc, number, level = (
        take(a, slot_BS) for a in (above.token, above.doc, above.pos, above.level)
    )
    above = Seq(token, doc, number, level, like.shared, decoding_of(like).above())
    return take(h.pool(h_BMD, b), slot_BS), above


def history(h: "Hierarchy", seq: Seq) -> int:
    """Elements before a call that a chunk of its may hold, and the end before them."""
    decoding = decoding_of(seq)
    reach = None if encodes_finished_chunks(h) else h.pool.reach  # pyright: ignore[reportAttributeAccessIssue]
    most = decoding.capacity[0]
    return min(reach or decoding.longest or most, most) + h.segmenter.overlap + 1  # pyright: ignore[reportOperatorIssue]


def write(
    h: "Hierarchy",
    state: State,
    seq: Seq,
    now: Elements,
    real_BL: Array,
    ends_BL: Array,
    chunks: Chunks,
) -> Array:
    """The way down for `now`, which sees the newest chunk before and the new ones."""
    last_B1, S = state.before(now.pos)[1], chunks.there_BS.shape[1]
    b, _ = boundaries(ends_BL, Seq(now.token, jnp.ones_like(now.pos), 1 + now.pos, now.level), S)
    b = Boundaries(
        ends=ends_BL,
        at=jnp.concatenate([last_B1 - now.pos[:, :1], b.at], axis=1),
        used=jnp.pad(b.used, ((0, 0), (1, 0)), constant_values=True),
        first=jnp.pad(last_B1 == 0, ((0, 0), (0, S))),
        seen=jnp.cumsum(ends_BL, axis=1, dtype=jnp.int32),
        member=b.member,
        pos=now.pos,
        number=chunks.number_BN,
        prob=now.prob,
        decoding=decoding_of(seq).above(),
    )
    return h.write(chunks.z_BNE, now.skip, now.seq(real_BL, seq), b)[0]
