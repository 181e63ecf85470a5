import argparse

import jax
import jax.numpy as jnp
import pytest

from hlm.train.profile import Profile, steps


def test_steps():
    assert steps("100:105") == range(100, 105)
    for text in ("5", "5:5", "6:5", "a:b", "1:2:3", "-1:2"):
        with pytest.raises(argparse.ArgumentTypeError, match="FIRST:END"):
            steps(text)


@pytest.mark.parametrize(("start", "stop", "traced"), [(0, 5, 2), (3, 5, 1), (0, 3, 1), (4, 6, 0)])
def test_the_steps_that_a_run_has_are_traced(tmp_path, start, stop, traced, monkeypatch):
    """Steps 2 and 3 are asked for; also a run that begins at 3, one that ends at 3, one without."""
    seen, begin, end = [], jax.profiler.start_trace, jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "start_trace", lambda to: (seen.append("on"), begin(to)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: (seen.append("off"), end()))
    state = jnp.zeros(())
    with Profile(str(tmp_path), steps("2:4")) as profile:
        for n in range(start, stop):
            profile.before(n, state)
            seen.append(n)
            state = state + 1
    inside = seen[seen.index("on") + 1 : seen.index("off")] if traced else []
    assert len(inside) == traced
    assert set(inside) <= {2, 3}
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == (traced > 0)


def test_nothing_asked_for_is_nothing_traced(tmp_path):
    with Profile(str(tmp_path), None) as profile:
        profile.before(0, None)
    assert not any(tmp_path.iterdir())
