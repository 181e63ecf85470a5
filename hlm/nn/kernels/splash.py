"""Splash attention: the Pallas kernel that JAX ships for TPUs (block-sparse flash attention).

Blocks of keys that no query of a block reaches are skipped; groups are its segment ids. Scores are
never written to memory.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from hlm.nn.kernels.block import heads_first
from hlm.nn.kernels.kernel import Gradients, Kernel, Reach, Read, Rows
from hlm.nn.kernels.shards import on_shards

Array = jax.Array
LANES = 128  # blocks are whole multiples of it


@dataclasses.dataclass(frozen=True)
class Splash(Kernel):
    """Splash attention, in blocks of at most `block` queries and keys.

    `interpret`: run by XLA, anywhere and slowly, for tests. Cannot leave out query-only elements.
    """

    block: int = 512
    interpret: bool = False

    def forward(self, reach: Reach, rows: Rows) -> Read:
        def shard(q: Array, k: Array, v: Array, group: Array) -> Read:
            o_BHLK, (log_total_BHL,) = self.kernel(reach, q, save_residuals=True)(
                *self.prepared(q, k, v, group)
            )
            L = q.shape[1]
            return Read(heads_first(o_BHLK)[:, :L], heads_first(log_total_BHL)[:, :L])

        return on_shards(shard, *arrays(rows))

    def backward(self, reach: Reach, rows: Rows, read: Read, d_BLHK: Array) -> Gradients:
        """The kernel's own, which brings its own forward pass: JAX offers no gradient from what
        ours left.
        """

        def shard(q: Array, k: Array, v: Array, group: Array, d: Array) -> Gradients:
            def of(q: Array, k: Array, v: Array) -> Array:
                o_BHLK = self.kernel(reach, q)(*self.prepared(q, k, v, group))
                return heads_first(o_BHLK)[:, : q.shape[1]]

            return jax.vjp(of, q, k, v)[1](d)

        return on_shards(shard, *arrays(rows), d_BLHK)

    def size(self, length: int) -> int:
        """Of a block, for rows of this length."""
        return min(self.block, -(-length // LANES) * LANES)

    def prepared(self, q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, group_BL: Array) -> Any:
        """What the kernel takes: heads first, whole blocks, queries that are scaled."""
        L, K = q_BLHK.shape[1], q_BLHK.shape[3]
        more = -L % self.size(L)

        def rows(a_BL: Array, fill: int = 0) -> Array:
            widths = ((0, 0), (0, more)) + ((0, 0),) * (a_BL.ndim - 2)
            return jnp.pad(a_BL, widths, constant_values=fill)

        group_BL = rows(group_BL, -1)  # padding is a group of its own
        q_BHLK, k_BGLK, v_BGLK = (heads_first(rows(a)) for a in (q_BLHK * K**-0.5, k_BLGK, v_BLGK))
        return q_BHLK, k_BGLK, v_BGLK, splash.SegmentIds(group_BL, group_BL)

    def kernel(self, reach: Reach, q_BLHK: Array, **how: Any) -> Callable[..., Any]:
        length, heads, size = q_BLHK.shape[1], q_BLHK.shape[2], self.size(q_BLHK.shape[1])
        length = -(-length // size) * size
        mask = masks.MultiHeadMask([mask_of(reach, length)] * heads)
        sizes = splash.BlockSizes(
            block_q=size,
            block_kv=size,
            block_q_dkv=size,
            block_kv_dkv=size,
            block_q_dq=size,
            block_kv_dq=size,
        )
        made = splash.make_splash_mha(
            mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=self.interpret, **how
        )
        return jax.vmap(made)


def mask_of(reach: Reach, length: int) -> Any:
    """Who reaches whom in a row, as splash attention states it."""
    shape = (length, length)
    if reach.window is None:
        return masks.CausalMask(shape) if reach.causal else masks.FullMask(shape)
    back = reach.window - 1
    return masks.LocalMask(shape, (back, 0 if reach.causal else back), offset=0)


def arrays(rows: Rows) -> tuple[Array, Array, Array, Array]:
    """Queries, keys, values and groups."""
    if rows.marks.query_only is not None:
        raise ValueError("kernel: Splash has no query-only elements; use Best() or Blocks()")
    return rows.q_BLHK, rows.k_BLGK, rows.v_BLGK, rows.marks.group
