"""Relative attention against a loop over pairs, in rows of one block of queries and of several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm.nn.relative import RelativeAttention, sinusoids
from hlm.seq import Seq, index_in_document

CLOSE = 2e-5


def seq_of(doc_BL, heads, width):
    rng = np.random.default_rng(1)
    shared = tuple(jnp.asarray(rng.standard_normal((heads, width)), jnp.float32) for _ in "uv")
    doc_BL = jnp.asarray(doc_BL, jnp.int32)
    return Seq(doc_BL, doc_BL, index_in_document(doc_BL), doc_BL.astype(jnp.uint8), shared)


def loop(p, x_LD, group_L, shared):
    """One row, pair by pair."""
    (L, D), (u_HK, v_HK) = x_LD.shape, shared
    q, k, v = (np.einsum("ld,dhk->lhk", x_LD, p[name]) for name in "qkv")
    q, v = q + p["q_bias"], v + p["v_bias"]
    r = np.einsum("ld,dhk->lhk", np.asarray(sinusoids(L, D), np.float64), p["r"])
    out = np.zeros((L, D))
    for i in range(L):
        keys = [j for j in range(i + 1) if group_L[j] == group_L[i]]
        score = np.stack(
            [((q[i] + u_HK) * k[j]).sum(-1) + ((q[i] + v_HK) * r[i - j]).sum(-1) for j in keys]
        )
        share = np.exp(score / np.sqrt(q.shape[-1]))
        share /= share.sum(0)
        out[i] = (
            np.einsum("hk,hkd->d", np.einsum("th,thk->hk", share, v[keys]), p["o"]) + p["o_bias"]
        )
    return out


@pytest.mark.parametrize("length", [24, 300])
def test_is_attention_by_content_and_distance(length):
    H, K, D = 2, 3, 8
    rng = np.random.default_rng(0)
    x_BLD = rng.standard_normal((2, length, D))
    doc_BL = np.repeat([[1, 2, 3], [1, 1, 0]], length // 3, axis=1)
    seq = seq_of(doc_BL, H, K)
    layer = RelativeAttention(H, head_dim=K)
    shapes = jax.eval_shape(
        lambda: layer.init(jax.random.key(0), jnp.zeros(x_BLD.shape), seq, seq.doc)
    )["params"]
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape), shapes)
    narrow = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    got = layer.apply({"params": narrow}, jnp.asarray(x_BLD, jnp.float32), seq, seq.doc)
    shared = [np.asarray(a, np.float64) for a in seq.shared]
    for row in range(2):
        np.testing.assert_allclose(
            got[row], loop(params, x_BLD[row], doc_BL[row], shared), atol=CLOSE * 20, rtol=CLOSE
        )


def test_without_shared_biases_it_is_refused():
    seq = seq_of(np.ones((1, 4)), 2, 4)
    x_BLD = jnp.zeros((1, 4, 8))
    with pytest.raises(ValueError, match=r"LM\.shared=RelativeBias"):
        RelativeAttention(2).init(jax.random.key(0), x_BLD, seq.replace(shared=None), seq.doc)
    with pytest.raises(ValueError, match="heads, head_dim"):
        RelativeAttention(4).init(jax.random.key(0), x_BLD, seq, seq.doc)
