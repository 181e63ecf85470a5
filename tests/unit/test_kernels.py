"""Kernels of accelerators against XLA's blocks, and which of them is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from hlm import Mesh
from hlm.nn.attention import attend
from hlm.nn.kernels.best import SHORT_ROW, SHORT_WINDOW, Best
from hlm.nn.kernels.blocks import Blocks
from hlm.nn.kernels.kernel import Kernel
from hlm.nn.kernels.splash import Splash
from hlm.traced import products

CLOSE = 2e-5
B, L, H, G, K = 2, 200, 4, 2, 16


def inputs(seed: int):
    rng = np.random.default_rng(seed)
    q, k, v, weights = (rng.standard_normal((B, L, n, K)).astype(np.float32) for n in (H, G, G, H))
    group = np.repeat(rng.integers(0, 3, (B, L // 4)), 4, axis=1).astype(np.int32)
    return q, k, v, group, weights


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 30), (False, None)])
def test_splash_attention_has_the_numbers_of_xla(causal, window):
    """Grouped queries, groups that come back, heads and rows that fill no block; on two devices,
    each with some of the rows and heads.
    """
    *given, weights = inputs(seed=3)

    def grads(kernel: Kernel):
        def loss(q, k, v, group):
            o = attend(q, k, v, group, causal, window, kernel=kernel)
            return jnp.sum(weights * jnp.sin(o)), o

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*given)

    want = grads(Blocks())
    with jax.set_mesh(Mesh(data=1, model=2).make(jax.devices()[:2])):
        found = grads(Splash(128, interpret=True))
    for got, right in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, right, atol=CLOSE)


def lowered(platform: str, length: int, window: int | None, only: bool = False) -> str:
    """The gradient of attention by the best kernel, as it is lowered for a platform."""
    q = jax.ShapeDtypeStruct((1, length, 2, 64), jnp.bfloat16)
    group = jax.ShapeDtypeStruct((1, length), jnp.int32)
    marks = [jax.ShapeDtypeStruct((1, length), bool)] if only else []
    of = functools.partial(attend, causal=True, window=window, kernel=Best())

    def loss(q, k, v, group, *only):
        return jnp.sum(of(q, k, v, group, query_only_BL=only[0] if only else None))

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, q, q, group, *marks)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("window", [None, 2 * SHORT_WINDOW])
def test_the_best_kernel_is_chosen_where_a_program_is_lowered(window):
    long = 2 * SHORT_ROW
    assert (
        lowered("tpu", long, window).count("tpu_custom_call") == 4
    )  # forward twice, dq, dk and dv
    assert "custom_call" not in lowered("cpu", long, window)


@pytest.mark.parametrize(
    ("length", "window", "only"),
    [(SHORT_ROW, None, False), (2 * SHORT_ROW, SHORT_WINDOW, False), (2 * SHORT_ROW, None, True)],
)
def test_what_a_kernel_is_not_worth_or_cannot_do_is_left_to_xla(length, window, only):
    assert "tpu_custom_call" not in lowered("tpu", length, window, only)


def test_splash_attention_has_no_query_only_elements():
    q, k, v, group, _ = inputs(seed=0)
    only = np.zeros((B, L), bool)
    with pytest.raises(ValueError, match="kernel: Splash has no query-only elements"):
        attend(q, k, v, group, True, None, only, Splash())


def test_products_of_kernels_are_counted():
    """In each cell of a grid, on each device of a mesh, and once of several platforms."""

    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    def square(x_AA):
        return pl.pallas_call(kernel, out_shape=x_AA, grid=(3,), interpret=True)(x_AA)

    def platforms(x_AA):
        return jax.lax.platform_dependent(x_AA, tpu=square, default=lambda x_AA: x_AA @ x_AA)

    mesh = Mesh(data=2).make(jax.devices()[:2])
    on_two = jax.shard_map(square, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    one = 2 * 8**3
    for of, times in ((square, 3), (on_two, 6), (platforms, 1)):
        counts, hidden = products(jax.make_jaxpr(of)(jnp.zeros((8, 8))).jaxpr)
        assert (counts.total(), hidden) == (times * one, set())
