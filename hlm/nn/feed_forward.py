"""Feed-forward layers of a block: [B, L, D] -> [B, L, D], each element by itself."""

import functools
from typing import ClassVar

import jax
from flax import linen as nn

from hlm.nn.basic import Normal, bias, projections, weight
from hlm.nn.projection import project

Array = jax.Array


@functools.partial(jax.checkpoint, prevent_cse=False)
def gated(gate: Array, up: Array) -> Array:
    """silu(gate) * up, computed again in the backward pass from these two instead of being kept."""
    return jax.nn.silu(gate) * up


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020): (silu(x gate) * x up) down."""

    width: int
    initial: Normal | None = None
    beside: ClassVar[tuple[str, ...]] = ("gate", "up")

    @nn.compact
    def __call__(self, x: Array) -> Array:
        D = x.shape[-1]
        std, out = (self.initial.std, self.initial.out) if self.initial else (None, None)
        shapes = dict.fromkeys(self.beside, (D, self.width))
        gate, up = projections(self, x, shapes, std)
        return project(gated(gate, up), weight(self, "down", (self.width, D), init=out))


class MLP(nn.Module):
    """ReLU feed-forward layer: relu(x up) down, without biases."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        D = x.shape[-1]
        h = jax.nn.relu(project(x, weight(self, "up", (D, self.width))))
        return project(h, weight(self, "down", (self.width, D)))


class GELU(nn.Module):
    """GELU feed-forward layer: gelu(x up + bias) down + bias, the exact function."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        D = x.shape[-1]
        h = project(x, weight(self, "up", (D, self.width)))
        h = jax.nn.gelu(h + bias(self, "up_bias", (self.width,), h), approximate=False)
        y = project(h, weight(self, "down", (self.width, D)))
        return y + bias(self, "down_bias", (D,), y)
