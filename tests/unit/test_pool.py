"""Pools against a loop over chunks."""

import numpy as np
import pytest
from hypothesis import given, settings

from hlm.model.pool import Attend, Mean, Select
from hlm.papers.megabyte import Concat
from tests.unit.cuts import B, D, E, L, S, compiled, cuts, members, params, values

CLOSE = 2e-5
few = settings(deadline=None, max_examples=25)


def rms(x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5) * scale


def check(pool, b, expected):
    """`expected(params, elements of a chunk [n, D])` for every chunk that exists."""
    h, p = values(B, L, D), params(pool, (B, L, D))
    z = np.asarray(compiled(pool)(p, h, b))
    assert np.isfinite(z).all(), "unused chunks must be finite"
    for row in range(B):
        for chunk in np.flatnonzero(b.used[row]):
            want = expected(p, h[row, members(b, row, chunk)])
            np.testing.assert_allclose(z[row, chunk], want, atol=CLOSE, rtol=CLOSE)


@few
@given(cuts())
def test_mean(b):
    check(Mean(E), b, lambda p, h: h.mean(0) @ p["linear"]["kernel"])


@few
@given(cuts())
def test_select(b):
    check(Select(E), b, lambda p, h: h[-1] @ p["linear"]["kernel"])
    check(Select(E, project=False), b, lambda p, h: np.concatenate([np.zeros(E - D), h[-1]]))


@few
@given(cuts())
def test_concat(b):
    """The last three elements, zeros before a shorter chunk."""
    check(
        Concat(3),
        b,
        lambda p, h: np.concatenate(
            [np.zeros(((3 - len(h)) * D if len(h) < 3 else 0,)), h[-3:].ravel()]
        ),
    )


@few
@given(cuts())
def test_attend(b):
    def expected(p, h):
        x, out = rms(h, p["pool_scale"]), []
        k, v = np.einsum("nd,dhk->nhk", x, p["k"]), np.einsum("nd,dhk->nhk", x, p["v"])
        for q in p["query"].reshape(3, 2, D // 2):
            score = np.einsum("hk,nhk->nh", q, k) * (D // 2) ** -0.5
            share = np.exp(score - score.max(0))
            out.append(np.einsum("nh,nhk->hk", share / share.sum(0), v).ravel())
        return np.concatenate(out) @ (p["linear"]["kernel"] if "linear" in p else np.eye(3 * D))

    check(Attend(E, queries=3, heads=2), b, expected)
    check(Attend(None, queries=3, heads=2), b, expected)


@pytest.mark.parametrize(
    "pool", [Mean(E), Select(E), Concat(2), Attend(E)], ids=lambda p: type(p).__name__
)
def test_large_values_stay_finite(pool):
    """Scores far below the mask's value must not outlive it, and a chunk of nothing must not divide
    by zero.
    """
    from hlm.seq import Boundaries

    none = np.zeros((B, S), bool)
    b = Boundaries(
        ends=np.zeros((B, L), bool),
        at=np.full((B, S), L - 1, np.int32),
        used=none,
        first=none,
        seen=np.zeros((B, L), np.int32),
        member=np.full((B, L), S, np.int32),
        pos=np.zeros((B, L), np.int32),
        number=np.zeros((B, S), np.int32),
        prob=None,
    )
    z = compiled(pool)(params(pool, (B, L, D)), 1e4 * values(B, L, D), b)
    assert np.isfinite(z).all()
