import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm.nn.projection import project

CASES = [((2, 3, 4), (4, 5), 1), ((2, 3, 4), (4, 2, 5), 1), ((2, 3, 4, 5), (4, 5, 6), 2)]


def arrays(*shapes: tuple[int, ...], dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def plain(x, w, axes):
    return jnp.tensordot(x, w, axes)


@pytest.mark.parametrize(("x_shape", "w_shape", "axes"), CASES)
def test_every_derivative_is_that_of_the_plain_product(x_shape, w_shape, axes):
    x, w, dx, dw = arrays(x_shape, w_shape, x_shape, w_shape)

    def loss(product):
        return lambda x, w: jnp.sum(jnp.sin(product(x, w, axes)))

    ours, theirs = loss(project), loss(plain)
    for f in (
        lambda g: jax.value_and_grad(g, (0, 1))(x, w),
        lambda g: jax.jvp(g, (x, w), (dx, dw)),  # forward mode
        lambda g: jax.hessian(g, (0, 1))(x, w),  # forward over reverse, and vmap
        lambda g: jax.vmap(jax.grad(g, (0, 1)), (0, None))(x, w),  # a gradient for each example
        lambda g: jax.grad(jax.checkpoint(g), (0, 1))(x, w),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), f(ours), f(theirs)
        )


@pytest.mark.parametrize(("shape", "narrow"), [((6, 3), "dY"), ((3, 6), "x")])
def test_the_gradient_of_the_weights_is_one_product(shape, narrow):
    """Of matrices as they lie; on a CPU the narrower is turned first, written before it is read."""
    x_BLD, w_DE = arrays((2, 5, shape[0]), shape)
    grad = jax.jit(jax.grad(lambda w: jnp.sum(project(x_BLD, w, dtype=jnp.float32) ** 2)))
    text = {p: grad.trace(w_DE).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu")}
    backward = {p: t[t.rindex("stablehlo.dot_general") :].split("\n")[0] for p, t in text.items()}
    assert {t.count("stablehlo.dot_general") for t in text.values()} == {2}  # forward, backward
    assert "contracting_dims = [0, 1] x [0, 1]" in backward["tpu"]
    assert "optimization_barrier" not in text["tpu"]
    assert "contracting_dims = [1] x [0]" in backward["cpu"]
    assert "(tensor<3x10xf32>, tensor<10x6xf32>)" in backward["cpu"]
    assert text["cpu"].count("optimization_barrier") == {"dY": 2, "x": 1}[narrow]
    expected = jax.grad(lambda w: jnp.sum(plain(x_BLD, w, 1) ** 2))(w_DE)
    np.testing.assert_allclose(grad(w_DE), expected, rtol=2e-5, atol=2e-5)


def test_dtypes_are_those_of_a_product_of_matrices():
    x_BLD, w_DE = arrays((2, 3, 4), (4, 5))
    x_BLD = x_BLD.astype(jnp.bfloat16)
    assert project(x_BLD, w_DE).dtype == jnp.bfloat16
    summed = lambda x, w: jnp.sum(project(x, w, dtype=jnp.float32))  # noqa: E731
    assert project(x_BLD, w_DE, dtype=jnp.float32).dtype == jnp.float32
    assert [g.dtype for g in jax.grad(summed, (0, 1))(x_BLD, w_DE)] == [jnp.bfloat16, jnp.float32]


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(4, 5\) does not begin with the last 2 axes"):
        project(jnp.zeros((2, 3, 4)), jnp.zeros((4, 5)), axes=2)


def test_the_gradient_of_the_weights_is_summed_in_their_dtype():
    """257 ones: in bfloat16, which has eight bits, that is 256."""
    x_BD, w_DE = jnp.ones((257, 1), jnp.bfloat16), jnp.ones((1, 1), jnp.float32)
    grad = jax.grad(lambda w: jnp.sum(project(x_BD, w).astype(jnp.float32)))(w_DE)
    assert grad.dtype == jnp.float32
    assert grad.item() == 257
