"""What a run's wall time went into, over kills and restarts: by a clock that passes when told."""

import json
import random

import pytest

from hlm.train.goodput import KINDS, SECONDS, SHARES, TIME, Goodput
from hlm.train.log import OF_THE_MACHINE


class World:
    """A run folder, and a clock of the machine; each program's own clock begins anywhere."""

    def __init__(self, now=1e9):
        self.begun = self.now = now
        self.saved, self.line, self.at = {}, {}, 0

    def start(self, wrong: float = 0.0) -> Goodput:
        """wrong: seconds by which the clock of this start's host is."""
        offset = random.random() * 1e5
        program = Goodput(lambda: self.now - offset, lambda: self.now + wrong)
        self.now += 7  # compiling
        program.go_on(json.loads(json.dumps(self.saved)), json.loads(json.dumps(self.line)))
        return program

    def step(self, program, seconds=1.0, waited=0.0):
        self.now += seconds
        program.stepping()
        program.waited(waited)
        self.line = program.sign()

    def save(self, program, seconds=2.0, done=False):
        self.saved = program.sign() | {"done": done}
        with program.on("saving"):
            self.now += seconds


def test_one_start():
    world = World()
    run = world.start()
    world.step(run)
    for _ in range(9):
        world.step(run, 1.0, 0.25)
    with run.on("evaluation"):
        world.now += 5
    world.save(run)
    found = run.report()
    assert found == {
        "wall/steps": round(6.75 / 24, 4),
        "wall/waiting": round(2.25 / 24, 4),
        "wall/evaluation": round(5 / 24, 4),
        "wall/saving": round(2 / 24, 4),
        "wall/starting": round(8 / 24, 4),
        "wall/lost": 0.0,
        "goodput": round(6.75 / 24, 4),
    }
    world.step(run)
    world.step(run, 3.0)
    found = run.report()
    assert found["wall/steps"] == 1.0
    assert found["goodput"] == round(10.75 / 28, 4)
    assert set(found) == set(SHARES) <= OF_THE_MACHINE
    assert {SECONDS, TIME} <= OF_THE_MACHINE


def test_a_kill():
    """Five steps behind the save and 90 seconds without anybody are lost."""
    world = World()
    run = world.start()
    for _ in range(11):
        world.step(run)
    world.save(run)
    for _ in range(5):
        world.step(run)
    world.now += 90
    run = world.start()
    world.step(run)
    assert run.seconds == pytest.approx(
        dict(steps=10, waiting=0, evaluation=0, saving=0, starting=16, again=7, away=90)
    )
    shares = run.report()
    assert shares["wall/lost"] == round(
        97 / 105, 4
    )  # the first report says what was lost before it
    assert shares["goodput"] == round(10 / 123, 4)


def test_a_run_that_had_ended_has_lost_nothing():
    """It goes on a month later, for more steps. One that was told to stop had to wait."""
    for done in (True, False):
        world = World()
        run = world.start()
        world.step(run)
        world.step(run)
        world.save(run, 0.0, done)
        world.now += 2_600_000
        run = world.start()
        assert run.seconds["again"] == 0
        assert run.seconds["away"] == (0 if done else 2_600_000)


@pytest.mark.parametrize("seed", range(20))
def test_every_second_is_of_one_kind(seed):
    """Kills at any moment, some before anything was saved or said; steps count once."""
    rng = random.Random(seed)
    world, step, behind, saved_step = World(), 0, 0.0, 0
    history: list[float] = []  # seconds of the steps that count
    for start in range(6):
        step = saved_step
        del history[step:]
        if not world.line:
            world.begun = world.now  # of a start that left no sign nothing is known
        run = world.start()
        for i in range(rng.randint(0, 8)):
            seconds = rng.random()
            world.step(run, seconds)
            history.append(0.0 if i == 0 else seconds)  # the first is part of the start
            step += 1
            if rng.random() < 0.2:
                with run.on("evaluation"):
                    world.now += 3
            if rng.random() < 0.3:
                world.save(run, rng.random())
                saved_step = step
            if rng.random() < 0.1:
                break
        behind = world.now
        if start < 5:
            world.now += rng.random() * 50
    total = run.sign()[SECONDS]
    assert set(total) == set(KINDS)
    assert all(seconds >= 0 for seconds in total.values())
    assert total["steps"] == pytest.approx(sum(history), abs=0.1)
    assert sum(total.values()) == pytest.approx(behind - world.begun, abs=0.1)


@pytest.mark.parametrize("wrong", [-3600.0, -5.0, 3600.0])
def test_a_host_whose_clock_is_wrong(wrong):
    """What the second start did counts, whatever its host takes the time for: the third one, whose
    clock is right again, goes on from its last line.
    """
    world = World()
    run = world.start()
    for _ in range(3):
        world.step(run)
    world.save(run)
    run = world.start(wrong)
    for _ in range(6):
        world.step(run)
    run = world.start()
    world.step(run)
    found = dict(run.seconds)
    assert found.pop("away") >= 0
    # two steps behind the first one, five that were lost, and three times compiling and a step
    assert found == pytest.approx(
        dict(steps=2, waiting=0, evaluation=0, saving=0, starting=24, again=5)
    )


GOOD = {TIME: 5.0, SECONDS: dict.fromkeys(KINDS, 1.0)}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {TIME: 5.0},
        {TIME: "?", SECONDS: GOOD[SECONDS]},
        {TIME: 5.0, SECONDS: {"steps": 3.0}},
        {TIME: 5.0, SECONDS: 7},
        {TIME: 5.0, SECONDS: dict.fromkeys(KINDS, float("nan"))},
        {TIME: 5.0, SECONDS: dict.fromkeys(KINDS, -1.0)},
        {TIME: None, SECONDS: None},
        {"step": 3, "kind": "train", "loss": 2.0},  # of a version without
    ],
)
def test_what_cannot_be_read_counts_as_nothing(bad):
    run = Goodput(lambda: 0.0, lambda: 10.0)
    run.go_on(bad, bad)
    assert run.seconds == dict.fromkeys(KINDS, 0.0)
    run.go_on(GOOD, bad)
    assert run.seconds["away"] == 6.0
