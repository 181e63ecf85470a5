"""Rematerialisation of a stack: the same numbers, and what is computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm.nn.attention import Attention
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Chain, Stack, unstacked
from hlm.seq import Seq
from hlm.traced import RECOMPUTED, products

D, L, HIDDEN, DEPTH = 16, 8, 24, 3


def loss_of(remat: bool, keep: bool):
    stack = Stack(DEPTH, Block(Attention(2), SwiGLU(HIDDEN)), remat=remat, keep_projections=keep)
    doc_BL = jnp.ones((1, L), jnp.int32)
    seq = Seq(token=doc_BL, doc=doc_BL, pos=jnp.arange(L)[None], level=jnp.zeros((1, L), jnp.uint8))
    x_BLD = jnp.asarray(np.random.default_rng(0).normal(size=(1, L, D)), jnp.float32)
    params = stack.init(jax.random.key(0), x_BLD, seq)
    return (lambda params: jnp.sum(stack.apply(params, x_BLD, seq)[0] ** 2)), params


def again(remat: bool, keep: bool) -> int:
    """FLOPs of matrix products that the backward pass computes again."""
    loss, params = loss_of(remat, keep)
    counts, hidden = products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    assert not hidden
    return sum(n for path, n in counts.items() if RECOMPUTED in path)


@pytest.mark.parametrize(("remat", "keep"), [(True, False), (True, True), (False, True)])
def test_the_gradient_is_the_same(remat, keep):
    plain, params = loss_of(False, False)
    other, _ = loss_of(remat, keep)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.grad(other)(params),
        jax.grad(plain)(params),
    )


def test_kept_projections_are_not_computed_again():
    """Without: all of a block but its last product. With: the scores and values of attention."""
    weights = 2 * DEPTH * L * (4 * D * D + 2 * D * HIDDEN)
    assert again(True, False) - again(True, True) == weights
    attention = 2 * DEPTH * 2 * L * L * D
    assert again(False, False) < again(True, True) <= again(False, False) + attention


def test_weights_beside_each_other_are_one_in_decoding():
    """Where their shapes are the same; in a Chain, too. The numbers stay."""
    parts = (
        Stack(2, Block(Attention(2), SwiGLU(HIDDEN))),
        Stack(1, Block(Attention(2, None, 1), None)),
    )
    chain = Chain(parts)
    doc_BL = jnp.ones((1, L), jnp.int32)
    seq = Seq(token=doc_BL, doc=doc_BL, pos=jnp.arange(L)[None], level=jnp.zeros((1, L), jnp.uint8))
    x_BLD = jnp.asarray(np.random.default_rng(0).normal(size=(1, L, D)), jnp.float32)
    params = chain.init(jax.random.key(0), x_BLD, seq)["params"]
    made = unstacked(chain, params)
    first, second = made["parts_0"]["block"], made["parts_1"]["block"]
    assert (len(first), len(second)) == (2, 1)
    assert first[0]["mixer"]["q+k+v"].shape == (D, 3, 2, D // 2)
    assert first[1]["mlp"]["gate+up"].shape == (D, 2, HIDDEN)
    assert set(second[0]["mixer"]) == {"q", "k", "v", "o"}
    np.testing.assert_allclose(
        chain.apply({"params": made}, x_BLD, seq)[0],
        chain.apply({"params": params}, x_BLD, seq)[0],
        rtol=1e-4,
        atol=1e-5,
    )
