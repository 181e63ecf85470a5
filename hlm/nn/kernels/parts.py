"""Full attention in parts of a row, each of which leaves out the keys that it cannot reach, and in
blocks of queries within each part.

A causal row of 8 parts computes 36 of their 64 squares. Rows of up to PARTS blocks have no loops.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hlm.nn.kernels import block
from hlm.nn.kernels.block import heads_first
from hlm.nn.kernels.each import each, each_summed
from hlm.nn.kernels.kernel import Gradients, Marks, Reach, Read, Rows

Array = jax.Array
QUERY_BLOCK = 128  # queries in a block
PARTS = 8  # of a row, at most


@dataclasses.dataclass(frozen=True)
class Part:
    """Queries start..stop of a row, and the keys that they reach: first..last."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def block(self) -> int:
        """Queries in a block; parts of several blocks are whole ones."""
        return min(QUERY_BLOCK, self.stop - self.start)

    @property
    def starts(self) -> Array:
        return jnp.arange(self.start, self.stop, self.block, dtype=jnp.int32)

    def keys(self, a_BHLK: Array) -> Array:
        return a_BHLK[:, :, self.first : self.last]

    def queries(self, a_BHL: Array, start: Array, axis: int = 2) -> Array:
        return jax.lax.dynamic_slice_in_dim(a_BHL, start, self.block, axis)

    def mask(self, reach: Reach, marks: Marks, start: Array) -> Array:
        """Of the block of queries from `start` on, which keys they may meet; bool [B, Q, T]."""
        at_Q = start + jnp.arange(self.block, dtype=jnp.int32)
        distance_QT = at_Q[:, None] - jnp.arange(self.first, self.last, dtype=jnp.int32)[None]
        queries = jax.tree.map(lambda a: self.queries(a, start, 1), marks)
        keys = jax.tree.map(lambda a: a[:, self.first : self.last], marks)
        return reach.near(distance_QT)[None] & queries.meet(keys, distance_QT)


def parts_of(reach: Reach, length: int) -> list[Part]:
    size = max(QUERY_BLOCK, -(-length // PARTS))
    if length > PARTS * QUERY_BLOCK:
        everywhere = not reach.causal and reach.window is None
        size = length if everywhere else -(-size // QUERY_BLOCK) * QUERY_BLOCK
    back = length if reach.window is None else reach.window - 1
    found = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        last = stop if reach.causal else min(stop + back, length)
        found.append(Part(start, stop, max(start - back, 0), last))
    return found


def forward(reach: Reach, rows: Rows) -> Read:
    """As in `Kernel`. Heads are brought to the front once, not for every block."""
    padded = jax.tree.map(whole, rows)
    q_BHLK, k_BGLK, v_BGLK = map(heads_first, (padded.q_BLHK, padded.k_BLGK, padded.v_BLGK))

    def of(part: Part) -> Read:
        k_BGTK, v_BGTK = part.keys(k_BGLK), part.keys(v_BGLK)

        def one(start: Array) -> Read:
            q_BHQK, mask_BQT = part.queries(q_BHLK, start), part.mask(reach, padded.marks, start)
            return Read(*map(heads_first, block.forward(q_BHQK, k_BGTK, v_BGTK, mask_BQT)))

        return each(one, part.starts)

    found = [of(part) for part in parts_of(reach, q_BHLK.shape[2])]
    read = jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *found)
    return jax.tree.map(lambda a: a[:, : rows.length], read)


def backward(reach: Reach, rows: Rows, read: Read, d_BLHK: Array) -> Gradients:
    L, marks = rows.length, jax.tree.map(whole, rows.marks)
    given = (rows.q_BLHK, rows.k_BLGK, rows.v_BLGK, read.o_BLHK, read.log_total_BLH, d_BLHK)
    q_BHLK, k_BGLK, v_BGLK, o_BHLK, log_total_BHL, d_BHLK = (heads_first(whole(a)) for a in given)
    dkv = (jnp.zeros(k_BGLK.shape, jnp.float32), jnp.zeros(v_BGLK.shape, jnp.float32))
    dq = []
    for part in parts_of(reach, q_BHLK.shape[2]):
        k_BGTK, v_BGTK = part.keys(k_BGLK), part.keys(v_BGLK)

        def one(
            sums: Any, start: Array, part: Part = part, k: Array = k_BGTK, v: Array = v_BGTK
        ) -> tuple[Any, Array]:
            q, o, total, d = (
                part.queries(a, start) for a in (q_BHLK, o_BHLK, log_total_BHL, d_BHLK)
            )
            mask_BQT = part.mask(reach, marks, start)
            dq_BHQK, *more = block.backward(q, k, v, mask_BQT, o, total, d)
            return jax.tree.map(jnp.add, sums, tuple(more)), heads_first(dq_BHQK)

        sums, dq_BLHK = each_summed(one, jax.tree.map(part.keys, dkv), part.starts)
        at = (slice(None), slice(None), slice(part.first, part.last))
        dkv = jax.tree.map(lambda a, sum, at=at: a.at[at].set(sum), dkv, sums)
        dq.append(dq_BLHK)
    dk_BLGK, dv_BLGK = (
        heads_first(a)[:, :L].astype(like.dtype)
        for a, like in zip(dkv, (rows.k_BLGK, rows.v_BLGK), strict=True)
    )
    return jnp.concatenate(dq, axis=1)[:, :L], dk_BLGK, dv_BLGK


def whole(a_BL: Array) -> Array:
    """[B, L, ...] with padding behind it, so that parts of several blocks are whole blocks."""
    length = a_BL.shape[1]
    more = -length % QUERY_BLOCK if length > PARTS * QUERY_BLOCK else 0
    fill = -1 if a_BL.dtype == jnp.int32 else 0  # padding is a group of its own
    return jnp.pad(a_BL, ((0, 0), (0, more)) + ((0, 0),) * (a_BL.ndim - 2), constant_values=fill)
