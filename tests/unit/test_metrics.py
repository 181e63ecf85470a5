"""Statistics add up first and divide last."""

import jax.numpy as jnp
import numpy as np
import pytest

from hlm.metrics import Mean, mean, merge, ratio, to_floats, under


def test_mean_is_weighted():
    m = mean(jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0]))
    assert (float(m.total), float(m.weight), m.value()) == (6.0, 4.0, 1.5)


def test_merge_adds_totals_and_weights():
    """Two parts of unequal weight give the mean of all, not the mean of means."""
    a, b = {"x": mean(jnp.array([1.0]))}, {"x": mean(jnp.array([4.0, 4.0]))}
    assert to_floats(merge(a, b)) == {"x": pytest.approx(3.0)}


def test_ratio_counts_booleans_and_bytes():
    m = ratio(jnp.ones(300, bool), jnp.full(300, 200, jnp.uint8))
    assert m.weight.dtype == m.total.dtype == jnp.float32
    assert (float(m.total), float(m.weight)) == (300.0, 60_000.0)


def test_no_weight_is_zero():
    assert Mean(np.float32(0), np.float32(0)).value() == 0.0


def test_under():
    assert list(under("above", {"x": Mean(0, 1)})) == ["above/x"]
