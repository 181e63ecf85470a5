"""What an attention kernel is: a forward pass that leaves one number a query, and a backward pass
that computes the scores again from it (Dao et al. 2022).
"""

import abc
import dataclasses
import functools

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


@struct.dataclass
class Rows:
    """Packed rows of queries [B, L, H, K], and of keys and values [B, L, G, K], each of which H / G
    queries share.
    """

    q_BLHK: Array
    k_BLGK: Array
    v_BLGK: Array
    marks: Marks

    @property
    def length(self) -> int:
        return self.q_BLHK.shape[1]


@struct.dataclass
class Read:
    """What each query reads, and the logarithm of the sum of its exponentials."""

    o_BLHK: Array
    log_total_BLH: Array  # float32


class Kernel(abc.ABC):
    """Base of all kernels, frozen dataclasses."""

    @abc.abstractmethod
    def forward(self, reach: Reach, rows: Rows) -> Read: ...

    @abc.abstractmethod
    def backward(self, reach: Reach, rows: Rows, read: Read, d_BLHK: Array) -> Gradients:
        """Gradients from that of what was read."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attention(kernel: Kernel, reach: Reach, rows: Rows) -> Array:
    """Softmax attention [B, L, H, K] by a kernel."""
    return kernel.forward(reach, rows).o_BLHK


def _forward(kernel: Kernel, reach: Reach, rows: Rows) -> tuple[Array, tuple[Rows, Read]]:
    read = kernel.forward(reach, rows)
    return read.o_BLHK, (rows, read)


def _backward(kernel: Kernel, reach: Reach, kept: tuple[Rows, Read], d_BLHK: Array) -> tuple[Rows]:
    return (Rows(*kernel.backward(reach, *kept, d_BLHK), marks=None),)  # pyright: ignore


attention.defvjp(_forward, _backward)
