"""Relative-position attention of Transformer-XL (Dai et al. 2019), without its memory.

arXiv 1901.02860, section 3.3.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.attention import cache_mask
from hlm.nn.basic import MASKED, at_each, bias, normal, weight
from hlm.nn.kernels.kernel import is_key
from hlm.nn.kernels.parts import QUERY_BLOCK
from hlm.nn.kv_cache import KVCache, update_kv_cache
from hlm.nn.projection import product, project
from hlm.seq import Seq

Array = jax.Array


class RelativeBias(nn.Module):
    """The two queries that do not depend on the element, one for contents and one for distances: an
    `LM.shared`. [H, K] each.
    """

    heads: int
    head_dim: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        shape = (self.heads, self.head_dim)
        return weight(self, "content_bias", shape, init=normal(0.02)), weight(
            self, "distance_bias", shape, init=normal(0.02)
        )


class RelativeAttention(nn.Module):
    """Causal attention within a group: (q + u) k + (q + v) r, where r projects sinusoids of the
    distance, and u and v are shared.

    Keys and distances have no biases: those would add one number to every score of a query. Needs
    `LM.shared=RelativeBias(...)`.
    """

    heads: int
    head_dim: int | None = None  # width / heads

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        D, H = x_BLD.shape[-1], self.heads
        if D % H and self.head_dim is None:
            raise ValueError(f"heads: {H} does not divide the width {D}; set head_dim")
        K = self.head_dim or D // H
        if seq.shared is None:
            raise ValueError(
                "shared: RelativeAttention needs LM.shared=RelativeBias(heads, head_dim)"
            )
        u_HK, v_HK = seq.shared
        if u_HK.shape != (H, K):
            raise ValueError(f"heads, head_dim: attention has {(H, K)}, LM.shared has {u_HK.shape}")
        q_BLHK, k_BLHK, v_BLHK = (project(x_BLD, weight(self, n, (D, H, K))) for n in "qkv")
        q_BLHK = q_BLHK + bias(self, "q_bias", (H, K), q_BLHK)
        v_BLHK = v_BLHK + bias(self, "v_bias", (H, K), v_BLHK)
        r_DHK = weight(self, "r", (D, H, K))
        content_BLHK, distance_BLHK = q_BLHK + at_each(u_HK, q_BLHK), q_BLHK + at_each(v_HK, q_BLHK)
        marks = {} if seq.query_only is None else {"query_only": seq.query_only}
        cache = update_kv_cache(self, seq, None, k=k_BLHK, v=v_BLHK, group=group_BL, **marks)
        if cache is None:
            o_BLHK = attend(
                content_BLHK, distance_BLHK, k_BLHK, v_BLHK, r_DHK, group_BL, seq.query_only
            )
        else:
            o_BLHK = attend_cache(content_BLHK, distance_BLHK, cache, r_DHK, seq, group_BL)
        y_BLD = project(o_BLHK, weight(self, "o", (H, K, D), fan_in=H * K), axes=2)
        return y_BLD + bias(self, "o_bias", (D,), y_BLD)


def attend(
    content_BLHK: Array,
    distance_BLHK: Array,
    k_BLHK: Array,
    v_BLHK: Array,
    r_DHK: Array,
    group_BL: Array,
    query_only_BL: Array | None,
) -> Array:
    """Each block of queries meets the keys before its end. The backward pass computes scores again
    instead of keeping them.

    Heads are outermost, because a distance's vector is that of all rows; and keys stand beside each
    other, so that their gradients come as they are. Else XLA turns what is as large as the scores.
    """
    L, D, K = content_BLHK.shape[1], r_DHK.shape[0], r_DHK.shape[2]
    far_first_LD = sinusoids(L, D)[::-1].astype(k_BLHK.dtype)
    r_HKL = project(far_first_LD, r_DHK).transpose(1, 2, 0)
    content, distance = (
        (a_BLHK * K**-0.5).transpose(2, 0, 1, 3) for a_BLHK in (content_BLHK, distance_BLHK)
    )
    k_HBKL, v_HBKL = (a_BLHK.transpose(2, 0, 3, 1) for a_BLHK in (k_BLHK, v_BLHK))
    out = []
    block = max(QUERY_BLOCK, -(-L // 8))
    for start in range(0, L, block):
        stop = min(start + block, L)
        distance_QT = jnp.arange(start, stop)[:, None] - jnp.arange(stop)[None]
        mask_BQT = (distance_QT >= 0)[None] & (
            group_BL[:, start:stop, None] == group_BL[:, None, :stop]
        )
        if query_only_BL is not None:
            mask_BQT &= is_key(query_only_BL[:, None, :stop], distance_QT[None])
        q, d = content[:, :, start:stop], distance[:, :, start:stop]
        k, v, r = k_HBKL[..., :stop], v_HBKL[..., :stop], r_HKL[..., L - stop :]
        out.append(block_of_queries(q, d, k, v, r, mask_BQT))
    return jnp.concatenate(out, axis=2).transpose(1, 2, 0, 3)


@functools.partial(jax.checkpoint, prevent_cse=False)
def block_of_queries(
    content_HBQK: Array,
    distance_HBQK: Array,
    k_HBKT: Array,
    v_HBKT: Array,
    r_HKT: Array,
    mask_BQT: Array,
) -> Array:
    """Softmax attention [H, B, Q, K] by what a key holds and how far it lies behind the query."""
    score = product("hbqk,hbkt->hbqt", content_HBQK, k_HBKT)
    score = score + shifted(product("hbqk,hkt->hbqt", distance_HBQK, r_HKT))
    score = jnp.where(mask_BQT, score, MASKED)
    share = jnp.exp(score - jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True)))
    total = jnp.sum(share, axis=-1, keepdims=True)
    o_HBQK = product("hbqt,hbkt->hbqk", share, v_HBKT)
    return (o_HBQK / total).astype(v_HBKT.dtype)


def attend_cache(
    content_BLHK: Array,
    distance_BLHK: Array,
    cache: KVCache,
    r_DHK: Array,
    seq: Seq,
    group_BL: Array,
) -> Array:
    """A few queries meet remembered keys: they are brought to the sinusoids, not the sinusoids of
    all distances to the heads.
    """
    D, K = r_DHK.shape[0], r_DHK.shape[2]
    k_BHRK, v_BHRK = cache["k"], cache["v"]
    R = k_BHRK.shape[2]
    far_BLR = jnp.clip(seq.pos[:, :, None] - cache.pos_BR[:, None], 0, R - 1)
    by_distance = jnp.einsum(
        "blhd,td->bhlt",
        jnp.einsum("blhk,dhk->blhd", distance_BLHK, r_DHK.astype(distance_BLHK.dtype)),
        sinusoids(R, D).astype(distance_BLHK.dtype),
    )
    score = jnp.einsum("blhk,bhrk->bhlr", content_BLHK, k_BHRK, preferred_element_type=jnp.float32)
    score = score + jnp.take_along_axis(
        by_distance.astype(jnp.float32), far_BLR[:, None], axis=-1, mode="clip"
    )
    mask_BLR = cache_mask(cache, seq.pos, group_BL, None)
    share = jax.nn.softmax(jnp.where(mask_BLR[:, None], score * K**-0.5, MASKED), axis=-1)
    return jnp.einsum("bhlr,bhrk->blhk", share.astype(v_BHRK.dtype), v_BHRK)


def sinusoids(count: int, width: int) -> Array:
    """Sines, then cosines, of 0..count-1 at `width`/2 frequencies from 1 to 1/10000; float32
    [count, width].
    """
    frequency = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = jnp.arange(count, dtype=jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def shifted(by_distance: Array) -> Array:
    """[..., Q, T], its last axis a distance from T-1 down to 0 -> the same by key, for the last Q
    of T queries.

    Query i and key j are T-Q+i-j apart. The rows are one array, from which every row starts one
    element later than the one before; keys behind the query get numbers of no meaning.
    """
    *lead, Q, T = by_distance.shape
    padded = jnp.pad(by_distance, [(0, 0)] * (len(lead) + 1) + [(1, 0)])
    return padded.reshape(*lead, T + 1, Q)[..., 1:, :].reshape(*lead, Q, T)
