"""Gathers from arrays of activations, whose gradients are sums and so are summed in float32.

A sum of bfloat16 in bfloat16 stands still once it is 256 times what is added: of the gradients of a
thousand spaces it would keep a quarter, whatever their size.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def gathered(gather: Callable[[Array, Array], Array], dtype: Any, x: Array, index: Array) -> Array:
    """gather(x, index) in `dtype`, `gather` being linear in x: x is cast before, its gradient after
    it was summed.

    Not a `custom_vjp`, so that forward mode stays.
    """
    return gather(x.astype(dtype), index)


@gathered.defjvp
def _tangent(gather: Any, dtype: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, index), (dx, _) = primals, tangents
    moved = gather(dx.astype(jnp.float32), index).astype(dtype)
    return gathered(gather, dtype, x, index), moved
