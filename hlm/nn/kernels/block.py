"""One block of queries against one block of keys, by XLA: [B, H, Q, K] and [B, G, T, K]."""

import jax
import jax.numpy as jnp

from hlm.nn.basic import MASKED
from hlm.nn.kernels.kernel import Gradients
from hlm.traced import RECOMPUTED

Array = jax.Array


def heads_first(a_BLHK: Array) -> Array:
    """[B, L, H, K] -> [B, H, L, K], the order in which heads are a batch of matrices; and back."""
    return jnp.swapaxes(a_BLHK, 1, 2)


def forward(q_BHQK: Array, k_BGTK: Array, v_BGTK: Array, mask_BQT: Array) -> tuple[Array, Array]:
    """Softmax attention [B, H, Q, K], and the logarithm of each query's sum, float32 [B, H, Q].
    Every query that has a gradient needs a key; elements have themselves.
    """
    score = _scores(q_BHQK, k_BGTK, mask_BQT)
    most = jnp.max(score, axis=-1, keepdims=True)
    share = jnp.exp(score - most)
    total = jnp.sum(share, axis=-1, keepdims=True)
    o_BGXK = _times(share.astype(v_BGTK.dtype), v_BGTK) / _rows(total)
    o_BHQK = o_BGXK.reshape(q_BHQK.shape).astype(v_BGTK.dtype)
    return o_BHQK, (most + jnp.log(total)).reshape(q_BHQK.shape[:3])


def backward(
    q_BHQK: Array,
    k_BGTK: Array,
    v_BGTK: Array,
    mask_BQT: Array,
    o_BHQK: Array,
    log_total_BHQ: Array,
    d_BHQK: Array,
) -> Gradients:
    """Gradients [B, H, Q, K], and of keys and values float32 [B, G, T, K], to be summed over
    blocks.
    """
    B, G = k_BGTK.shape[:2]
    with jax.named_scope(RECOMPUTED):
        score = _scores(q_BHQK, k_BGTK, mask_BQT)
        share = jnp.exp(score - log_total_BHQ.reshape(*score.shape[:4], 1))
    own = jnp.sum(d_BHQK.astype(jnp.float32) * o_BHQK.astype(jnp.float32), axis=-1)
    d_BGXK = d_BHQK.reshape(B, G, -1, d_BHQK.shape[-1])
    d_share = jnp.einsum("bgxk,bgtk->bgxt", d_BGXK, v_BGTK, preferred_element_type=jnp.float32)
    d_score = share * (d_share.reshape(share.shape) - own.reshape(*share.shape[:4], 1))
    share, d_score = share.astype(v_BGTK.dtype), d_score.astype(v_BGTK.dtype)
    # the narrower first: an XLA that wants it turned then copies less
    dv_BGKT = jnp.einsum(
        "bgxk,bgxt->bgkt", d_BGXK, _rows(share), preferred_element_type=jnp.float32
    )
    q_BGXK = q_BHQK.reshape(d_BGXK.shape) * q_BHQK.shape[-1] ** -0.5
    dk_BGKT = jnp.einsum(
        "bgxk,bgxt->bgkt", q_BGXK, _rows(d_score), preferred_element_type=jnp.float32
    )
    dq_BGXK = _times(d_score, k_BGTK) * q_BHQK.shape[-1] ** -0.5
    dq_BHQK = dq_BGXK.reshape(q_BHQK.shape).astype(q_BHQK.dtype)
    return dq_BHQK, jnp.swapaxes(dk_BGKT, 2, 3), jnp.swapaxes(dv_BGKT, 2, 3)


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
