"""Windowed attention: each block of queries against the span of keys within its reach, and as many
blocks at once as memory allows.

    window 3, causal    keys  . . . a b c d e f g h    queries a-c meet . . . a b c
                                                       queries d-f meet a b c d e f
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
QUERY_BLOCK = 128  # queries in a block at most; of shorter windows, as many as those
AT_ONCE = 16 * 2**20  # bytes of scores on a device


@dataclasses.dataclass(frozen=True)
class Span:
    """How a row is cut: steps of `blocks` blocks of `block` queries, whose keys reach `before` the
    block and `after` it, both whole blocks.
    """

    length: int  # of the row
    block: int
    blocks: int
    steps: int
    before: int
    after: int

    @property
    def keys(self) -> int:
        """Of a block of queries."""
        return self.before + self.block + self.after

    @property
    def step(self) -> int:
        """Queries of a step."""
        return self.blocks * self.block

    @property
    def starts(self) -> Array:
        return self.step * jnp.arange(self.steps, dtype=jnp.int32)

    def mask(self, reach: Reach, queries: Marks, keys: Marks) -> Array:
        """Which keys of its span a query may meet: bool [B, Q, T]."""
        at_Q, at_T = jnp.arange(self.block), jnp.arange(self.keys) - self.before
        distance_QT = at_Q[:, None] - at_T[None]
        return reach.near(distance_QT)[None] & queries.meet(keys, distance_QT)

    def queries_of(self, tree: Any) -> Any:
        """Rows [B, L, ...] with room for whole steps."""
        more = self.steps * self.step - self.length
        return jax.tree.map(lambda a: padded(a, 0, more), tree)

    def keys_of(self, tree: Any) -> Any:
        """Rows [B, L, ...] with room for all that queries could reach."""
        more = self.steps * self.step - self.length + self.after
        return jax.tree.map(lambda a: padded(a, self.before, more), tree)

    def blocks_at(self, tree: Any, start: Array) -> Any:
        """Blocks of queries of the step from `start` on: [B blocks, Q, ...]."""

        def one(a_BL: Array) -> Array:
            a_BS = jax.lax.dynamic_slice_in_dim(a_BL, start, self.step, 1)
            return a_BS.reshape(-1, self.block, *a_BS.shape[2:])

        return jax.tree.map(one, tree)

    def in_a_row(self, a_BQ: Array) -> Array:
        """[B blocks, Q, ...] -> [B, blocks Q, ...]"""
        return a_BQ.reshape(-1, self.step, *a_BQ.shape[2:])

    def keys_at(self, tree: Any, start: Array) -> Any:
        """Keys of the step from `start` on: [B, S, ...]."""
        size = self.before + self.step + self.after
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size, 1), tree)

    def spans(self, a_BS: Array) -> Array:
        """Keys of a step -> those of each of its blocks, which overlap: [B blocks, T, ...]."""
        if self.blocks == 1:
            return a_BS
        wide = a_BS.reshape(a_BS.shape[0], -1, self.block, *a_BS.shape[2:])
        shifts = range(self.keys // self.block)
        spans = jnp.concatenate([wide[:, i : i + self.blocks] for i in shifts], axis=2)
        return spans.reshape(-1, self.keys, *a_BS.shape[2:])

    def summed(self, a_BT: Array, rows: int) -> Array:
        """The transpose of `spans`: what blocks give to the same key, summed."""
        if self.blocks == 1:
            return a_BT
        size = self.before + self.step + self.after
        like = jax.ShapeDtypeStruct((rows, size, *a_BT.shape[2:]), a_BT.dtype)
        return jax.linear_transpose(self.spans, like)(a_BT)[0]


def padded(a_BL: Array, before: int, after: int) -> Array:
    fill = -1 if a_BL.dtype == jnp.int32 else 0  # padding is a group of its own
    widths = ((0, 0), (before, after)) + ((0, 0),) * (a_BL.ndim - 2)
    return jnp.pad(a_BL, widths, constant_values=fill)


def span_of(reach: Reach, q_shape: tuple[int, ...]) -> Span:
    B, L, H = q_shape[:3]
    assert reach.window is not None
    size = min(reach.window, QUERY_BLOCK)
    before = -(-(reach.window - 1) // size) * size
    after = 0 if reach.causal else before
    blocks = -(-L // size)
    scores = 4 * B * H * blocks * size * (before + size + after)
    mesh = jax.sharding.get_abstract_mesh()
    steps = min(-(-scores // (AT_ONCE * (1 if mesh.empty else mesh.size))), blocks)
    at_once = -(-blocks // steps)
    return Span(L, size, at_once, -(-blocks // at_once), before, after)


def forward(reach: Reach, rows: Rows) -> Read:
    """As in `Kernel`."""
    span = span_of(reach, rows.q_BLHK.shape)
    queries = span.queries_of((rows.q_BLHK, rows.marks))
    keys = span.keys_of((rows.k_BLGK, rows.v_BLGK, rows.marks))

    def one(start: Array) -> Read:
        q_BQHK, marks_BQ = span.blocks_at(queries, start)
        k_BTGK, v_BTGK, marks_BT = jax.tree.map(span.spans, span.keys_at(keys, start))
        q, k, v = map(heads_first, (q_BQHK, k_BTGK, v_BTGK))
        found = block.forward(q, k, v, span.mask(reach, marks_BQ, marks_BT))
        return Read(*(span.in_a_row(heads_first(a)) for a in found))

    return jax.tree.map(lambda a: a[:, : rows.length], each(one, span.starts))


def backward(reach: Reach, rows: Rows, read: Read, d_BLHK: Array) -> Gradients:
    span, L = span_of(reach, rows.q_BLHK.shape), rows.length
    queries = span.queries_of((rows.q_BLHK, read.o_BLHK, read.log_total_BLH, d_BLHK, rows.marks))
    keys = span.keys_of((rows.k_BLGK, rows.v_BLGK, rows.marks))
    sums = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), keys[:2])

    def one(sums: Any, start: Array) -> tuple[Any, Array]:
        q, o, log_total, d, marks_BQ = span.blocks_at(queries, start)
        k, v, marks_BT = jax.tree.map(span.spans, span.keys_at(keys, start))
        mask_BQT = span.mask(reach, marks_BQ, marks_BT)
        q, k, v, o, log_total, d = map(heads_first, (q, k, v, o, log_total, d))
        dq, *dkv = block.backward(q, k, v, mask_BQT, o, log_total, d)
        dkv = tuple(span.summed(heads_first(a), d_BLHK.shape[0]) for a in dkv)
        old = span.keys_at(sums, start)
        new = jax.tree.map(
            lambda all, old, more: jax.lax.dynamic_update_slice_in_dim(all, old + more, start, 1),
            sums,
            old,
            dkv,
        )
        return new, span.in_a_row(heads_first(dq))

    sums, dq_BLHK = each_summed(one, sums, span.starts)
    at = slice(span.before, span.before + L)
    dk_BLGK, dv_BLGK = (a[:, at].astype(rows.k_BLGK.dtype) for a in sums)
    return dq_BLHK[:, :L], dk_BLGK, dv_BLGK
