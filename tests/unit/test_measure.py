"""Measures: errors, paired differences and intervals are those of many samples."""

import numpy as np
import pytest

from hlm.evals.measure import change, difference, mean, ratio, single


def test_a_mean_has_the_error_that_everybody_knows():
    values = np.random.default_rng(0).normal(size=50)
    assert mean(values).value == pytest.approx(values.mean())
    assert mean(values).error == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert single(3.0).value == 3.0
    assert single(3.0).error is single(None).value is None


def test_errors_are_those_of_many_samples():
    rng = np.random.default_rng(0)

    def sample():
        weight = rng.integers(1, 30, 80)
        total = weight * rng.normal(2, 0.5, 80)
        now = ratio(total, weight)
        return now, change(ratio(total * rng.normal(1.2, 0.2, 80), weight), now)

    for which in (0, 1):
        many = [sample()[which] for _ in range(400)]
        spread = np.std([m.value for m in many])
        assert np.mean([m.error for m in many]) == pytest.approx(spread, rel=0.15)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    hard, noise = rng.normal(3, 2, 300), rng.normal(0.1, 0.1, 300)
    apart = difference(mean(hard + noise), mean(hard))
    assert apart is not None
    assert apart.clear
    assert 0.05 < apart.low < apart.value < apart.high < 0.15
    assert apart.high - apart.low < mean(hard).error  # of unpaired ones it would be five errors
    same = difference(mean(hard), mean(hard))
    assert same is not None
    assert not same.clear
    assert difference(mean(hard), mean(hard[1:])) is None
    assert difference(single(1.0), single(2.0)) is None


def test_intervals_hold_what_they_should():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        a, b = rng.normal(0, 1, 60), rng.normal(0.2, 1, 60)
        apart = difference(mean(a), mean(b))
        assert apart is not None
        held += apart.low <= -0.2 <= apart.high
    assert 88 <= held <= 99


def test_many_units_are_grouped():
    values = np.random.default_rng(0).normal(1, 1, 9001)
    whole = difference(mean(values), mean(values * 0))
    assert whole is not None
    assert whole.value == pytest.approx(values.mean())
    assert (whole.high - whole.low) / 2 == pytest.approx(1.96 * mean(values).error, rel=0.15)
