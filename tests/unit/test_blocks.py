"""Attention by XLA in loops over blocks: its numbers, its gradients and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm.nn.attention import attend
from hlm.nn.kernels import parts, spans

CLOSE = 2e-5
B, H, G, K = 2, 4, 2, 8


def plain(q, k, v, group, causal, window, query_only=None):
    """All scores at once."""
    distance = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])[None]
    mask = group[:, :, None] == group[:, None]
    mask = mask & (distance >= 0) if causal else mask
    mask = mask if window is None else mask & (np.abs(distance) < window)
    mask = mask if query_only is None else mask & (~query_only[:, None] | (distance == 0))
    k, v = (jnp.repeat(a, q.shape[2] // k.shape[2], axis=2) for a in (k, v))
    score = jnp.einsum("bqhk,bthk->bhqt", q, k) * q.shape[-1] ** -0.5
    share = jax.nn.softmax(jnp.where(mask[:, None], score, -jnp.inf), axis=-1)
    return jnp.einsum("bhqt,bthk->bqhk", share, v)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize("window", [None, 3, 6, 15, 21])
@pytest.mark.parametrize(
    ("length", "query_only", "at_once"), [(33, True, 1), (40, False, 4 * B * H * 20 * 12)]
)
def test_loops_are_plain_attention(causal, window, length, query_only, at_once, monkeypatch):
    """Several parts, blocks and steps: of rows that they divide and of others, also by part of a
    block; groups that come back, in rows and at their ends.
    """
    monkeypatch.setattr(parts, "QUERY_BLOCK", 4)
    monkeypatch.setattr(parts, "PARTS", 3)
    monkeypatch.setattr(spans, "QUERY_BLOCK", 4)
    monkeypatch.setattr(spans, "AT_ONCE", at_once)
    rng = np.random.default_rng(length)
    q, k, v, weights = (
        rng.standard_normal((B, length, n, K)).astype(np.float32) for n in (H, G, G, H)
    )
    group = np.repeat(rng.integers(0, 3, (B, -(-length // 4))), 4, axis=1)[:, :length]
    only = rng.integers(0, 2, (B, length)).astype(bool) if query_only else None
    rest = (group.astype(np.int32), causal, window, only)

    def value_and_grads(attention):
        def loss(q, k, v):
            o = attention(q, k, v, *rest)
            return jnp.sum(weights * jnp.sin(o)), o

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    for got, want in zip(
        jax.tree.leaves(value_and_grads(attend)),
        jax.tree.leaves(value_and_grads(plain)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=CLOSE)


@pytest.mark.parametrize(("part", "causal"), [(None, False), (2, True), (4, True)])
def test_memory_grows_with_the_row(part, causal, monkeypatch):
    """And not with its square: twice the row, and the window with it, is at most twice as much."""
    monkeypatch.setattr(spans, "AT_ONCE", 2**20)

    def planned(length: int) -> int:
        window = None if part is None else length // part
        of = functools.partial(attend, causal=causal, window=window)
        grads = jax.grad(lambda q, k, v, group: jnp.sum(of(q, k, v, group) ** 2), (0, 1, 2))
        q = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        group = jax.ShapeDtypeStruct((1, length), jnp.int32)
        compiled = jax.jit(grads).lower(q, q, q, group).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert planned(4096) < 2.2 * planned(2048)
