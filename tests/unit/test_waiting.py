"""The share of time that the device waits for data, and validation on several sets."""

import dataclasses
import threading
import types

import jax.numpy as jnp
import pytest

from hlm.data.formats.files import File
from hlm.data.formats.record import Record, Records
from hlm.data.pack import Budget
from hlm.data.pipeline import Data, batches, documents
from hlm.data.source import Beginning, TextFiles
from hlm.metrics import merge, to_floats
from hlm.split import Words
from hlm.train import validation
from hlm.train.validation import Validation
from hlm.train.waiting import Waiting
from hlm.vocab import Bytes


class Clock:
    """Time that passes when it is told to; a step ends at a time of its own."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run(steps, loads, computes, first=0.0):
    """Shares of steps whose batches take `loads` to come and whose computation takes `computes`,
    one after the other, as the loop of training does it.
    """
    clock = Clock()
    waiting = Waiting(clock)

    def data():
        while True:
            clock.now += loads
            if waiting.newest is not None and waiting.newest.due <= clock.now:
                waiting.newest.ended = waiting.newest.due
            yield {}

    stream, total = data(), None
    for n in range(steps):
        _, found = waiting.next(stream)
        total = found if total is None else merge(total, found)
        begin = clock.now if n == 0 else max(clock.now, waiting.newest.due)
        waiting.newest = types.SimpleNamespace(due=begin + computes, ended=None)
        clock.now = begin  # the host waits for the step before, as Log does
    return to_floats(total)["waiting"]


def test_data_that_come_in_time_cost_nothing():
    assert run(20, loads=0.9, computes=1.0) == 0
    assert run(20, loads=0.0, computes=1.0) == 0


def test_slow_data_cost_what_the_device_is_idle():
    assert run(200, loads=4.0, computes=1.0) == pytest.approx(0.75, abs=0.01)
    assert run(200, loads=1.25, computes=1.0) == pytest.approx(0.2, abs=0.01)


def test_pauses_do_not_count():
    clock = Clock()
    waiting = Waiting(clock)
    waiting.next(iter([1]))
    waiting.runs(jnp.zeros(()))
    waiting.newest.thread.join()
    clock.now += 100  # evaluation
    waiting.pause()
    _, found = waiting.next(iter([2]))
    assert float(found["waiting"].weight) == 0
    waiting.runs(jnp.zeros(()))
    waiting.newest.thread.join()
    assert waiting.newest.ended == 100
    clock.now += 1
    _, found = waiting.next(iter([3]))
    assert float(found["waiting"].weight) == 1


# --- reading ahead of a slow source


@dataclasses.dataclass(frozen=True)
class Slow:
    """Each record comes only when so many are asked for at once, as storage far away would serve
    them.
    """

    together: int

    def open(self):
        return SlowRecords(self.together)


class SlowRecords(Records):
    def __init__(self, together):
        self.barrier = threading.Barrier(together)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.barrier.wait(20)
        return Record(b"word " * 20, True)

    def name(self, index):
        return str(index)

    def locations(self):
        return [File(__file__)]


def test_threads_read_records_at_once():
    """One at a time, the first would never come."""
    running = batches(Data(Slow(4), 64, threads=4), Bytes(Words()), Budget(64, (64,)), 2, 0)
    for _ in range(8):
        assert next(running)["nbytes"].sum() > 90
    running.close()


# --- several sets


def experiment(valid):
    model = types.SimpleNamespace(causal=True, bits="bits_per_byte", accuracy="byte_accuracy")
    return types.SimpleNamespace(model=model, valid=valid)


def test_sets_are_reported_apart_and_together(tmp_path, monkeypatch):
    for name, text in (("a", "x" * 30), ("b", "y" * 1000)):
        (tmp_path / f"{name}.txt").write_text(text)
    one, two = (TextFiles((str(tmp_path / f"{name}.txt"),)) for name in "ab")

    def measure(scorer, texts):
        size = sum(map(len, texts))
        bits = {b"x": 2.0, b"y": 5.0}[texts[0][:1]]
        return {"bits_per_byte": bits, "byte_accuracy": bits / 10, "bytes": size}

    monkeypatch.setattr(validation.perplexity, "evaluate", measure)
    found = Validation(experiment({"english": one, "code": Beginning(two, 10)})).run(None)
    assert found == {
        "bits_per_byte": pytest.approx((2 * 30 + 5 * 10) / 40),
        "byte_accuracy": pytest.approx((2 * 30 + 5 * 10) / 400),
        "english/bits_per_byte": 2.0,
        "english/byte_accuracy": 0.2,
        "english/bytes": 30,
        "code/bits_per_byte": 5.0,
        "code/byte_accuracy": 0.5,
        "code/bytes": 10,
    }
    assert Validation(experiment(one)).run(None) == measure(None, [b"x" * 30])
    both = [text for _, text in documents({"english": one, "code": two})]
    assert both == [b"x" * 30, b"y" * 1000]


@pytest.mark.parametrize("names", [(), ("",), ("a/b",)])
def test_sets_have_names(names):
    with pytest.raises(ValueError, match="valid: the sets are named"):
        Validation(experiment({name: TextFiles(("corpus:udhr",)) for name in names}))
