"""Unpools against a loop over elements."""

import numpy as np
import pytest
from hypothesis import given, settings

from hlm.model.unpool import Broadcast, Prefix, Scatter
from hlm.papers.aunet import Offset
from hlm.papers.megabyte import Split
from tests.unit.cuts import B, D, E, L, S, compiled, cuts, params, values

CLOSE = 2e-5
few = settings(deadline=None, max_examples=25)


def check(unpool, b, expected):
    """`expected(params, newest chunk's vector [E], skip [D], distance to its end)` for every
    element.
    """
    z, skip, p = values(B, S, E), values(B, L, D, seed=1), params(unpool, (B, S, E), (B, L, D))
    u = np.asarray(compiled(unpool)(p, z, skip, b))
    for row in range(B):
        ends = np.flatnonzero(b.ends[row])
        for t in range(L):
            chunk = int((ends <= t).sum()) - 1
            want = expected(p, z[row, chunk], skip[row, t], t - ends[chunk])
            np.testing.assert_allclose(u[row, t], want, atol=CLOSE, rtol=CLOSE)


@few
@given(cuts())
def test_prefix(b):
    check(Prefix(), b, lambda p, z, skip, ago: z @ p["linear"]["kernel"] if ago == 0 else skip)


@few
@given(cuts())
def test_scatter(b):
    check(Scatter(), b, lambda p, z, skip, ago: skip + z[-D:] if ago == 0 else skip)


@few
@given(cuts())
def test_broadcast(b):
    check(Broadcast(), b, lambda p, z, skip, ago: skip + z @ p["linear"]["kernel"])


@few
@given(cuts())
def test_offset(b):
    check(
        Offset(3),
        b,
        lambda p, z, skip, ago: skip + z @ p["linear"]["kernel"] + z @ p["slot"][:, ago % 3],
    )


@few
@given(cuts())
def test_split(b):
    def expected(p, z, skip, ago):
        slot = z.reshape(3, E // 3)[min(ago, 2)] @ p["linear"]["kernel"] + p["linear"]["bias"]
        return (p["start"] if ago == 0 else skip) + slot

    check(Split(3), b, expected)


def test_split_of_a_width_that_does_not_divide():
    with pytest.raises(ValueError, match=r"size: 5 slots do not divide the chunk width 12"):
        params(Split(5), (B, S, E), (B, L, D))
