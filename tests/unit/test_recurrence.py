"""Parallel recurrences against a loop over elements, with groups that begin anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm.nn.recurrence import convolve, linear_recurrence, scan_states

B, L, H, P, N = 2, 13, 2, 3, 4
GROUP = np.array(
    [[1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 0], [4, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6]], np.int32
)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 4, 5, 13, 64])
def test_states_in_chunks_of_any_size_are_those_of_a_loop(chunk):
    v, b, c = values(B, L, H, P), values(B, L, N, seed=1), values(B, L, N, seed=2)
    step, rate = np.abs(values(B, L, H, seed=3)), -np.abs(values(B, L, H, seed=4))
    rate[:, 6] = -40.0  # forgets everything
    expected = np.zeros((B, L, H, P))
    for row in range(B):
        h = np.zeros((H, P, N))
        for t in range(L):
            h = (
                h
                * np.exp(rate[row, t])[:, None, None]
                * (t > 0 and GROUP[row, t] == GROUP[row, t - 1])
            )
            h = h + np.einsum("h,hp,n->hpn", step[row, t], v[row, t], b[row, t])
            expected[row, t] = h @ c[row, t]
    got, _ = jax.jit(scan_states, static_argnums=6)(v, step, rate, b, c, GROUP, chunk)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_where_rates_are_large():
    """Differences of sums of rates are positive above the diagonal: they must be masked before the
    exponential.
    """
    v, b, c, step = (
        values(B, L, H, P),
        values(B, L, N),
        values(B, L, N),
        np.ones((B, L, H), np.float32),
    )

    def loss(rate):
        return jnp.sum(scan_states(v, step, rate, b, c, GROUP, 4)[0] ** 2)

    assert np.isfinite(jax.jit(jax.grad(loss))(np.full((B, L, H), -60.0, np.float32))).all()


@pytest.mark.parametrize("taps", [1, 4, 20])
def test_taps_stay_in_their_group(taps):
    x, tap = values(B, L, N), values(taps, N, seed=1)
    expected = np.zeros((B, L, N))
    for row in range(B):
        for t in range(L):
            for back in range(min(taps, t + 1)):
                if (GROUP[row, t - back : t + 1] == GROUP[row, t]).all():
                    expected[row, t] += x[row, t - back] * tap[taps - 1 - back]
    x, group = (
        np.pad(x, ((0, 0), (taps - 1, 0), (0, 0))),
        np.pad(GROUP, ((0, 0), (taps - 1, 0)), constant_values=-1),
    )
    np.testing.assert_allclose(jax.jit(convolve)(x, tap, group), expected, rtol=1e-5, atol=1e-6)


def test_average():
    keep, x = np.random.default_rng(0).uniform(0, 1, (B, L)).astype(np.float32), values(B, L, N)
    keep[:, 5] = 0
    expected, y = np.zeros((B, L, N)), np.zeros((B, N))
    for t in range(L):
        y = keep[:, t, None] * y + x[:, t]
        expected[:, t] = y
    np.testing.assert_allclose(jax.jit(linear_recurrence)(keep, x), expected, rtol=1e-5, atol=1e-6)
