"""Processes of one run that end together: who is gone is said by name, by all others, in time."""

import dataclasses
import re
import socket
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

from hlm.train import peers
from hlm.train.lock import Owner, started
from hlm.train.peers import Alone, Peers
from hlm.train.stop import CannotGoOn


class Store:
    """The coordinator's key-value store; `mute` answers no more."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.mute = False

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.answer()
        self.values[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        self.answer()
        return [
            (key, value) for key, value in sorted(self.values.items()) if key.startswith(folder)
        ]

    def answer(self) -> None:
        if self.mute:
            raise RuntimeError("UNAVAILABLE: Socket closed")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"BEAT": 0.05, "SILENT": 1.5, "MUTE": 0.3, "LAST_WORDS": 0.3}.items():
        monkeypatch.setattr(peers, name, value)


@pytest.fixture
def coordinator():
    """Something that listens, as process 0 does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def three(coordinator):
    store, left = Store(), {}
    port = coordinator.getsockname()[1]
    all_ = []
    for i in range(3):
        one = Peers(
            store,
            i,
            3,
            f"127.0.0.1:{port}",
            lambda status, i=i: (
                left.setdefault(i, (status, time.monotonic())),
                all_[i].ended.set(),
            ),
        )
        one.owner = dataclasses.replace(
            one.owner, host=f"host{i}"
        )  # so that none can see another's process
        one.owners[i] = one.owner
        all_.append(one)
    yield store, all_, left
    for one in all_:
        one.ended.set()


def wait(left, *who, seconds=10.0):
    end = time.monotonic() + seconds
    while not set(who) <= set(left) and time.monotonic() < end:
        time.sleep(0.02)
    return {i: status for i, (status, _) in left.items()}


def test_nobody_is_missed(three):
    """While all are there, and when they end one after the other."""
    _, all_, left = three
    for one in all_:
        one.start()
    time.sleep(2.0)
    for one in all_[::-1]:
        one.close()
        time.sleep(1.0)
    assert left == {}


