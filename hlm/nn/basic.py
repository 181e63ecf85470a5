"""Weights, linear maps, norms, embedding lookup and rotary positions: layers that know width and
nothing of levels.

Precision: weights are float32 and cast to the activation's dtype at use; norms compute in float32.
Linen traps: a field called `scope`, `name`, `parent`, `path` or `variables` is silently ignored; a
module instance as a class default is shared by every use (tied weights), so such defaults are built
by a `default_factory`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.gather import gathered
from hlm.nn.projection import project
from hlm.sharding import constrain

Array = jax.Array
ones, zeros = nn.initializers.ones, nn.initializers.zeros
# the logit of what must not be; finite, so that a row without keys gives numbers, not NaN
MASKED = -1e30


def normal(std: float) -> Callable:
    """Truncated normal (3 sigma)."""
    return nn.initializers.truncated_normal(std, lower=-3.0, upper=3.0)


def uniform(limit: float) -> Callable:
    """Even between -limit and limit."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Initial matrices of a layer: normal of standard deviation `std`, those that write into the
    residual stream of `out`.
    """

    std: float = 0.02
    out: float = 0.02


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    fan_in: int | None = None,
    init: Callable | float | None = None,
) -> Array:
    """A float32 parameter; `init`: an initializer, the standard deviation of a normal, or None.

    None: truncated normal of standard deviation fan_in^-0.5 (fan_in: the first axis).
    """
    make: Any = (
        nn.initializers.normal(init)
        if isinstance(init, float)
        else init or normal((fan_in or shape[0]) ** -0.5)
    )
    return module.param(name, make, shape, jnp.float32)


def projections(
    module: nn.Module, x: Array, shapes: Mapping[str, tuple[int, ...]], init: float | None
) -> Sequence[Array]:
    """Linear maps of the same x by weights of these names; by one, where decoding has made one of
    them (`beside` in hlm/nn/stack.py).
    """
    if module.has_variable("params", one := "+".join(shapes)):
        return jnp.unstack(project(x, module.get_variable("params", one)), axis=x.ndim - 1)
    return [project(x, weight(module, name, shape, init=init)) for name, shape in shapes.items()]


def bias(module: nn.Module, name: str, shape: tuple[int, ...], y: Array) -> Array:
    """A bias that starts at zero, for the last axes of `y`; as `at_each`."""
    return at_each(weight(module, name, shape, init=zeros), y)


def at_each(a: Array, like: Array | jax.ShapeDtypeStruct) -> Array:
    """A parameter for the last axes of `like`, at each of its elements and in its dtype.

    It is repeated first and cast then, so its gradient is summed over elements in float32.
    """
    a = a.astype(jnp.float32).reshape((1,) * (like.ndim - a.ndim) + a.shape)
    return jnp.broadcast_to(a, like.shape).astype(like.dtype)


def lookup(table_VD: Array, index: Array, dtype: Any) -> Array:
    """Embedding lookup: rows of a table at `index` [B, L, ...] -> [B, L, ..., D] in `dtype`.

    On a mesh the table's width, which FSDP splits, is gathered first: rows then come out split by
    `batch`, as everything else is.
    """
    found = gathered(_rows, jnp.dtype(dtype), table_VD, index)
    return constrain(found, "batch", *[None] * (found.ndim - 1))


def _rows(table_VD: Array, index: Array) -> Array:
    return constrain(table_VD, "vocab", None)[index]


class Linear(nn.Module):
    """Linear layer: x W (+ b)."""

    width: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = project(x, weight(self, "kernel", (x.shape[-1], self.width)))
        if self.bias:
            y = y + bias(self, "bias", (self.width,), y)
        return y


@runtime_checkable
class Norm(Protocol):
    """A normalisation without state of its own: parameters are made in the calling module under
    `name`.
    """

    def __call__(self, module: nn.Module, x: Array, name: str) -> Array: ...


@dataclasses.dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square norm: x / rms(x) * scale, over the last axis."""

    eps: float = 1e-5

    def __call__(self, module: nn.Module, x: Array, name: str) -> Array:
        scale = weight(module, f"{name}_scale", (x.shape[-1],), init=ones)

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def normed(x: Array, scale: Array) -> Array:
            y = x.astype(jnp.float32)
            y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
            return (y * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)

        return normed(x, scale)


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """Layer norm: (x - mean) / std * scale (+ bias), over the last axis."""

    eps: float = 1e-5
    bias: bool = True

    def __call__(self, module: nn.Module, x: Array, name: str) -> Array:
        row = (1,) * (x.ndim - 1) + (-1,)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, -1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        y = y * weight(module, f"{name}_scale", (x.shape[-1],), init=ones).reshape(row)
        if self.bias:
            y = y + weight(module, f"{name}_bias", (x.shape[-1],), init=zeros).reshape(row)
        return y.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions over the two halves of each head (Su et al. 2021), computed in float32.

    `dims`: turn only the first so many entries of each head; None: all.
    """

    theta: float = 10000.0
    dims: int | None = None

    def frequencies(self, half: int) -> Array:
        return self.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)

    def __call__(self, x_BLHK: Array, pos_BL: Array) -> Array:
        dims = self.dims or x_BLHK.shape[-1]
        if dims % 2 or dims > x_BLHK.shape[-1]:
            raise ValueError(
                f"Rope.dims: {dims} must be even and at most the head's width {x_BLHK.shape[-1]}"
            )
        half = dims // 2
        angle = (
            pos_BL.astype(jnp.float32)[:, :, None, None] * self.frequencies(half)[None, None, None]
        )
        x1, x2 = jnp.split(x_BLHK[..., :dims].astype(jnp.float32), 2, axis=-1)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turned = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(
            x_BLHK.dtype
        )
        return (
            turned
            if dims == x_BLHK.shape[-1]
            else jnp.concatenate([turned, x_BLHK[..., dims:]], -1)
        )
