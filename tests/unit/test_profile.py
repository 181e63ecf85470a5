import argparse

import jax
import jax.numpy as jnp
import pytest

from hlm.train import profile as module
from hlm.train.profile import Profile, steps, untraced


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


@pytest.mark.parametrize(
    ("asked", "start", "end", "none"),
    [
        ("100:105", 0, 50, True),
        ("100:105", 0, 100, True),
        ("100:105", 0, 101, False),
        ("100:105", 104, 200, False),
        ("100:105", 105, 200, True),
        ("100:105", 105, 105, True),
    ],
)
def test_steps_that_never_come_are_said(asked, start, end, none):
    """Those behind the end, and those before a run goes on."""
    said = untraced(steps(asked), start, end)
    assert bool(said) == none
    assert said == "" or f"goes from step {start} to {end}" in said
    assert untraced(None, start, end) == ""


def test_a_trace_for_a_bucket_is_copied(tmp_path, monkeypatch):
    """The profiler itself knows disks only."""
    near = tmp_path / "near"
    monkeypatch.setattr(module, "is_remote", lambda path: True)
    monkeypatch.setattr(module.tempfile, "mkdtemp", lambda: near.mkdir() or str(near))
    with Profile(str(tmp_path / "run"), steps("1:2")) as profile:
        for n in range(4):
            profile.before(n, jnp.zeros(()))
    assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1
    assert not near.exists()


@pytest.mark.parametrize("where", ["start_trace", "stop_trace"])
def test_a_trace_that_fails_is_a_line(where, tmp_path, monkeypatch, capsys):
    end = jax.profiler.stop_trace

    def fails(*arguments):
        end() if where == "stop_trace" else None
        raise RuntimeError("UNIMPLEMENTED: File system scheme 'gs' not implemented")

    monkeypatch.setattr(jax.profiler, where, fails)
    with Profile(str(tmp_path), steps("1:3")) as profile:
        for n in range(6):
            profile.before(n, jnp.zeros(()))
    said = capsys.readouterr().err
    assert said.count("warning: --profile: UNIMPLEMENTED: File system scheme 'gs'") == 1
