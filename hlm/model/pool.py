"""Pools: one vector per chunk from the elements of that chunk."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import MASKED, Linear, Norm, RMSNorm, at_each, weight
from hlm.nn.projection import product, project
from hlm.nn.recurrence import linear_recurrence
from hlm.seq import Boundaries, take

Array = jax.Array


class Pool(nn.Module, abc.ABC):
    """Base of all pools: (h [B, L, D], b) -> z [B, S, E], unused chunks arbitrary but finite.

    `reach`: how many of the chunk's last elements it reads at most; decoding keeps them. None: all.
    """

    reach: ClassVar[int | None] = None

    @abc.abstractmethod
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array: ...


class Select(Pool):
    """Selection pool: the element that ends the chunk, projected; after a both-ways encoder it is
    the word's CLS.

    `project` False pads with leading zeros to `width` instead.
    """

    width: int
    norm: Norm | None = None
    project: bool = True
    reach: ClassVar[int | None] = 1

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        z_BSD = take(h_BLD, b.at)
        if self.norm is not None:
            z_BSD = self.norm(self, z_BSD, "pool")
        if self.project:
            return Linear(self.width, name="linear")(z_BSD)
        return jnp.pad(z_BSD, ((0, 0), (0, 0), (self.width - z_BSD.shape[-1], 0)))


class Mean(Pool):
    """Mean pool: the mean of the chunk's elements, projected to `width` (None: as it is, for chunks
    as wide as elements).

    `null`: the first chunk of a document is a learned vector in place of BOS. A learned segmenter
    gets its gradient through `straight_through_weights`.
    """

    width: int | None
    norm: Norm | None = None
    null: bool = False

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        w_BL = (
            jnp.ones(h_BLD.shape[:2], jnp.float32)
            if b.prob is None
            else straight_through_weights(b)
        )
        total_BSD = segment_sum(w_BL[:, :, None] * h_BLD.astype(jnp.float32), b)
        z_BSD = total_BSD / jnp.where(b.used, segment_sum(w_BL, b), 1.0)[:, :, None]
        if self.null:
            z_BSD = null_chunk(self, z_BSD, b)
        z_BSD = z_BSD.astype(h_BLD.dtype)
        if self.norm is not None:
            z_BSD = self.norm(self, z_BSD, "pool")
        return z_BSD if self.width is None else Linear(self.width, name="linear")(z_BSD)


def null_chunk(module: nn.Module, z_BSE: Array, b: Boundaries) -> Array:
    """The first chunk of each document, which is BOS, becomes a learned vector."""
    null_E = weight(module, "start", (z_BSE.shape[-1],), init=1.0)
    return jnp.where(b.first[:, :, None], at_each(null_E, z_BSE), z_BSE)


def straight_through_weights(b: Boundaries) -> Array:
    """Weights of elements in their chunk's mean, all exactly 1, whose gradient teaches a
    straight-through decision; float32 [B, L].

    An end before an element moves it one chunk on, so the derivative of its weight by every earlier
    decision is 1 (the code of Nawrot et al. 2023). For decisions before the chunk the derivatives
    of its mean add up to zero; they are left out, because what only rounding leaves of such a sum
    is no gradient. So a decision is taught by the chunk that it is inside of and by nothing else.

        element      0  1  2  3  4  5
        ends         1  0  0  1  0  1
        chunk        0  1  1  1  2  2
        taught by    -  1  1  -  2  -
    """
    assert b.prob is not None
    begins_BL = jnp.pad(b.ends[:, :-1], ((0, 0), (1, 0)), constant_values=True) | (b.pos == 0)
    before_BL = jnp.where(begins_BL, 0.0, jnp.pad(b.prob[:, :-1], ((0, 0), (1, 0))))
    # decisions of the chunk so far
    earlier_BL = linear_recurrence(1.0 - begins_BL.astype(jnp.float32), before_BL[..., None])[
        ..., 0
    ]
    return 1.0 + (earlier_BL - jax.lax.stop_gradient(earlier_BL))


class Attend(Pool):
    """Cross-attention pool (Perceiver): `queries` learned queries attend to the chunk's elements,
    side by side, projected.

    `width` None: they stay as they are, queries * D wide. Linear in bytes: every query scores every
    element once, and the softmax runs over segments.
    """

    width: int | None
    queries: int = 1
    heads: int = 1
    norm: Norm = dataclasses.field(default_factory=RMSNorm)

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        B, L, D = h_BLD.shape
        H, N, K = self.heads, self.queries, D // self.heads
        x_BLD = self.norm(self, h_BLD, "pool")
        k_BLHK = project(x_BLD, weight(self, "k", (D, H, K)))
        v_BLHK = project(x_BLD, weight(self, "v", (D, H, K)))
        q_NHK = weight(self, "query", (N, D), fan_in=1).reshape(N, H, K)
        score_BLNH = product("nhk,blhk->blnh", q_NHK, k_BLHK) * K**-0.5
        share_BLNH = segment_softmax(score_BLNH, b)
        weighted = share_BLNH[..., None] * v_BLHK[:, :, None].astype(jnp.float32)
        z_BSE = segment_sum(weighted.reshape(B, L, N * D), b).astype(h_BLD.dtype)
        return z_BSE if self.width is None else Linear(self.width, name="linear")(z_BSE)


def segment_sum(x: Array, b: Boundaries) -> Array:
    """Sum x [B, L, ...] over the elements of each chunk -> [B, S, ...]; summed in float32."""

    def row(x: Array, member_L: Array) -> Array:
        return jax.ops.segment_sum(
            x, member_L, num_segments=b.capacity + 1, indices_are_sorted=False
        )[:-1]

    return jax.vmap(row)(x.astype(jnp.float32), b.member).astype(x.dtype)


def segment_softmax(score: Array, b: Boundaries) -> Array:
    """Softmax of score [B, L, ...] over the elements of each chunk; float32."""

    def row(score: Array, member_L: Array) -> Array:
        top = jax.ops.segment_max(score, member_L, num_segments=b.capacity + 1)
        e = jnp.exp(score - jax.lax.stop_gradient(jnp.maximum(top, MASKED))[member_L])
        return e / jax.ops.segment_sum(e, member_L, num_segments=b.capacity + 1)[member_L]

    return jax.vmap(row)(score, b.member)
