"""Multi-head attention within groups of a packed row: causal or both ways, full or windowed.

Full attention costs L^2 (half of it if causal), windowed attention L times the window.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import MASKED, Norm, Normal, Rope, weight
from hlm.nn.kv_cache import KVCache, update_kv_cache
from hlm.nn.projection import project
from hlm.seq import Seq
from hlm.traced import RECOMPUTED

Array = jax.Array
QUERY_BLOCK = 128  # shortest block of queries in full attention


class Attention(nn.Module):
    """Multi-head attention among elements of one group (a document or a chunk); `window` counts the
    element itself.
    """

    heads: int
    head_dim: int | None = None  # width / heads
    kv_heads: int | None = None  # heads; fewer: grouped queries
    window: int | None = None
    causal: bool = True
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    qk_norm: Norm | None = None
    initial: Normal | None = None

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        D, H, G = x_BLD.shape[-1], self.heads, self.kv_heads or self.heads
        if D % H and self.head_dim is None:
            raise ValueError(f"heads: {H} does not divide the width {D}; set head_dim")
        if H % G:
            raise ValueError(f"kv_heads: {G} does not divide heads {H}")
        K = self.head_dim or D // H
        std, out = (self.initial.std, self.initial.out) if self.initial else (None, None)
        q_BLHK = project(x_BLD, weight(self, "q", (D, H, K), init=std))
        k_BLGK = project(x_BLD, weight(self, "k", (D, G, K), init=std))
        v_BLGK = project(x_BLD, weight(self, "v", (D, G, K), init=std))
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
            o_BLHK = attend(
                q_BLHK, k_BLGK, v_BLGK, group_BL, self.causal, self.window, seq.query_only
            )
        else:
            mask_BLR = cache_mask(cache, seq.pos, group_BL, self.window)
            cached = (heads_first(q_BLHK), cache["k"], cache["v"], mask_BLR)
            o_BLHK = heads_first(softmax_attention(*cached))
        return project(o_BLHK, weight(self, "o", (H, K, D), fan_in=H * K, init=out), axes=2)


def attend(
    q_BLHK: Array,
    k_BLGK: Array,
    v_BLGK: Array,
    group_BL: Array,
    causal: bool,
    window: int | None,
    query_only_BL: Array | None = None,
) -> Array:
    """Softmax attention over keys of the same group; with `window`, those fewer than `window`
    elements away.

    A query-only element is a key for itself alone.
    """
    if window is not None and 2 * window < q_BLHK.shape[1]:
        return _windowed(q_BLHK, k_BLGK, v_BLGK, group_BL, causal, window, query_only_BL)
    return _full(q_BLHK, k_BLGK, v_BLGK, group_BL, causal, window, query_only_BL)


def cache_mask(cache: KVCache, pos_BL: Array, group_BL: Array, window: int | None) -> Array:
    """Attention mask over a KV cache: which remembered elements an element may attend to; bool [B,
    L, R].
    """
    distance_BLR = pos_BL[:, :, None] - cache.pos_BR[:, None]
    mask_BLR = _near(distance_BLR, True, window) & (cache.pos_BR >= 0)[:, None]
    mask_BLR &= group_BL[:, :, None] == cache["group"][:, None]
    return (
        mask_BLR & is_key(cache["query_only"][:, None], distance_BLR)
        if "query_only" in cache.values
        else mask_BLR
    )


def _full(
    q_BLHK: Array,
    k_BLGK: Array,
    v_BLGK: Array,
    group_BL: Array,
    causal: bool,
    window: int | None,
    query_only_BL: Array | None,
) -> Array:
    """Blocks of queries, each against the keys before its end: a causal row computes only the lower
    triangle. Heads are brought to the front once, not for every block.
    """
    L = q_BLHK.shape[1]
    q_BHLK, k_BGLK, v_BGLK = heads_first(q_BLHK), heads_first(k_BLGK), heads_first(v_BLGK)
    block = max(QUERY_BLOCK, -(-L // 8))
    out = []
    for start in range(0, L, block):
        stop = min(start + block, L)
        keys = stop if causal else L
        distance_QT = jnp.arange(start, stop)[:, None] - jnp.arange(keys)[None]
        near_BQT = _near(distance_QT, causal, window)[None]
        mask_BQT = near_BQT & (group_BL[:, start:stop, None] == group_BL[:, None, :keys])
        if query_only_BL is not None:
            mask_BQT &= is_key(query_only_BL[:, None, :keys], distance_QT[None])
        out.append(
            softmax_attention(
                q_BHLK[:, :, start:stop], k_BGLK[:, :, :keys], v_BGLK[:, :, :keys], mask_BQT
            )
        )
    return heads_first(jnp.concatenate(out, axis=2) if len(out) > 1 else out[0])


def is_key(query_only: Array, distance: Array) -> Array:
    """Which (query, key) pairs are left where some elements are query-only."""
    return ~query_only | (distance == 0)


def _windowed(
    q_BLHK: Array,
    k_BLGK: Array,
    v_BLGK: Array,
    group_BL: Array,
    causal: bool,
    window: int,
    query_only_BL: Array | None,
) -> Array:
    """Blocks of `window` queries, each against its own block of keys, the one before and, both
    ways, the one after.
    """
    B, L, H, K = q_BLHK.shape
    n = -(-L // window)

    def blocks(a: Array, fill: int) -> Array:  # [B L ...] -> [B n window ...]
        a = jnp.pad(
            a, ((0, 0), (0, n * window - L)) + ((0, 0),) * (a.ndim - 2), constant_values=fill
        )
        return a.reshape(B, n, window, *a.shape[2:])

    def neighbours(a: Array, fill: int) -> Array:  # [B n window ...] -> [B n 2..3*window ...]
        wide = jnp.pad(
            a, ((0, 0), (1, 0 if causal else 1)) + ((0, 0),) * (a.ndim - 2), constant_values=fill
        )
        return jnp.concatenate([wide[:, i : i + n] for i in range(2 if causal else 3)], axis=2)

    q, k, v, group = blocks(q_BLHK, 0), blocks(k_BLGK, 0), blocks(v_BLGK, 0), blocks(group_BL, -1)
    k, v, group_of_key = neighbours(k, 0), neighbours(v, 0), neighbours(group, -1)
    T = k.shape[2]
    distance_QT = jnp.arange(window)[:, None] + window - jnp.arange(T)[None]
    mask = _near(distance_QT, causal, window)[None, None] & (
        group[:, :, :, None] == group_of_key[:, :, None, :]
    )
    if query_only_BL is not None:
        query_only = neighbours(blocks(query_only_BL, 1), 1)
        mask &= is_key(query_only[:, :, None, :], distance_QT[None, None])
    q, k, v = (heads_first(a.reshape(B * n, *a.shape[2:])) for a in (q, k, v))
    o = heads_first(softmax_attention(q, k, v, mask.reshape(B * n, window, T)))
    return o.reshape(B, n * window, H, K)[:, :L]


def _near(distance_QT: Array, causal: bool, window: int | None) -> Array:
    """Which (query, key) pairs may meet, by how far the key lies behind the query."""
    near_QT = distance_QT >= 0 if causal else jnp.ones_like(distance_QT, bool)
    return near_QT if window is None else near_QT & (jnp.abs(distance_QT) < window)


def heads_first(a_BLHK: Array) -> Array:
    """[B, L, H, K] -> [B, H, L, K], the order in which heads are a batch of matrices; and back."""
    return jnp.swapaxes(a_BLHK, 1, 2)


@jax.custom_vjp
def softmax_attention(q_BHQK: Array, k_BGTK: Array, v_BGTK: Array, mask_BQT: Array) -> Array:
    """Softmax attention [B, H, Q, K], whose backward pass computes the scores again from one number
    a query, the logarithm of its sum, instead of keeping them (Dao et al. 2022). Every query that
    has a gradient needs a key; elements have themselves.
    """
    return _forward(q_BHQK, k_BGTK, v_BGTK, mask_BQT)[0]


def _forward(q_BHQK: Array, k_BGTK: Array, v_BGTK: Array, mask_BQT: Array) -> tuple[Array, Any]:
    score = _scores(q_BHQK, k_BGTK, mask_BQT)
    most = jnp.max(score, axis=-1, keepdims=True)
    share = jnp.exp(score - most)
    total = jnp.sum(share, axis=-1, keepdims=True)
    o_BGXK = _times(share.astype(v_BGTK.dtype), v_BGTK) / _rows(total)
    o_BHQK = o_BGXK.reshape(q_BHQK.shape).astype(v_BGTK.dtype)
    return o_BHQK, (q_BHQK, k_BGTK, v_BGTK, mask_BQT, o_BHQK, most + jnp.log(total))


def _backward(kept: Any, d_BHQK: Array) -> tuple[Array, Array, Array, None]:
    q_BHQK, k_BGTK, v_BGTK, mask_BQT, o_BHQK, log_total = kept
    B, G = k_BGTK.shape[:2]
    with jax.named_scope(RECOMPUTED):
        share = jnp.exp(_scores(q_BHQK, k_BGTK, mask_BQT) - log_total)
    own = jnp.sum(d_BHQK.astype(jnp.float32) * o_BHQK.astype(jnp.float32), axis=-1)
    d_BGXK = d_BHQK.reshape(B, G, -1, d_BHQK.shape[-1])
    d_share = jnp.einsum("bgxk,bgtk->bgxt", d_BGXK, v_BGTK, preferred_element_type=jnp.float32)
    d_score = share * (d_share.reshape(share.shape) - own.reshape(*share.shape[:4], 1))
    share, d_score = share.astype(v_BGTK.dtype), d_score.astype(v_BGTK.dtype)
    # the narrower first: an XLA that wants it turned then copies less
    dv_BGKT = jnp.einsum("bgxk,bgxt->bgkt", d_BGXK, _rows(share))
    q_BGXK = q_BHQK.reshape(d_BGXK.shape) * q_BHQK.shape[-1] ** -0.5
    dk_BGKT = jnp.einsum("bgxk,bgxt->bgkt", q_BGXK, _rows(d_score))
    dq_BGXK = _times(d_score, k_BGTK) * q_BHQK.shape[-1] ** -0.5
    dq_BHQK = dq_BGXK.reshape(q_BHQK.shape).astype(q_BHQK.dtype)
    return dq_BHQK, jnp.swapaxes(dk_BGKT, 2, 3), jnp.swapaxes(dv_BGKT, 2, 3), None


softmax_attention.defvjp(_forward, _backward)


def _scores(q_BHQK: Array, k_BGTK: Array, mask_BQT: Array) -> Array:
    """float32 [B, G, R, Q, T]; R queries share a key."""
    B, H, Q, K = q_BHQK.shape
    G, T = k_BGTK.shape[1:3]
    q_BGXK = (q_BHQK * K**-0.5).reshape(B, G, H // G * Q, K)
    score = jnp.einsum("bgxk,bgtk->bgxt", q_BGXK, k_BGTK, preferred_element_type=jnp.float32)
    return jnp.where(mask_BQT[:, None, None], score.reshape(B, G, H // G, Q, T), MASKED)


def _times(share: Array, v_BGTK: Array) -> Array:
    """Shares [B, G, R, Q, T] of values, float32 [B, G, R Q, K]."""
    return jnp.einsum("bgxt,bgtk->bgxk", _rows(share), v_BGTK, preferred_element_type=jnp.float32)


def _rows(a: Array) -> Array:
    """[B, G, R, Q, T] -> [B, G, R Q, T]"""
    return a.reshape(*a.shape[:2], -1, a.shape[-1])
