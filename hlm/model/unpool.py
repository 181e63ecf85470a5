"""Unpools (up-sampling): the newest visible chunk's vector back onto the elements."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import Linear, Norm
from hlm.seq import Boundaries, take

Array = jax.Array


class Unpool(nn.Module, abc.ABC):
    """Base of all unpools: (z [B, S, E], skip [B, L, D], b) -> u [B, L, D], what the
    decoder reads.
    """

    # the output hangs on `skip`; where it does not, `Hierarchy.skip_input` decides nothing
    reads_skip: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array: ...


class Keep(Unpool):
    """Identity: the skip as it is, for decoders that read the chunks by cross-attention
    (Hierarchy.guide).
    """

    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        return skip_BLD


class Repeat(Unpool):
    """Repeat without skip: the newest visible chunk's vector everywhere; zero where none is
    visible.
    """

    reads_skip: ClassVar[bool] = False

    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        return jnp.where((b.seen < b.capacity)[:, :, None], take(z_BSE, b.seen), 0)


class Prefix(Unpool):
    """Prefix: at an end, the chunk's vector replaces the skip, so that the decoder starts the next
    word from it.
    """

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        z_BSD = Linear(skip_BLD.shape[-1], name="linear")(z_BSE)
        return jnp.where(b.ends[:, :, None], take(z_BSD, b.seen), skip_BLD)


class Scatter(Unpool):
    """Residual unpool: at an end, the last D entries of the chunk's vector are added to the
    skip.
    """

    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        z_BSD = z_BSE[..., z_BSE.shape[-1] - skip_BLD.shape[-1] :]
        return skip_BLD + jnp.where(b.ends[:, :, None], take(z_BSD, b.seen), 0)


class Broadcast(Unpool):
    """Repeat up-sampling: the newest chunk's vector is added everywhere, projected or, of the same
    width, as it is.
    """

    norm: Norm | None = None
    project: bool = True

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        if self.norm is not None:
            z_BSE = self.norm(self, z_BSE, "unpool")
        z_BSD = Linear(skip_BLD.shape[-1], name="linear")(z_BSE) if self.project else z_BSE
        return skip_BLD + take(z_BSD, b.seen)


def distance(b: Boundaries) -> Array:
    """How many elements ago the newest visible chunk ended; [B, L]."""
    return jnp.arange(b.seen.shape[1], dtype=jnp.int32)[None] - take(b.at, b.seen)
