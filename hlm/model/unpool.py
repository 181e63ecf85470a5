"""Unpools: the newest visible chunk vector back onto the elements. (z_BSE, skip_BLD, b) -> u_BLD."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import Linear, Norm, weight, zeros
from hlm.seq import Boundaries, take

Array = jax.Array


class Keep(nn.Module):
    """The skip as it is: the decoder reads the chunks by a guide."""

    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        return skip_BLD


class Repeat(nn.Module):
    """The newest visible chunk's vector takes the place of the skip everywhere; zero where none is visible (hlm.BothWays)."""

    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        return jnp.where((b.seen < b.capacity)[:, :, None], take(z_BSE, b.seen), 0)


class Prefix(nn.Module):
    """At an end, the chunk's vector replaces the skip: the decoder starts the next word from it (HAT)."""

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        z_BSD = Linear(skip_BLD.shape[-1], name="linear")(z_BSE)
        return jnp.where(b.ends[:, :, None], take(z_BSD, b.seen), skip_BLD)


class Scatter(nn.Module):
    """At an end, the last D entries of the chunk's vector are added (SpaceByte)."""

    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        z_BSD = z_BSE[..., z_BSE.shape[-1] - skip_BLD.shape[-1] :]
        return skip_BLD + jnp.where(b.ends[:, :, None], take(z_BSD, b.seen), 0)


class Broadcast(nn.Module):
    """The newest chunk's vector is added everywhere, projected (AU-Net's `repeat`) or, of the same width, as it is (dynamic pooling)."""

    norm: Norm | None = None
    project: bool = True

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        if self.norm is not None:
            z_BSE = self.norm(self, z_BSE, "unpool")
        z_BSD = Linear(skip_BLD.shape[-1], name="linear")(z_BSE) if self.project else z_BSE
        return skip_BLD + take(z_BSD, b.seen)


class Offset(nn.Module):
    """As Broadcast, plus one projection per distance from the end, modulo `size` (AU-Net's multi-linear up-sampling)."""

    size: int = 16
    norm: Norm | None = None

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        B, S, E = z_BSE.shape
        D, N = skip_BLD.shape[-1], self.size
        if self.norm is not None:
            z_BSE = self.norm(self, z_BSE, "unpool")
        shared_BSD = Linear(D, name="linear")(z_BSE)
        w_END = weight(self, "slot", (E, N, D)).astype(z_BSE.dtype)
        y_BSND = jnp.einsum("bse,end->bsnd", z_BSE, w_END) + shared_BSD[:, :, None]
        return skip_BLD + take(y_BSND.reshape(B, S * N, D), b.seen * N + distance(b) % N)


class Split(nn.Module):
    """The chunk's vector is cut into `size` slots, one for each element after the end; at the end a learned vector replaces the skip.

    Elements after the last slot of an over-long chunk reuse it. MegaByte (Yu et al. 2023), section 2.
    """

    size: int

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        B, S, E = z_BSE.shape
        if E % self.size:
            raise ValueError(f"size: {self.size} slots do not divide the chunk width {E}")
        y = Linear(skip_BLD.shape[-1], bias=True, name="linear")(z_BSE.reshape(B, S * self.size, E // self.size))
        start_D = weight(self, "start", (skip_BLD.shape[-1],), init=zeros).astype(skip_BLD.dtype)
        u_BLD = jnp.where(b.ends[:, :, None], start_D[None, None], skip_BLD)
        return u_BLD + take(y, b.seen * self.size + jnp.minimum(distance(b), self.size - 1))


class Unfold(nn.Module):
    """The chunk's vector, projected to `size` slots, one for each element behind the end; for a late Hierarchy (MEGABYTE-pytorch).

    Elements after the last slot of an over-long chunk reuse it; BOS gets nothing.
    """

    size: int

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        B, S, _ = z_BSE.shape
        D = skip_BLD.shape[-1]
        y = Linear(self.size * D, bias=True, name="linear")(z_BSE).reshape(B, S * self.size, D)
        slot_BL = distance(b) - 1
        read = take(y, b.seen * self.size + jnp.clip(slot_BL, 0, self.size - 1))
        return skip_BLD + jnp.where((slot_BL >= 0)[:, :, None], read, 0)


def distance(b: Boundaries) -> Array:
    """How many elements ago the newest visible chunk ended; [B, L]."""
    return jnp.arange(b.seen.shape[1], dtype=jnp.int32)[None] - take(b.at, b.seen)
