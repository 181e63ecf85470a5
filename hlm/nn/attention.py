"""Multi-head attention within groups of a packed row: causal or both ways, full or windowed.

Full attention costs L^2 (half of it if causal), windowed attention L times the window.
"""

import dataclasses
from typing import ClassVar

import jax
from flax import linen as nn

from hlm.nn.basic import Norm, Normal, Rope, projections, weight
from hlm.nn.kernels import block
from hlm.nn.kernels.best import Best
from hlm.nn.kernels.block import heads_first
from hlm.nn.kernels.blocks import Blocks
from hlm.nn.kernels.kernel import Kernel, Marks, Reach, Rows, attention, is_key
from hlm.nn.kv_cache import KVCache, update_kv_cache
from hlm.nn.projection import project
from hlm.seq import Seq

Array = jax.Array
BLOCKS = Blocks()


class Attention(nn.Module):
    """Multi-head attention among elements of one group (a document or a chunk); `window` counts the
    element itself. `kernel`: how it is computed, the same numbers each way.
    """

    heads: int
    head_dim: int | None = None  # width / heads
    kv_heads: int | None = None  # heads; fewer: grouped queries
    window: int | None = None
    causal: bool = True
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    qk_norm: Norm | None = None
    initial: Normal | None = None
    kernel: Kernel = dataclasses.field(default_factory=Best)
    beside: ClassVar[tuple[str, ...]] = ("q", "k", "v")

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        D, H, G = x_BLD.shape[-1], self.heads, self.kv_heads or self.heads
        if D % H and self.head_dim is None:
            raise ValueError(f"heads: {H} does not divide the width {D}; set head_dim")
        if H % G:
            raise ValueError(f"kv_heads: {G} does not divide heads {H}")
        K = self.head_dim or D // H
        std, out = (self.initial.std, self.initial.out) if self.initial else (None, None)
        shapes = {"q": (D, H, K), "k": (D, G, K), "v": (D, G, K)}
        q_BLHK, k_BLGK, v_BLGK = projections(self, x_BLD, shapes, std)
        if self.qk_norm is not None:
            q_BLHK, k_BLGK = self.qk_norm(self, q_BLHK, "q"), self.qk_norm(self, k_BLGK, "k")
        if self.rope is not None:
            q_BLHK, k_BLGK = self.rope(q_BLHK, seq.pos), self.rope(k_BLGK, seq.pos)
        marks = {} if seq.query_only is None else {"query_only": seq.query_only}
        cache = update_kv_cache(self, seq, self.window, k=k_BLGK, v=v_BLGK, group=group_BL, **marks)
        if cache is not None and not self.causal:
            raise ValueError(
                "causal: False, but the row is read piece by piece; only what reads whole "
                "chunks or rows may look ahead"
            )
        if cache is None:
            how = (self.causal, self.window, seq.query_only, self.kernel)
            o_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, group_BL, *how)
        else:
            mask_BLR = cache_mask(cache, seq.pos, group_BL, self.window)
            cached = (heads_first(q_BLHK), cache["k"], cache["v"], mask_BLR)
            o_BLHK = heads_first(block.forward(*cached)[0])
        return project(o_BLHK, weight(self, "o", (H, K, D), fan_in=H * K, init=out), axes=2)


def attend(
    q_BLHK: Array,
    k_BLGK: Array,
    v_BLGK: Array,
    group_BL: Array,
    causal: bool,
    window: int | None,
    query_only_BL: Array | None = None,
    kernel: Kernel = BLOCKS,
) -> Array:
    """Softmax attention over keys of the same group; with `window`, those fewer than `window`
    elements away.

    A query-only element is a key for itself alone.
    """
    reach, marks = Reach(causal, window), Marks(group_BL, query_only_BL)
    return attention(kernel, reach, Rows(q_BLHK, k_BLGK, v_BLGK, marks))


def cache_mask(cache: KVCache, pos_BL: Array, group_BL: Array, window: int | None) -> Array:
    """Attention mask over a KV cache: which remembered elements an element may attend to; bool [B,
    L, R].
    """
    distance_BLR = pos_BL[:, :, None] - cache.pos_BR[:, None]
    mask_BLR = Reach(True, window).near(distance_BLR) & (cache.pos_BR >= 0)[:, None]
    mask_BLR &= group_BL[:, :, None] == cache["group"][:, None]
    return (
        mask_BLR & is_key(cache["query_only"][:, None], distance_BLR)
        if "query_only" in cache.values
        else mask_BLR
    )
