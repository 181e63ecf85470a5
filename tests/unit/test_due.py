"""Evaluations and saves by steps, by minutes, by whichever comes first; alone and among several."""

import itertools
import random

import pytest

from hlm import agree, config
from hlm.config import Every
from hlm.train.due import LOOK, Due
from tests.laws.subjects import ROOT


class Clock:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def times(due, clock, seconds, start=0, stop=None):
    """(step, time) of each time that it is due; `seconds` of each step, endless or few."""
    found = []
    for n, took in zip(itertools.count(start + 1), seconds, strict=False):
        clock.now += took
        if n == stop:
            break
        if due.at(n):
            found.append((n, clock.now))
            due.done()
    return found


@pytest.mark.parametrize(
    ("steps", "minutes", "expected"),
    [
        (0, 0, []),
        (7, 0, [7, 14, 21, 28]),
        (0, 1, [6, 12, 18, 24]),  # of ten seconds each
        (7, 1, [6, 7, 13, 14, 20, 21, 27, 28]),
        (5, 1, [5, 10, 15, 20, 25]),
        (0, 1 / 600, list(range(1, 30))),
    ],
)
def test_whichever_comes_first(steps, minutes, expected):
    clock = Clock()
    assert [n for n, _ in times(Due(steps, minutes, 0, clock), clock, [10.0] * 29)] == expected


def test_time_counts_from_the_last_time():
    """A save takes 50 seconds: the next is due after 60 seconds of steps."""
    clock = Clock()
    due = Due(0, 1, 5, clock)
    found = []
    for n in range(6, 30):
        clock.now += 10
        if due.at(n):
            found.append(n)
            clock.now += 50
            due.done()
    assert found == [11, 17, 23, 29]


def lockstep(minutes, seconds, skews):
    """Steps at which each of several processes hears that it is due, and how often they asked."""
    said, asked = [], []

    def first(of):
        def ask(number):
            asked.append(of)
            if of == 0:
                said.append(number)
            return said[-1]

        return ask

    clocks = [Clock(1000.0 * i) for i in range(len(skews))]
    dues = [Due(0, minutes, 0, clock, len(skews), first(i)) for i, clock in enumerate(clocks)]
    found = [[] for _ in skews]
    for n, took in enumerate(seconds, 1):
        for i, (due, clock) in enumerate(zip(dues, clocks, strict=True)):
            clock.now += took * skews[i]
            if due.at(n):
                found[i].append((n, clock.now))
                due.done()
    return found, asked.count(0), [asked.count(i) for i in range(len(skews))]


@pytest.mark.parametrize("pace", [0.02, 0.7, 31.0, 500.0])
def test_several_agree_by_the_clock_of_the_first(pace):
    """Whatever the others' clocks say; to the step, with few questions."""
    rng = random.Random(0)
    seconds = [pace * rng.uniform(0.9, 1.1) for _ in range(int(4 * 3600 / pace) + 20)]
    found, questions, each = lockstep(30, seconds, [1.0, 3.0, 0.1])
    steps = [[n for n, _ in one] for one in found]
    assert steps[0] == steps[1] == steps[2]
    assert len(steps[0]) >= 7
    now = [0.0, *(at for _, at in found[0])]
    for before, after in itertools.pairwise(now):
        assert abs(after - before - 1800) <= 1.2 * pace
    assert len(set(each)) == 1
    assert questions <= min(len(seconds), len(now) * 1800 / LOOK * 1.5)


def test_steps_that_become_slow_are_noticed():
    """Ten times slower from some step on: late by what a look had skipped; and a slow first step,
    which compiles, does not count for those after it.
    """
    for change in range(1000, 30_000, 1700):
        found, _, _ = lockstep(5, [0.01] * change + [0.1] * 9000, [1.0, 1.0])
        assert 299 <= found[0][0][1] <= 300 + 10 * LOOK
    found, _, _ = lockstep(5, [100.0] + [0.1] * 10_000, [1.0, 1.0])
    assert 299 <= found[0][0][1] <= 301


def test_fields():
    assert Every() == Every(10, 0, 0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"Every.save_minutes: -1"):
        Every(save_minutes=-1)
    exp = config.load(str(ROOT / "configs/hat.py:tiny"), ["every.save_minutes=30"])
    assert exp.every.save_minutes == 30.0


def test_one_process_asks_nobody():
    assert agree.first(7) == 7
