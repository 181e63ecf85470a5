"""What an attention kernel is: a forward pass that leaves one number a query, and a backward pass
that computes the scores again from it (Dao et al. 2022).
"""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Gradients = tuple[Array, Array, Array]  # for queries, keys and values


@dataclasses.dataclass(frozen=True)
class Reach:
    """How far attention may reach along the row: `causal`, not ahead; `window`, only to those fewer
    than `window` elements away.
    """

    causal: bool
    window: int | None

    def near(self, distance: Array) -> Array:
        """Which (query, key) pairs may meet, by how far the key lies behind the query."""
        near = distance >= 0 if self.causal else jnp.ones_like(distance, bool)
        return near if self.window is None else near & (jnp.abs(distance) < self.window)


@struct.dataclass
class Marks:
    """What else decides who may meet: elements of one group (a document or a chunk), and
    query-only elements are keys for themselves alone. [B, L] each.
    """

    group: Array  # int32
    query_only: Array | None  # bool

    def meet(self, keys: "Marks", distance_QT: Array) -> Array:
        """Of queries with these marks and keys with those, so far apart, which may meet: bool [B,
        Q, T].
        """
        meet_BQT = self.group[:, :, None] == keys.group[:, None]
        if keys.query_only is None:
            return meet_BQT
        return meet_BQT & is_key(keys.query_only[:, None], distance_QT[None])


def is_key(query_only: Array, distance: Array) -> Array:
    """Which (query, key) pairs are left where some elements are query-only."""
    return ~query_only | (distance == 0)


class Kernel(abc.ABC):
    """Base of all kernels, frozen dataclasses. Queries are [B, L, H, K], keys and values [B, L, G,
    K], where H / G queries share a key.
    """

    @abc.abstractmethod
    def forward(
        self, reach: Reach, q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, marks: Marks
    ) -> tuple[Array, Array]:
        """What each query reads [B, L, H, K], and the logarithm of the sum of its exponentials,
        float32 [B, L, H].
        """

    @abc.abstractmethod
    def backward(
        self,
        reach: Reach,
        q_BLHK: Array,
        k_BLGK: Array,
        v_BLGK: Array,
        marks: Marks,
        o_BLHK: Array,
        log_total_BLH: Array,
        d_BLHK: Array,
    ) -> Gradients:
        """Gradients from that of what the forward pass gave."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attention(
    kernel: Kernel, reach: Reach, q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, marks: Marks
) -> Array:
    """Softmax attention [B, L, H, K] by a kernel."""
    return kernel.forward(reach, q_BLHK, k_BLGK, v_BLGK, marks)[0]


def _forward(
    kernel: Kernel, reach: Reach, q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, marks: Marks
) -> tuple[Array, Any]:
    o_BLHK, log_total_BLH = kernel.forward(reach, q_BLHK, k_BLGK, v_BLGK, marks)
    return o_BLHK, (q_BLHK, k_BLGK, v_BLGK, marks, o_BLHK, log_total_BLH)


def _backward(kernel: Kernel, reach: Reach, kept: Any, d_BLHK: Array) -> tuple[Any, ...]:
    q, k, v, marks, o, log_total = kept
    return *kernel.backward(reach, q, k, v, marks, o, log_total, d_BLHK), None


attention.defvjp(_forward, _backward)
