"""A Hierarchy that reads a few elements at a time. Its parts are the same; here is what passes between calls.

A chunk's vector is pooled from the remembered elements of the open chunk, by the same pool and, where the encoder sees nothing but the
chunk, the same encoder; so no part needs a second form. Remembered are the last elements (as the pool takes them), for each of them the
number of chunks so far and where the last one ended, and the backbone's last vectors. The newest of these is what elements see until
another chunk ends: it stands in front of the new chunks.

With `Stream.open_B` (calls of one element), an element that ends a chunk waits until every open row waits for the level above, and then
one call of the backbone serves all of them: it runs once per chunk, whatever the number of rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from hlm.metrics import Mean, Metrics
from hlm.nn.memory import CACHE, Ring, at, stream_of
from hlm.seq import Boundaries, Seq, boundaries, take

Array = jax.Array
# Metric [B, L] of a trunk in a stream: `total` is True where the output of an element is there. A trunk without it never waits.
READY = "ready"
MARGIN = 4  # elements before the last end that a chunk may still hold (hlm.LateWords), and the end itself


@struct.dataclass
class Elements:
    """Elements on their way through one level; all [B, L]."""

    skip: Array  # [B, L, D]: what the decoder builds on
    token: Array
    pos: Array
    level: Array
    prob: Array | None

    def seq(self, real_BL: Array, like: Seq) -> Seq:
        return Seq(self.token, real_BL.astype(jnp.int32), self.pos, self.level, like.shared, like.stream)


class Rings:
    """What a Hierarchy remembers of its elements. `h_BLD`: as the pool, or an encoder that reads again, takes them."""

    def __init__(self, hierarchy: Any, seq: Seq, h_BLD: Array):
        stream = stream_of(seq)
        reach = None if reads_again(hierarchy) else hierarchy.pool.reach
        self.history = min(reach or stream.longest[0] or stream.room[0], stream.room[0]) + MARGIN
        sizes = {"element": (self.history, h_BLD), "token": (self.history, seq.token), "level": (self.history, seq.level)}
        sizes |= {"count": (1, seq.pos), "last": (1, seq.pos)}
        self.rings = {name: Ring(hierarchy, name, size + stream.back, like) for name, (size, like) in sizes.items()}

    def write(self, seq: Seq, h_BLD: Array, count_BL: Array, last_BL: Array) -> None:
        values = {"element": h_BLD, "token": seq.token, "level": seq.level, "count": count_BL, "last": last_BL}
        for name, value in values.items():
            self.rings[name].write(value, seq.pos, seq.doc > 0)

    def before(self, pos_BL: Array) -> tuple[Array, Array]:
        """Chunks that ended before the first of these elements, and where the last one did; [B, 1] each."""
        return self.rings["count"].read(pos_BL[:, :1] - 1), self.rings["last"].read(pos_BL[:, :1] - 1)


def reads_again(hierarchy: Any) -> bool:
    """Whether the encoder serves the pool alone and sees one chunk only: it then reads a chunk once that has ended."""
    return hierarchy.skip_input and not hierarchy.segmenter.learned and hierarchy.encoder.local


def encoder_view(hierarchy: Any, seq: Seq, b: Boundaries) -> tuple[Seq, Array]:
    """How the encoder of a rule-based Hierarchy reads whole rows: their sequence, and the chunk of each element."""
    if seq.stream is None or reads_again(hierarchy):
        return seq.replace(stream=None), b.member  # pyright: ignore[reportAttributeAccessIssue]
    return seq, b.seen + 1 - b.ends.astype(jnp.int32)


def start(hierarchy: Any, x_BLD: Array, h_BLD: Array, z_BSE: Array, seq: Seq, b: Boundaries) -> None:
    """Remember the elements of the first call."""
    count_BL, few = jnp.cumsum(b.ends, axis=1, dtype=jnp.int32), 1 + stream_of(seq).back
    skip_BLD, h_BLD = x_BLD if hierarchy.skip_input else h_BLD, x_BLD if reads_again(hierarchy) else h_BLD
    Rings(hierarchy, seq, h_BLD).write(seq, h_BLD, count_BL, take(b.at, b.seen))
    Ring(hierarchy, "chunk", few, z_BSE).write(z_BSE, b.number, b.used)
    newest_B1 = jnp.maximum(jnp.sum(seq.doc > 0, axis=1, keepdims=True, dtype=jnp.int32) - 1, 0)
    held = Elements(skip_BLD, seq.token, seq.pos, seq.level, b.prob)
    hierarchy.variable(CACHE, "held", lambda: jax.tree.map(lambda a: take(a, newest_B1), held))
    hierarchy.variable(CACHE, "waits", lambda: jnp.zeros(newest_B1.shape, bool))
    hierarchy.variable(CACHE, "calls", lambda: jnp.zeros((), jnp.int32))
    hierarchy.variable(CACHE, "full", lambda: count_BL[:, -1] > stream_of(seq).room[1])


def step(hierarchy: Any, x_BLD: Array, seq: Seq, group_BL: Array | None) -> tuple[Array, Metrics]:
    """As Hierarchy.__call__, for elements that follow others."""
    stream, real_BL = stream_of(seq), seq.doc > 0
    # Encode and cut.
    h_BLD = hierarchy.encoder(x_BLD, seq, group_BL)[0] if hierarchy.segmenter.learned else x_BLD
    ends_BL, prob_BL, _ = hierarchy.segmenter(h_BLD, seq)
    ends_BL = ends_BL & real_BL
    rings = Rings(hierarchy, seq, h_BLD)
    count_B1, last_B1 = rings.before(seq.pos)
    count_BL = count_B1 + jnp.cumsum(ends_BL, axis=1, dtype=jnp.int32)
    last_BL = jnp.maximum(last_B1, jax.lax.cummax(jnp.where(ends_BL, seq.pos, -1), axis=1))
    if not hierarchy.segmenter.learned and not reads_again(hierarchy):
        h_BLD = hierarchy.encoder(x_BLD, seq, count_BL - ends_BL.astype(jnp.int32))[0]
    rings.write(seq, h_BLD, count_BL, last_BL)
    now = Elements(x_BLD if hierarchy.skip_input else h_BLD, seq.token, seq.pos, seq.level, prob_BL)

    # Who waits, and whether the level above runs now.
    inside_BL = real_BL
    if stream.open_B is None:
        run = jnp.any(ends_BL)
    else:
        held, waits = (hierarchy.variable(CACHE, name) for name in ("held", "waits"))
        now = jax.tree.map(lambda new, old: jnp.where(real_BL.reshape(-1, *[1] * (new.ndim - 1)), new, old), now, held.value)
        inside_BL, ends_BL = real_BL & ~ends_BL, jnp.where(real_BL, ends_BL, waits.value)
        real_BL = jnp.ones_like(real_BL)
        run = jnp.any(ends_BL) & jnp.all(ends_BL | ~stream.open_B[:, None])
    count_B1, last_B1 = rings.before(now.pos)
    waiting = (real_BL, ends_BL, count_B1, last_B1, {name: ring.variable.value for name, ring in rings.rings.items()})
    chunks = Ring(hierarchy, "chunk", 1 + stream.back, x_BLD)
    E, S = chunks.variable.value.shape[-1], min(now.pos.shape[1], stream.ends)

    number_BN = count_B1 - 1 + jnp.arange(1 + S, dtype=jnp.int32)[None]  # the newest chunk before, and the new ones
    before_BSE = chunks.read(number_BN[:, :1])

    def above(hierarchy: Any, waiting: Any) -> tuple[Array, Array]:
        z_BSE, seq_BS = pooled(hierarchy, seq, rings.history, now, *waiting)
        if stream.draft:
            return hierarchy.shortcut(before_BSE, z_BSE, seq_BS), seq_BS.doc > 0
        y_BSE, metrics = hierarchy.backbone(z_BSE, seq_BS, None)
        if hierarchy.shortcut is not None:  # to remember
            hierarchy.shortcut(jnp.concatenate([before_BSE, y_BSE[:, :-1]], axis=1), z_BSE, seq_BS)
        return y_BSE, metrics[READY].total if READY in metrics else seq_BS.doc > 0

    def nothing(hierarchy: Any, waiting: Any) -> tuple[Array, Array]:
        shape = (now.pos.shape[0], S)
        return jnp.zeros((*shape, E), chunks.variable.value.dtype), jnp.zeros(shape, bool)

    y_BSE, there_BS = nn.cond(run, above, nothing, hierarchy, waiting)
    if not stream.draft:
        hierarchy.variable(CACHE, "calls").value += run.astype(jnp.int32)
    chunks.write(y_BSE, number_BN[:, 1:], there_BS)
    if stream.open_B is not None:
        held.value, waits.value = (
            now,
            ends_BL & ~there_BS,
        )  # one whose chunk waits a level up is read there again, to the same effect
        ends_BL, real_BL = there_BS, inside_BL | there_BS

    # Write.
    b, _ = boundaries(ends_BL, Seq(now.token, jnp.ones_like(now.pos), 1 + now.pos, now.level), S)
    b = Boundaries(
        ends=ends_BL,
        at=jnp.concatenate([last_B1 - now.pos[:, :1], b.at], axis=1),
        used=jnp.pad(b.used, ((0, 0), (1, 0)), constant_values=True),
        first=jnp.pad(last_B1 == 0, ((0, 0), (0, S))),
        seen=jnp.cumsum(ends_BL, axis=1, dtype=jnp.int32),
        member=b.member,
        pos=now.pos,
        number=number_BN,
        prob=now.prob,
        stream=stream.above(),
    )
    z_BNE = jnp.concatenate([before_BSE, y_BSE], axis=1)
    y_BLD, _ = hierarchy.write(z_BNE, now.skip, now.seq(real_BL, seq), b)
    return y_BLD, {READY: Mean(real_BL, real_BL)}


def pooled(
    hierarchy: Any,
    like: Seq,
    history: int,
    now: Elements,
    real_BL: Array,
    ends_BL: Array,
    count_B1: Array,
    last_B1: Array,
    rings: dict[str, Array],
) -> tuple[Array, Seq]:
    """The chunks that end among `now`, in order: their vectors and sequence.

    They are pooled from a row that begins in an earlier chunk: its first elements, and BOS, end chunks that are not asked for.
    """
    L, S = now.pos.shape[1], min(now.pos.shape[1], stream_of(like).ends)
    pos_BM = now.pos[:, :1] + jnp.arange(-history, L, dtype=jnp.int32)[None]
    cut_off_BM = (pos_BM == pos_BM[:, :1]) & (pos_BM > last_B1)  # the open chunk began before this row
    old_BM = (pos_BM >= 0) & (pos_BM > last_B1 - MARGIN) | cut_off_BM
    doc_BM = jnp.concatenate([old_BM[:, :history], real_BL], axis=1).astype(jnp.int32)
    ends_BM = jnp.concatenate([((pos_BM == last_B1) | cut_off_BM)[:, :history], ends_BL], axis=1)
    row = Seq(at(rings["token"], pos_BM), doc_BM, pos_BM, at(rings["level"], pos_BM), like.shared)
    b, _ = hierarchy.bounded(ends_BM, row, 2 + S)
    skipped_B1 = jnp.sum(b.ends[:, :history], axis=1, keepdims=True, dtype=jnp.int32)
    b = b.replace(number=count_B1 - skipped_B1 + jnp.arange(2 + S, dtype=jnp.int32)[None])
    h_BMD = at(rings["element"], pos_BM)
    if reads_again(hierarchy):
        h_BMD, _ = hierarchy.encoder(h_BMD, row, b.member)
    slot_BS = jnp.minimum(skipped_B1 + jnp.arange(S, dtype=jnp.int32)[None], 1 + S)
    above = row.above(b)
    token, doc, number, level = (take(a, slot_BS) for a in (above.token, above.doc, above.pos, above.level))
    above = Seq(token, doc, number, level, like.shared, stream_of(like).above())
    return take(hierarchy.pool(h_BMD, b), slot_BS), above
