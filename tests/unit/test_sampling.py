"""Sampling: exactly the wanted distribution, and randomness that is each row's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.infer.sampling import Sampling, draw, keys, log_probabilities, next_symbol

CLOSE = 1e-6  # of float32 probabilities
SIGMAS = 5  # a count of draws is off by more in one of 1.7 million
DRAWS = 40_000
few = settings(deadline=None, max_examples=60)
# Probabilities are multiples of 1/64 and top_p lies between two multiples, so that rounding decides
# nothing.
weights = st.lists(st.integers(0, 16), min_size=6, max_size=6).filter(any)
ways = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 1.0, *(k / 7 + 0.003 for k in range(7))]),
    top_k=st.sampled_from([None, 1, 2, 3, 6, 100]),
)


def wanted(p, how):
    """The definition, symbol by symbol."""
    if how.temperature == 0:
        return np.eye(len(p))[np.argmax(p)]
    p = p ** (1 / how.temperature)
    p /= p.sum()
    ranked = sorted(range(len(p)), key=lambda symbol: (-p[symbol], symbol))[: how.top_k]
    share, kept = 0.0, []
    for symbol in ranked:
        if kept and share >= how.top_p * p[ranked].sum():
            break
        kept.append(symbol)
        share += p[symbol]
    out = np.zeros(len(p))
    out[kept] = p[kept] / p[kept].sum()
    return out


@few
@given(weights=weights, how=ways)
def test_log_probabilities(weights, how):
    p = np.array(weights) / sum(weights)
    with np.errstate(divide="ignore"):
        logits = np.log(p).astype(np.float32) + 3
    expected = wanted(p, how)
    log_p_BTV = log_probabilities(jnp.broadcast_to(logits, (2, 3, 6)), how)
    assert log_p_BTV.dtype == jnp.float32
    found = np.exp(np.asarray(log_p_BTV))
    np.testing.assert_array_equal(found > 0, np.broadcast_to(expected > 0, found.shape))
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=CLOSE)


def test_equals_keep_their_order():
    logits = jnp.zeros((1, 4))
    for how in (Sampling(1.0, top_k=2), Sampling(1.0, top_p=0.4)):
        np.testing.assert_allclose(
            np.exp(log_probabilities(logits, how)), [[0.5, 0.5, 0, 0]], atol=CLOSE
        )
    assert (
        next_symbol(jnp.array([[0.0, 2, 2, 1]]), Sampling(), 0, jnp.zeros((1, 2), jnp.int32)) == 1
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_temperatures_do_not_overflow(dtype):
    logits = jnp.array([[50.0, -jnp.inf, 51.0, -1e30]], dtype)
    assert np.array_equal(np.exp(log_probabilities(logits, Sampling(1e-38))), [[0, 0, 1, 0]])
    assert log_probabilities(logits, Sampling(1.0)).dtype == jnp.float32


def test_many_symbols_keep_their_tail():
    """top_p = 1 keeps also what rounding would lose."""
    log_p = log_probabilities(jnp.zeros((1, 100_000)).at[0, 0].set(20.0), Sampling(1.0))
    assert np.isfinite(log_p).all()


@pytest.mark.parametrize(
    "how",
    [
        Sampling(1.0),
        Sampling(0.7),
        Sampling(1.0, top_k=3),
        Sampling(1.3, top_p=0.8),
        Sampling(1.0, 0.9, 4),
    ],
)
def test_frequencies(how):
    p = np.array([0.05, 0.4, 0.0, 0.3, 0.15, 0.1])
    with np.errstate(divide="ignore"):
        logits = jnp.broadcast_to(np.log(p).astype(np.float32), (DRAWS, 6))
    row_and_length = jnp.stack([jnp.arange(DRAWS) % 200, jnp.arange(DRAWS) // 200], 1)
    symbols = jax.jit(lambda: next_symbol(logits, how, 0, row_and_length))()
    count, expected = np.bincount(np.asarray(symbols), minlength=6), wanted(p, how)
    assert (count[expected == 0] == 0).all()
    sigma = np.sqrt(DRAWS * expected * (1 - expected))
    assert (np.abs(count - DRAWS * expected) <= SIGMAS * sigma).all(), (count, DRAWS * expected)


def test_randomness_is_the_rows_own():
    logits = jnp.zeros((4, 1000))
    numbers = jnp.array([[7, 3], [8, 3], [7, 4], [7, 3]])
    how = Sampling(1.0)
    a, b, c, d = next_symbol(logits, how, 5, numbers).tolist()
    assert a == d
    assert len({a, b, c}) == 3
    assert next_symbol(logits[:1], how, 5, numbers[:1])[0] == a
    assert next_symbol(logits[:1], how, 6, numbers[:1])[0] != a
    seeds = jnp.array([5, 5, 5, 6])
    assert next_symbol(logits, how, seeds, numbers).tolist()[:3] == [a, b, c]
    assert (
        next_symbol(logits, how, seeds, numbers)[3]
        == next_symbol(logits[:1], how, 6, numbers[:1])[0]
    )
    assert draw(keys(5, numbers), log_probabilities(logits, how)).tolist() == [a, b, c, d]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(temperature=-1), "Sampling.temperature: -1 must be at least 0"),
        (dict(temperature=float("nan")), "Sampling.temperature: nan must be finite"),
        (dict(temperature=float("inf")), "Sampling.temperature: inf must be finite"),
        (dict(top_p=1.5), "Sampling.top_p: 1.5 must be at most 1"),
        (dict(top_p=-0.1), "Sampling.top_p: -0.1 must be at least 0"),
        (dict(top_p=float("nan")), "Sampling.top_p: nan must be at most 1"),
        (
            dict(top_k=0),
            "Sampling.top_k: 0 must be a whole number of at least 1, or None for all symbols",
        ),
        (
            dict(top_k=2.0),
            "Sampling.top_k: 2.0 must be a whole number of at least 1, or None for all symbols",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**arguments)
