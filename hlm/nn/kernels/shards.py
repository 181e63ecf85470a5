"""Kernels on a mesh: the compiler cannot divide them, so each device runs one on its own rows and
heads.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from hlm.sharding import RULES, spec


def on_shards(of: Callable[..., Any], q_BLHK: jax.Array, k_BLGK: jax.Array, *others: Any) -> Any:
    """`of` on queries, keys, values and other arrays of rows, on each device's rows and heads.

    Rows [B, L] are divided by `batch`, [B, L, H, ...] also by `heads`, where they divide both
    queries' and keys' heads. Outside a mesh, `of` itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    arrays = (q_BLHK, k_BLGK, *others)
    if mesh.empty:
        return of(*arrays)
    per_head = [spec(("batch", None, "heads"), a.shape[:3], mesh, RULES) for a in (q_BLHK, k_BLGK)]
    rows, _, heads = per_head[0]
    if per_head[1][2] != heads:
        heads = None  # fewer heads of keys than devices: each has all
    given = tuple(P(rows, None, heads) if a.ndim > 2 else P(rows) for a in arrays)
    shape = jax.eval_shape(of, *arrays)
    made = jax.tree.map(lambda _: P(rows, None, heads), shape)
    return jax.shard_map(of, mesh=mesh, in_specs=given, out_specs=made, check_vma=False)(*arrays)