@pytest.mark.parametrize("who", [0, 1, 2])
def test_one_falls_silent(who, three, capsys):
    """Its machine is gone or cut off: the others say so, each once, and end with status 1."""
    _, all_, left = three
    for one in all_:
        one.start()
    time.sleep(0.3)
    all_[who].ended.set()
    others = {0, 1, 2} - {who}
    assert wait(left, *others) == dict.fromkeys(others, 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(
        line.startswith(
            f"process {who} (pid {all_[who].owner.pid} on host{who}) is gone: this run ends; start"
        )
        for line in lines
    )


def test_a_process_of_this_machine_is_seen_to_be_gone(three, capsys, monkeypatch):
    """At once, without waiting for its silence."""
    monkeypatch.setattr(peers, "SILENT", 1000.0)
    _, all_, left = three
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    all_[2].owner = dataclasses.replace(Owner.me(), pid=child.pid, started=started(child.pid))
    all_[2].beat()
    for one in all_[:2]:
        one.start()
    time.sleep(0.3)
    assert left == {}
    child.kill()
    assert wait(left, 0, 1) == {0: 1, 1: 1}
    assert set(capsys.readouterr().err.splitlines()) == {
        f"process 2 (pid {child.pid} on {socket.gethostname()}) is gone: {peers.ADVICE}"
    }
    child.communicate()


def test_the_coordinator_is_gone(three, coordinator, capsys):
    """Nothing answers or listens any more: said sooner than jax's abort, which waits for 6 s."""
    store, all_, left = three
    for one in all_:
        one.start()
    time.sleep(0.3)
    all_[0].ended.set()
    coordinator.close()
    store.mute = True
    begun = time.monotonic()
    assert wait(left, 1, 2) == {1: 1, 2: 1}
    assert time.monotonic() - begun < 1.2
    assert re.fullmatch(
        r"(process 0 \(pid \d+ on host0\) is gone: .*\n){2}", capsys.readouterr().err
    )


def test_a_store_that_hiccups(three):
    store, all_, left = three
    for one in all_:
        one.start()
    for _ in range(3):
        store.mute = True
        time.sleep(0.5)
        store.mute = False
        time.sleep(0.3)
    assert left == {}


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize(
    "error",
    [ValueError("two\nlines"), CannotGoOn("the reason"), KeyboardInterrupt()],
    ids=lambda e: type(e).__name__,
)
def test_one_fails(who, error, three, capsys):
    """Its own error is shown where it was raised; the others say whose error ended them."""
    _, all_, left = three
    for one in all_:
        one.start()
    time.sleep(0.2)
    try:
        raise error
    except BaseException as raised:
        all_[who].failed(raised)
    assert wait(left, 0, 1, 2) == {0: 1, 1: 1, 2: 1}
    printed = capsys.readouterr().err
    name = f"process {who} (pid {all_[who].owner.pid} on host{who})"
    assert printed.count(f"{name} has failed: {type(error).__name__}: ") == 2
    assert ("Traceback" in printed) == (not isinstance(error, CannotGoOn))


def test_a_collective_fails_because_another_is_gone(three, capsys):
    """The error of the collective is not what the user needs to hear: who is gone is."""
    _, all_, left = three
    for one in all_:
        one.start()
    time.sleep(0.2)
    all_[1].ended.set()
    failing = threading.Thread(
        target=all_[0].failed, args=(jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed"),)
    )
    failing.start()
    assert wait(left, 0, 2) == {0: 1, 2: 1}
    failing.join(10)
    printed = capsys.readouterr().err
    assert printed.count("process 1 ") == 2
    assert "Gloo" not in printed


def test_last_jobs_are_done_and_cannot_hold_it_up(three):
    _, all_, left = three
    done = []
    for job in (
        lambda: done.append(1),
        lambda: 1 / 0,
        lambda: done.append(2),
        lambda: time.sleep(60),
    ):
        all_[0].before_end(job)
    begun = time.monotonic()
    all_[0].end("the end", quiet=True)
    assert left[0][0] == 1
    assert done == [1, 2]
    assert time.monotonic() - begun < 5


def test_alone():
    with peers.join(False) as one:
        assert isinstance(one, Alone)
    with pytest.raises(ValueError, match="x"), peers.join(False):
        raise ValueError("x")


def test_an_abort_waits():
    """Six seconds, in which other threads go on; then it is the abort that it was."""
    code = """if True:
        import ctypes, os, threading, time
        from hlm.train.peers import aborts_wait
        with aborts_wait():
            threading.Thread(target=ctypes.CDLL(None).abort, daemon=True).start()
            time.sleep(1)
            print("still here", flush=True)
            {then}
            time.sleep(30)
        """
    ended = subprocess.run(
        [sys.executable, "-c", code.format(then="os._exit(1)")], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "still here\n")
    aborted = subprocess.run(
        [sys.executable, "-c", code.format(then="pass")], capture_output=True, text=True
    )
    assert (aborted.returncode, aborted.stdout) == (-6, "still here\n")


@pytest.mark.parametrize(("key", "value"), [("done", ""), ("failed", "ValueError: x")])
def test_last_words_count_more_than_an_end(key, value, three, capsys, monkeypatch):
    """A process of this machine whose end is seen before what it had to say is read."""
    store, all_, left = three
    all_[1].beat()
    all_[2].owner = dataclasses.replace(Owner.me(), started="0")  # it has ended
    all_[2].beat()
    all_[0].beat()
    store.values[f"hlm/1/{key}/2"] = value
    all_[0].look()
    if key == "done":
        assert left == {}
    else:
        assert " has failed: ValueError: x;" in capsys.readouterr().err


def test_a_process_that_stood_still_does_not_blame_others(three, monkeypatch):
    """Suspended, or held up by a machine with too much to do: for longer than silence takes."""
    _, all_, left = three
    jump = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + jump[0], sleep=time.sleep)
    monkeypatch.setattr(peers, "time", clock)
    for one in all_:
        one.start()
    for _ in range(3):
        time.sleep(0.3)
        jump[0] += 100
    time.sleep(0.3)
    assert left == {}


def test_a_coordinator_that_process_0_cannot_ask(three, coordinator):
    """It has not heard of the others for long, but could not have."""
    store, all_, left = three
    for one in all_ * 2:
        one.beat()
    store.mute = True
    all_[0].awake = 100.0
    all_[0].look()
    assert left == {}
