"""The processes of one distributed run: each notices when another is gone, says which, and ends.
None waits for ever.

jax.distributed notices too, after longer, and aborts without saying why. Here every process leaves
signs of life with the coordinator, which runs in process 0, and a thread looks after those of the
others. All of them end with the same line.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax

from hlm.train.lock import Owner
from hlm.train.stop import CannotGoOn, brief, say

BEAT = 2.0  # seconds between two signs of life
# seconds without one after which a process counts as gone; nothing holds Python up for so long
SILENT = 40.0
MUTE = 3.0  # seconds without an answer of the coordinator after which it is looked for
LAST_WORDS = 2 * BEAT + 1  # seconds in which the others hear from process 0 why it ends
ADVICE = "this run ends; start the same command again to continue from its newest checkpoint"


class Alone:
    """The only process of a run: nothing can happen to others."""

    def failed(self, error: BaseException) -> None:
        """Nobody has to hear of it."""

    def before_end(self, job: Callable[[], None]) -> None:
        """An only process always ends in the usual way."""


class Peers:
    """This process among several.

    `client` is the key-value store of jax.distributed's coordinator at `address`.
    """

    def __init__(
        self, client: Any, me: int, count: int, address: str, leave: Callable[[int], Any] = os._exit
    ):
        self.client, self.me, self.count, self.address, self.leave = (
            client,
            me,
            count,
            address,
            leave,
        )
        self.owner = Owner.me()
        self.jobs: list[Callable[[], None]] = []
        self.ended = threading.Event()
        self.leaving = threading.Lock()
        self.number = 0
        # Seconds in which this process ran: while it stands still itself, nobody else is silent.
        self.awake = 0.0
        self.heard = 0.0  # when the coordinator last answered, in these seconds, as all below
        # of process 0, or of all others for process 0: the newest, and since when
        self.signs: dict[int, tuple[str, float]] = {}
        self.owners: dict[int, Owner | None] = {me: self.owner}

    def start(self) -> None:
        self.beat()
        for work in (self._beats, self._looks):
            threading.Thread(target=work, name="hlm peers", daemon=True).start()

    def before_end(self, job: Callable[[], None]) -> None:
        """`job` is done before this process ends early, such as to give back a lock; it gets a few
        seconds.
        """
        self.jobs.append(job)

    def beat(self) -> None:
        """Leave a sign of life, and read those of others.

        In process 0 of all, in others of process 0, and what it has to say.
        """
        self.number += 1
        self.put(
            f"hlm/{min(self.me, 1)}/alive/{self.me}",
            f"{self.number} {self.owner.content().decode()}",
        )
        found = self.get("hlm/1/") if self.me == 0 else self.get("hlm/0/")
        now = self.heard = self.awake
        for name, value in found.items():
            kind, _, who = name.partition("/")
            if kind == "alive" and f"done/{who}" not in found:
                number, _, owner = value.partition(" ")
                if self.signs.get(int(who), ("", 0))[0] != number:
                    self.signs[int(who)] = (number, now)
                self.owners[int(who)] = Owner.read(owner.encode())
            elif kind == "failed":
                self.end(f"{self.named(int(who))} has failed: {value}; {ADVICE}")
            elif kind == "verdict":
                self.end(value)
            elif kind == "done":
                self.signs[int(who)] = ("done", float("inf"))

    def look(self) -> None:
        """End if somebody is gone."""
        if self.me == 0:
            for who in range(1, self.count):
                self.judge(who)
            return
        self.judge(0)
        mute = self.awake - self.heard
        if mute > SILENT or (mute > MUTE and not self.answers()):
            self.end(f"{self.named(0)} is gone: {ADVICE}")

    def judge(self, who: int) -> None:
        """End if a process is seen to be gone from this machine, or has been silent for too long
        while the coordinator did answer.
        """
        since = self.signs.setdefault(who, ("", self.awake))[1]
        owner = self.owners.get(who)
        if self.heard - since > SILENT or (
            since != float("inf") and owner is not None and owner.near() and not owner.runs()
        ):
            if self.me == 0:
                with contextlib.suppress(Exception):
                    self.beat()  # it may have said something meanwhile
                if self.signs[who][1] > since:
                    return
            self.end(f"{self.named(who)} is gone: {ADVICE}")

    def answers(self) -> bool:
        """Whether anything still listens at the coordinator's address."""
        host, _, port = self.address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=MUTE):
                return True
        except TimeoutError:
            return True  # a network that is slow; silence decides
        except OSError:
            return False

    def named(self, who: int) -> str:
        owner = self.owners.get(who)
        return f"process {who}" + (
            f" (pid {owner.pid} on {owner.host})" if owner is not None else ""
        )

    def failed(self, error: BaseException) -> None:
        """End this process with its error, and tell the others: waiting for them, who wait for this
        one, would be for ever.
        """
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            # most likely somebody else is gone, which will soon be known
            self.ended.wait(SILENT + 2 * BEAT)
        if self.leaving.locked():
            self.ended.wait(3 * LAST_WORDS)  # it is known, and being said
            return
        if isinstance(error, (CannotGoOn, SystemExit)):
            say(str(error))
        else:
            traceback.print_exception(error)
        with contextlib.suppress(Exception):
            self.put(f"hlm/1/failed/{self.me}", f"{type(error).__name__}: {brief(error)}")
        self.end(
            f"{self.named(self.me)} has failed: {type(error).__name__}: {brief(error)}; {ADVICE}",
            quiet=True,
        )

    def end(self, line: str, quiet: bool = False) -> None:
        """End this process.

        Others hear why from process 0, which waits for that. Only the first call counts.
        """
        if self.ended.is_set():
            return
        if not self.leaving.acquire(blocking=False):
            self.ended.wait(3 * LAST_WORDS)  # another thread is about to end this process
            return
        if not quiet:
            say(line)
        jobs = threading.Thread(target=self._jobs, daemon=True)
        jobs.start()
        if self.me == 0:
            with contextlib.suppress(Exception):
                self.put("hlm/0/verdict/0", line)
                time.sleep(LAST_WORDS)
        jobs.join(LAST_WORDS)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self.leave(1)

    def close(self) -> None:
        """This process has done all that others could wait for."""
        self.ended.set()
        with contextlib.suppress(Exception):
            self.put(f"hlm/{min(self.me, 1)}/done/{self.me}", "")

    def put(self, key: str, value: str) -> None:
        self.client.key_value_set(key, value, allow_overwrite=True)

    def get(self, folder: str) -> dict[str, str]:
        return {
            key.partition(folder)[2]: value for key, value in self.client.key_value_dir_get(folder)
        }

    def _jobs(self) -> None:
        for job in self.jobs:
            with contextlib.suppress(Exception):
                job()

    def _beats(self) -> None:
        while not self.ended.wait(BEAT):
            with contextlib.suppress(Exception):  # no answer: `look` notices
                self.beat()

    def _looks(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(BEAT / 4):
            now = time.monotonic()
            self.awake += min(now - last, BEAT)
            last = now
            self.look()


@contextlib.contextmanager
def join(distributed: bool) -> Iterator[Alone | Peers]:
    """This process's place among those of the run.

    An error in the `with` ends the processes of a distributed run at once.
    """
    if not distributed:
        yield Alone()
        return
    jax.distributed.initialize()
    from jax._src.distributed import (
        global_state,  # jax has no public door to the store of its coordinator
    )

    if global_state.num_processes == 1:
        yield Alone()
        return
    address = global_state.coordinator_address
    peers = Peers(
        global_state.client, global_state.process_id, global_state.num_processes, address or ""
    )
    with aborts_wait():
        peers.start()
        try:
            yield peers
        except BaseException as error:
            peers.failed(error)
            raise
        finally:
            peers.close()


@contextlib.contextmanager
def aborts_wait() -> Iterator[None]:
    """An abort of this process takes six seconds longer.

    When the coordinator is gone, jax aborts from a thread of its own, sooner than anything can be
    said. The handler of SIGABRT is the C library's `sleep`, called with the signal's number, 6:
    only that thread waits, and afterwards it aborts as it would have.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)
