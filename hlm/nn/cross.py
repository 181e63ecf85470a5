"""Cross-attention from elements to the chunks above them: over a few vectors of one chunk, never
over all chunks.
"""

import dataclasses

import jax
from flax import linen as nn
from flax import struct

from hlm.nn.basic import Linear, Norm, RMSNorm, weight
from hlm.nn.projection import product, project
from hlm.seq import Boundaries, Seq, take

Array = jax.Array


@struct.dataclass
class Memory:
    """Cross-attention memory: N vectors for each chunk, and the chunk that each element sees."""

    slots_BSND: Array
    seen_BL: Array  # int32, as in Boundaries


class ChunkMemory(nn.Module):
    """Guide: each chunk's vector becomes `count` keys and values of `width` for cross-attention, or
    is cut into them (None).
    """

    count: int
    width: int | None

    @nn.compact
    def __call__(self, z_BSE: Array, b: Boundaries) -> Memory:
        if self.width is None and z_BSE.shape[-1] % self.count:
            raise ValueError(
                f"count: {self.count} slots do not divide the chunk width {z_BSE.shape[-1]}; "
                "set width"
            )
        slots_BSF = (
            z_BSE if self.width is None else Linear(self.count * self.width, name="linear")(z_BSE)
        )
        return Memory(slots_BSF.reshape(*slots_BSF.shape[:2], self.count, -1), b.seen)


class CrossAttentionBlock(nn.Module):
    """Cross-attention of each element to the slots of its newest visible chunk, and a block behind
    it (Pagnoni et al. 2024).

    The slots' keys and values are made once per chunk and gathered at the elements. `residuals`:
    how often the element itself is added to what it reads; released models add it twice.
    """

    heads: int
    block: nn.Module
    norm: Norm = dataclasses.field(default_factory=RMSNorm)
    residuals: int = 1

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array, memory: Memory) -> Array:
        D, H, F = x_BLD.shape[-1], self.heads, memory.slots_BSND.shape[-1]
        if D % H:
            raise ValueError(f"heads: {H} does not divide the width {D}")
        K = D // H
        slots_BSNF = self.norm(self, memory.slots_BSND.astype(x_BLD.dtype), "slot")
        q_BLHK = project(self.norm(self, x_BLD, "query"), weight(self, "q", (D, H, K)))
        k_BSNHK = project(slots_BSNF, weight(self, "k", (F, H, K)))
        v_BSNHK = project(slots_BSNF, weight(self, "v", (F, H, K)))
        k_BLNHK, v_BLNHK = take(k_BSNHK, memory.seen_BL), take(v_BSNHK, memory.seen_BL)
        score_BLHN = product("blhk,blnhk->blhn", q_BLHK, k_BLNHK) * K**-0.5
        share_BLHN = jax.nn.softmax(score_BLHN, axis=-1)
        o_BLHK = product("blhn,blnhk->blhk", share_BLHN, v_BLNHK).astype(x_BLD.dtype)
        read_BLD = project(o_BLHK, weight(self, "o", (H, K, D), fan_in=D), axes=2)
        return self.block(self.residuals * x_BLD + read_BLD, seq, group_BL)
