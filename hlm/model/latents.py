"""Several vectors per chunk, by attention: a pool in which they read the chunk's elements, and slots for a decoder to read.

BLT (Pagnoni et al. 2024, arXiv 2412.09871), section 3.2, as released.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.model.pool import segment_softmax, segment_sum
from hlm.nn.basic import Linear, Norm, RMSNorm, weight
from hlm.nn.cross import Memory
from hlm.seq import Boundaries, take

Array = jax.Array


class Latents(nn.Module):
    """`queries` projections of the chunk's largest entries attend to the chunk's elements; side by side they are the chunk's vector.

    `width` projects the result (None: it stays queries * D wide). `residuals`: how often a query is added to what it reads; the
    released BLT adds it twice. Linear in bytes, as `Attend`.
    """

    queries: int
    heads: int
    width: int | None = None
    norm: Norm = dataclasses.field(default_factory=RMSNorm)
    residuals: int = 1
    reach: ClassVar[int | None] = None

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        B, _, D = h_BLD.shape
        S, N, H = b.capacity, self.queries, self.heads
        if D % H:
            raise ValueError(f"heads: {H} does not divide the width {D}")
        K = D // H
        z_BSND = Linear(N * D, name="linear")(segment_max(h_BLD, b)).reshape(B, S, N, D)
        x_BLD = self.norm(self, h_BLD, "pool")
        q_BSNHK = jnp.einsum("bsnd,dhk->bsnhk", self.norm(self, z_BSND, "query"), weight(self, "q", (D, H, K)).astype(h_BLD.dtype))
        k_BLHK = jnp.einsum("bld,dhk->blhk", x_BLD, weight(self, "k", (D, H, K)).astype(h_BLD.dtype))
        v_BLHK = jnp.einsum("bld,dhk->blhk", x_BLD, weight(self, "v", (D, H, K)).astype(h_BLD.dtype))
        q_BLNHK = take(q_BSNHK, jnp.minimum(b.member, S - 1))  # the tail of a document reads any query; no chunk holds it
        score_BLNH = jnp.einsum("blnhk,blhk->blnh", q_BLNHK, k_BLHK, preferred_element_type=jnp.float32) * K**-0.5
        share_BLNH = segment_softmax(score_BLNH, b).astype(h_BLD.dtype)
        o_BSNHK = segment_sum(share_BLNH[..., None] * v_BLHK[:, :, None], b)
        read_BSND = jnp.einsum("bsnhk,hkd->bsnd", o_BSNHK, weight(self, "o", (H, K, D), fan_in=D).astype(h_BLD.dtype))
        z_BSE = (self.residuals * z_BSND + read_BSND).reshape(B, S, N * D)
        return z_BSE if self.width is None else Linear(self.width, name="project")(z_BSE)


class Guide(nn.Module):
    """What a decoder reads of the chunks: each chunk's vector becomes `count` slots of `width`, or is cut into them (None)."""

    count: int
    width: int | None

    @nn.compact
    def __call__(self, z_BSE: Array, b: Boundaries) -> Memory:
        if self.width is None and z_BSE.shape[-1] % self.count:
            raise ValueError(f"count: {self.count} slots do not divide the chunk width {z_BSE.shape[-1]}; set width")
        slots_BSF = z_BSE if self.width is None else Linear(self.count * self.width, name="linear")(z_BSE)
        return Memory(slots_BSF.reshape(*slots_BSF.shape[:2], self.count, -1), b.seen)


def segment_max(x_BLD: Array, b: Boundaries) -> Array:
    """The largest of each entry over the elements of each chunk -> [B, S, D]; 0 for unused chunks. Equal ones share the gradient."""

    def row(x_LD: Array, member_L: Array) -> Array:
        return jax.ops.segment_max(x_LD, member_L, num_segments=b.capacity + 1)[:-1]

    return jnp.where(b.used[:, :, None], jax.vmap(row)(x_BLD, b.member), 0)
