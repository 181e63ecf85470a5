"""Loops over blocks of queries, whose results stand one behind the other in a row."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def each(one: Callable[[Array], Any], starts_N: Array) -> Any:
    """Results [B, Q, ...] of `one` for each start -> [B, N Q, ...]; no loop for one start."""
    if len(starts_N) == 1:
        return one(starts_N[0])
    return jax.tree.map(in_a_row, jax.lax.map(one, starts_N))


def each_summed(
    one: Callable[[Any, Array], tuple[Any, Any]], sums: Any, starts_N: Array
) -> tuple[Any, Any]:
    """The same for `one`, which also takes sums and gives new ones: those at the end, results."""
    if len(starts_N) == 1:
        return one(sums, starts_N[0])
    sums, found = jax.lax.scan(one, sums, starts_N)
    return sums, jax.tree.map(in_a_row, found)


def in_a_row(a_NBQ: Array) -> Array:
    a_BNQ = jnp.swapaxes(a_NBQ, 0, 1)
    return a_BNQ.reshape(a_BNQ.shape[0], -1, *a_BNQ.shape[3:])
