"""Layers against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hlm import Attention, Block, LayerNorm, RMSNorm, Rope, Stack, SwiGLU
from hlm.auxiliary import Aux
from hlm.nn.attention import attend
from hlm.nn.basic import Linear
from hlm.nn.feed_forward import MLP
from hlm.nn.kernels.parts import QUERY_BLOCK
from hlm.nn.relative import RelativeAttention
from hlm.seq import Seq, index_in_document, runs

CLOSE = 2e-5


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seq_of(doc):
    doc = np.asarray(doc, np.int32)
    return Seq(doc, doc, index_in_document(doc), doc.astype(np.uint8))


def applied(module, *arguments):
    """(output, parameters) with random parameters."""
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments)).get("params", {})
    leaves, shape = jax.tree.flatten(tree)
    params = jax.tree.unflatten(
        shape, [0.3 * values(*a.shape, seed=i) for i, a in enumerate(leaves)]
    )
    return jax.jit(lambda p: module.apply({"params": p}, *arguments))(params), params


class Normed(nn.Module):
    norm: RMSNorm | LayerNorm

    @nn.compact
    def __call__(self, x):
        return self.norm(self, x, "here")


def test_linear():
    x = values(2, 3, 4)
    y, p = applied(Linear(5, bias=True), x)
    np.testing.assert_allclose(y, x @ p["kernel"] + p["bias"], atol=CLOSE)
    assert applied(Linear(5), x)[1].keys() == {"kernel"}


def test_norms():
    x = values(2, 3, 8) + 2
    y, p = applied(Normed(RMSNorm(eps=0.1)), x)
    np.testing.assert_allclose(
        y, x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * p["here_scale"], atol=CLOSE
    )
    centred = x - x.mean(-1, keepdims=True)
    y, p = applied(Normed(LayerNorm(eps=0.1)), x)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(y, want * p["here_scale"] + p["here_bias"], atol=CLOSE)
    assert applied(Normed(LayerNorm(bias=False)), x)[1].keys() == {"here_scale"}


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm()], ids=lambda n: type(n).__name__)
def test_norms_compute_in_float32(norm):
    """A mean of squares in bfloat16 would be off by a per cent."""
    x = (values(64, 256) * 3).astype(jnp.bfloat16)
    y, p = applied(Normed(norm), x)
    assert y.dtype == jnp.bfloat16
    exact = jax.jit(lambda p: Normed(norm).apply({"params": p}, x.astype(np.float32)))(p).astype(
        jnp.bfloat16
    )
    assert np.array_equal(y, exact)


def silu(x):
    return x / (1 + np.exp(-x))


def test_feed_forward():
    x = values(2, 3, 4)
    y, p = applied(SwiGLU(6), x)
    np.testing.assert_allclose(y, (silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"], atol=CLOSE)
    y, p = applied(MLP(6), x)
    np.testing.assert_allclose(y, np.maximum(x @ p["up"], 0) @ p["down"], atol=CLOSE)


def test_rope_depends_on_the_distance_only():
    q, k = values(1, 1, 1, 8), values(1, 1, 1, 8, seed=1)

    def score(i, j, theta=100.0):
        rope = Rope(theta=theta)
        at = [jnp.full((1, 1), n, jnp.int32) for n in (i, j)]
        return float(jnp.sum(rope(q, at[0]) * rope(k, at[1])))

    assert score(7, 4) == pytest.approx(score(1003, 1000), abs=1e-3)
    assert abs(score(7, 4) - score(7, 5)) > 1e-2
    assert abs(score(7, 4) - score(7, 4, theta=10.0)) > 1e-3
    assert score(5, 5) == pytest.approx(float((q * k).sum()), abs=1e-5)
    # By the formula: pair i of the halves turns by pos * theta^(-i / half).
    angle = 3 * 100.0 ** (-np.arange(4) / 4)
    a, b = q[0, 0, 0, :4], q[0, 0, 0, 4:]
    want = np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)]
    )
    np.testing.assert_allclose(
        Rope(100.0)(q, jnp.full((1, 1), 3, jnp.int32))[0, 0, 0], want, atol=CLOSE
    )


def slow_attention(q, k, v, group, causal, window):
    out = np.zeros_like(q)
    B, L, H, K = q.shape
    share = H // k.shape[2]
    for b, i, h in np.ndindex(B, L, H):
        keys = [
            j
            for j in range(L)
            if group[b, j] == group[b, i]
            and (j <= i or not causal)
            and (window is None or abs(i - j) < window)
        ]
        score = k[b, keys, h // share] @ q[b, i, h] * K**-0.5
        e = np.exp(score - score.max())
        out[b, i, h] = e / e.sum() @ v[b, keys, h // share]
    return out


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize("window", [None, 1, 5, 8, 30])
@pytest.mark.parametrize("length", [20, 24])
def test_attention_is_the_slow_one(length, window, causal):
    """Windows that divide the row and not, that cover it, and groups that come back."""
    q, k, v = (
        values(2, length, 4, 8),
        values(2, length, 2, 8, seed=1),
        values(2, length, 2, 8, seed=2),
    )
    group = np.repeat(np.random.default_rng(3).integers(0, 3, (2, length // 4)), 4, axis=1).astype(
        np.int32
    )
    got = jax.jit(functools.partial(attend, causal=causal, window=window))(q, k, v, group)
    np.testing.assert_allclose(got, slow_attention(q, k, v, group, causal, window), atol=CLOSE)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("query_only", [False, True])
def test_attention_that_keeps_no_scores_has_the_gradients_of_softmax(query_only, window, causal):
    B, L, H, K, G = 2, 20, 4, 8, 2
    q, k, v, weights = (values(B, L, n, K, seed=i) for i, n in enumerate((H, G, G, H)))
    group = np.repeat([[1, 2, 1, 3], [1, 1, 2, 0]], 5, axis=1).astype(np.int32)
    only = np.random.default_rng(0).integers(0, 2, (B, L)).astype(bool) if query_only else None
    distance = np.arange(L)[:, None] - np.arange(L)[None]
    mask = group[:, :, None] == group[:, None]
    mask = mask & (distance >= 0) if causal else mask
    mask = mask if window is None else mask & (np.abs(distance) < window)
    mask = mask if only is None else mask & (~only[:, None] | (distance == 0))

    def ours(q, k, v):
        return jnp.sum(weights * jnp.sin(attend(q, k, v, group, causal, window, only)))

    def plain(q, k, v):
        k, v = (jnp.repeat(a, H // G, axis=2) for a in (k, v))
        score = jnp.einsum("bqhk,bthk->bhqt", q, k) * K**-0.5
        share = jax.nn.softmax(jnp.where(mask[:, None], score, -jnp.inf), axis=-1)
        return jnp.sum(weights * jnp.sin(jnp.einsum("bhqt,bthk->bqhk", share, v)))

    for got, want in zip(
        jax.jit(jax.grad(ours, (0, 1, 2)))(q, k, v),
        jax.grad(plain, (0, 1, 2))(q, k, v),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=CLOSE)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_attention_in_blocks_of_queries(causal):
    """Rows longer than a block, also by part of one."""
    length = 2 * QUERY_BLOCK + 10
    q, k, v = (values(1, length, 1, 4, seed=i) for i in range(3))
    group = np.repeat([1, 2, 3], [QUERY_BLOCK - 3, QUERY_BLOCK, 13]).astype(np.int32)[None]
    got = jax.jit(functools.partial(attend, causal=causal, window=None))(q, k, v, group)
    np.testing.assert_allclose(got, slow_attention(q, k, v, group, causal, None), atol=CLOSE)


def test_attention_layer():
    """Projections, norms of queries and keys, positions: all in one, by hand."""
    x, seq = values(1, 6, 8), seq_of([[1, 1, 1, 1, 2, 2]])
    layer = Attention(heads=2, kv_heads=1, head_dim=4, qk_norm=RMSNorm(), rope=Rope(50.0))
    y, p = applied(layer, x, seq, seq.doc)

    def rms(a, scale):
        return a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5) * scale

    q = Rope(50.0)(
        rms(np.einsum("bld,dhk->blhk", x, p["q"]), p["q_scale"]).astype(np.float32), seq.pos
    )
    k = Rope(50.0)(
        rms(np.einsum("bld,dhk->blhk", x, p["k"]), p["k_scale"]).astype(np.float32), seq.pos
    )
    v = np.einsum("bld,dhk->blhk", x, p["v"])
    o = slow_attention(np.asarray(q), np.asarray(k), v, np.asarray(seq.doc), True, None)
    np.testing.assert_allclose(y, np.einsum("blhk,hkd->bld", o, p["o"]), atol=1e-4)


def test_attention_errors_name_the_field():
    x, seq = values(1, 4, 8), seq_of([[1] * 4])
    with pytest.raises(ValueError, match="heads: 3 does not divide the width 8; set head_dim"):
        applied(Attention(heads=3), x, seq, seq.doc)
    with pytest.raises(ValueError, match="kv_heads: 3 does not divide heads 4"):
        applied(Attention(heads=4, kv_heads=3), x, seq, seq.doc)


def block():
    return Block(Attention(heads=2), SwiGLU(12))


def test_stack_is_its_blocks_in_turn():
    """With and without recomputation; the parameters are the same ones."""
    x, seq = values(2, 6, 8), seq_of([[1, 1, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0]])
    (y, aux), p = applied(Stack(3, block()), x, seq)
    assert aux == Aux()
    one, h = jax.jit(lambda p, h: block().apply({"params": p}, h, seq, seq.doc)), x
    for i in range(3):
        h = one(jax.tree.map(lambda a, i=i: a[i], p["block"]), h)
    np.testing.assert_allclose(y, h, atol=1e-4)
    (z, _), q = applied(Stack(3, block(), remat=False), x, seq)
    assert jax.tree.map(np.shape, q) == jax.tree.map(np.shape, p)
    np.testing.assert_allclose(z, y, atol=1e-5)


def test_stack_per_chunk_meets_its_own_chunk_only():
    x, seq = values(1, 6, 8), seq_of([[1] * 6])
    group = np.array([[0, 0, 0, 1, 1, 1]], np.int32)
    changed = x.copy()
    changed[0, 0] += 1
    layer = Stack(2, block(), per_chunk=True)
    (a, _), (b, _) = applied(layer, x, seq, group)[0], applied(layer, changed, seq, group)[0]
    assert np.array_equal(a[0, 3:], b[0, 3:])
    assert not np.array_equal(a[0, 2], b[0, 2])
    (a, _), (b, _) = (applied(Stack(2, block()), v, seq, group)[0] for v in (x, changed))
    assert not np.array_equal(a[0, 3], b[0, 3])
    with pytest.raises(
        ValueError,
        match="per_chunk=True but this stack is not the encoder or decoder of a Hierarchy",
    ):
        applied(layer, x, seq)


def test_empty_stack_is_the_identity():
    x, seq = values(1, 6, 8), seq_of([[1] * 6])
    assert np.array_equal(applied(Stack(0), x, seq)[0][0], x)
    with pytest.raises(ValueError, match="block: a stack of depth 2 needs a block"):
        applied(Stack(2), x, seq)


def test_runs():
    a, b = np.array([[1, 1, 1, 2, 2, 1]]), np.array([[0, 0, 5, 5, 5, 5]])
    assert runs(a, b).tolist() == [[0, 0, 1, 2, 2, 3]]


@pytest.mark.parametrize(
    "mixer",
    [
        Attention(2),
        Attention(2, window=4),
        Attention(2, window=4, causal=False),
        RelativeAttention(2),
    ],
)
def test_query_only_elements_are_seen_by_themselves_alone(mixer):
    """But they see the others, as those see each other."""
    doc, x = np.array([[1] * 20 + [2] * 12], np.int32), values(1, 32, 8)
    query_only = np.arange(32)[None] % 3 == 1
    seq = seq_of(doc).replace(shared=(values(2, 4), values(2, 4, seed=1)), query_only=query_only)
    y, shown = (applied(mixer, x, s, doc)[0] for s in (seq, seq.replace(query_only=None)))
    assert (np.abs(y - shown).max(-1) > CLOSE).mean() > 0.8, "being a key does nothing"

    def moved(changed):
        """Elements whose output follows the elements `changed`."""
        return (
            np.abs(applied(mixer, np.where(changed[..., None], x + 1, x), seq, doc)[0] - y).max(-1)
            > CLOSE
        )

    assert np.array_equal(moved(query_only), query_only)
    none_is_key, alone = (
        seq.replace(query_only=np.ones((1, 32), bool)),
        np.arange(32, dtype=np.int32)[None],
    )
    np.testing.assert_allclose(
        applied(mixer, x, none_is_key, doc)[0],
        applied(mixer, x, seq.replace(query_only=None), alone)[0],
        atol=CLOSE,
    )
    near = np.abs(np.arange(32)[None] - 3) < (getattr(mixer, "window", None) or 32)
    behind = np.arange(32)[None] >= (3 if getattr(mixer, "causal", True) else 0)
    assert np.array_equal(moved(np.arange(32)[None] == 3), near & behind & (doc == 1))
