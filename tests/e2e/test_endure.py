"""benchmarks/endure.py in short: kills at aimed moments, some damage, some nonsense."""

import math
import sys

import pytest

from tests.e2e.runs import ROOT, finish, overrides, start

sys.path.insert(0, str(ROOT / "benchmarks"))
import endure  # type: ignore
import hostile  # type: ignore


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder / "run", overrides(folder, steps=24, **{"every.save": 6})))
    return folder


def test_killed_at_aimed_moments(undisturbed, tmp_path):
    given = overrides(tmp_path, steps=24, **{"every.save": 6})
    names = ["during a save", "asked to stop"]
    found = list(endure.kills(undisturbed / "run", tmp_path, given, names, 0, math.inf))
    assert [outcome.tried for outcome in found] == [1, 1]
    assert not any(outcome.lost for outcome in found), found


def test_some_damage(undisturbed):
    given = overrides(undisturbed, steps=24, **{"every.save": 6})
    found = list(endure.damage(undisturbed / "run", given, 0, math.inf, share=0.1))
    assert sum(outcome.tried for outcome in found) > 10
    assert not any(outcome.lost for outcome in found), found


def test_some_nonsense():
    tried, lost = hostile.calls(150, 1, math.inf)
    assert tried == 150
    assert not lost


def test_what_is_lost_is_told():
    """An outcome of each kind in the table."""
    rows = endure.table([endure.Outcome("a", 3, []), endure.Outcome("b", 2, ["x"])]).splitlines()
    assert rows[2:] == ["| a | 3 | 3 | 0 |", "| b | 2 | 1 | 1 |"]
