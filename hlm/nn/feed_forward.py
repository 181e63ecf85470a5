"""Feed-forward layers of a block: [B, L, D] -> [B, L, D], each element by itself."""

import jax
from flax import linen as nn

from hlm.nn.basic import Normal, bias, weight

Array = jax.Array


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020): (silu(x gate) * x up) down."""

    width: int
    initial: Normal | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        D = x.shape[-1]
        std, out = (self.initial.std, self.initial.out) if self.initial else (None, None)
        gate = x @ weight(self, "gate", (D, self.width), init=std).astype(x.dtype)
        up = x @ weight(self, "up", (D, self.width), init=std).astype(x.dtype)
        return (jax.nn.silu(gate) * up) @ weight(self, "down", (self.width, D), init=out).astype(
            x.dtype
        )


class MLP(nn.Module):
    """ReLU feed-forward layer: relu(x up) down, without biases."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        D = x.shape[-1]
        h = jax.nn.relu(x @ weight(self, "up", (D, self.width)).astype(x.dtype))
        return h @ weight(self, "down", (self.width, D)).astype(x.dtype)


class GELU(nn.Module):
    """GELU feed-forward layer: gelu(x up + bias) down + bias, the exact function."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        D = x.shape[-1]
        h = x @ weight(self, "up", (D, self.width)).astype(x.dtype)
        h = jax.nn.gelu(h + bias(self, "up_bias", (self.width,), h), approximate=False)
        y = h @ weight(self, "down", (self.width, D)).astype(x.dtype)
        return y + bias(self, "down_bias", (D,), y)
