"""The lock of a run folder: one run at a time writes there. WORKDIR/lock says which: its host, its
process, since when.

A lock is stale if its process is gone from this machine or, where that cannot be seen from here
(another machine, another container), if it has given no sign of life for a while. Signs of life are
the file's modification time, or in a bucket its content, and are compared with themselves only:
clocks need not agree. A stale lock is taken over.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from hlm.train.stop import CannotGoOn, brief, say
from hlm.train.whole_files import is_remote, write_whole

NAME = "lock"
BEAT = 10.0  # seconds between two signs of life
SILENT = 35.0  # seconds without one after which a lock is stale
SETTLE = 2.0  # seconds until two that take over a lock in a bucket at once see who of them was last


class Busy(CannotGoOn):
    """Another run writes to the folder."""


class Taken(CannotGoOn):
    """Another run has taken over the folder of this one."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process, so that no other one, here or elsewhere, now or later, is taken for it."""

    host: str
    pid: int
    since: str
    machine: str  # changes with each start of the machine
    space: str  # of process numbers: each container has its own
    started: str  # when the process was, in ticks of the machine; numbers are used again
    token: str

    @classmethod
    def me(cls) -> "Owner":
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(
            socket.gethostname(),
            os.getpid(),
            since,
            machine(),
            space(),
            started(os.getpid()),
            uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, content: bytes) -> "Owner | None":
        """None for a lock that is damaged, or was being written just now."""
        try:
            found = json.loads(content)
            kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}
            return cls(**{name: kind(found[name]) for name, kind in kinds.items()})
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return None

    def content(self) -> bytes:
        beat = {"beat": uuid.uuid4().hex}
        return json.dumps(dataclasses.asdict(self) | beat, indent=1).encode() + b"\n"

    def near(self) -> bool:
        """Whether this process can see if that one runs."""
        return (self.host, self.machine, self.space) == (socket.gethostname(), machine(), space())

    def runs(self) -> bool:
        """Whether the process runs, seen from near it."""
        return running(self.pid) and started(self.pid) in (
            self.started,
            "",
        )  # "": not to be read now

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclasses.dataclass(frozen=True)
class Seen:
    """A lock file as it was found."""

    content: bytes
    touched: int  # its modification time; 0 in a bucket


class Lock:
    """Held from `take` to `release`, or in a `with`; a thread gives the signs of life meanwhile."""

    def __init__(self, workdir: str):
        self.folder = epath.Path(workdir)
        self.path = self.folder / NAME
        self.remote = is_remote(workdir)
        self.me = Owner.me()
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> "Lock":
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        """Raises Busy if another run has the folder, CannotGoOn if nothing can be written there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while (found := self.seen()) is not None or not self.swap(None):
                if found is None:
                    continue  # another one was quicker
                owner = Owner.read(found.content)
                why = self.stale(found, owner)
                if why and self.swap(found):
                    say(
                        f"note: {self.folder}: the lock of {owner or 'a damaged file'} is "
                        f"taken over: {why}"
                    )
                    break
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise CannotGoOn(
                    f"--workdir: nothing can be written to {self.folder}: {brief(error)}"
                ) from error
            say(
                f"warning: {self.path} cannot be written ({brief(error)}); until it can, "
                "nothing keeps another run from this folder"
            )
        self.thread = threading.Thread(target=self._beat, name="hlm lock", daemon=True)
        self.thread.start()

    def stale(self, found: Seen, owner: Owner | None) -> str:
        """Why a lock no longer holds; "" if it has changed meanwhile. Raises Busy if it
        does hold.
        """
        busy = Busy(
            f"--workdir: {self.folder} is in use by {owner}: two runs would mix their "
            "checkpoints; stop that one, or give another folder"
        )
        if owner is not None and owner.near():
            if owner.runs():
                raise busy
            return "its process is gone"
        wait = SILENT if self.remote else min(SILENT - self.age(), SILENT)
        if wait > 0:
            say(
                f"note: {self.folder} has a lock of {owner or 'a damaged file'}: looking for "
                f"{wait:.0f} s whether that one is at work"
            )
        end = time.monotonic() + wait
        while time.monotonic() < end:
            time.sleep(min(1.0, max(end - time.monotonic(), 0)))
            now = self.seen()
            if now != found:
                later = Owner.read(now.content) if now else None
                if owner is not None and later is not None and later.token == owner.token:
                    raise busy  # it has given a sign of life
                return ""
        return f"it has given no sign of life for {SILENT:.0f} s"

    def confirm(self) -> None:
        """Raises Taken if the folder is another run's by now; a lock that was removed is
        put back.
        """
        with contextlib.suppress(OSError):
            found = self.seen()
            if found is None:
                self.swap(None)
            elif not self.mine(found):
                raise Taken(
                    f"--workdir: {self.folder} has been taken over by "
                    f"{Owner.read(found.content) or 'somebody'}, because this run, "
                    f"{self.me}, had given no sign of life; it ends here and saves nothing more"
                )

    def release(self) -> None:
        """Remove the lock if it is this run's."""
        self.ended.set()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(BEAT)
        try:
            with self.alone():
                found = self.seen()
                if found is not None and self.mine(found):
                    self.path.unlink()
        except Exception as error:  # the next run will see that this one is gone
            say(f"warning: {self.path} could not be removed ({brief(error)})")

    def mine(self, found: Seen) -> bool:
        owner = Owner.read(found.content)
        return owner is not None and owner.token == self.me.token

    def seen(self) -> Seen | None:
        """The lock file, asked anew: opening a file makes network file systems ask their server."""
        try:
            if self.remote:
                return Seen(self.path.read_bytes(), 0)
            with open(self.path, "rb") as file:
                return Seen(file.read(), os.fstat(file.fileno()).st_mtime_ns)
        except FileNotFoundError:
            return None

    def age(self) -> float:
        """Seconds since the last sign of life, by the clock of the file system; 0 where that does
        not tell.
        """
        beside = pathlib.Path(os.fspath(self.folder)) / f".{NAME}.{self.me.token}"
        try:
            beside.touch()
            now = beside.stat().st_mtime
            beside.unlink()
            return max(now - os.stat(self.path).st_mtime, 0.0)
        except OSError:
            return 0.0

    def swap(self, expected: Seen | None) -> bool:
        """Write this run's lock if the file still is as expected."""
        with self.alone():
            if self.seen() != expected:
                return False
            write_whole(self.path, self.me.content())
        if self.remote:  # nothing excludes others there: who was last stays
            time.sleep(SETTLE)
            found = self.seen()
            return found is not None and self.mine(found)
        return True

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes the lock file meanwhile, where the file system can see to that."""
        if self.remote:
            yield
            return
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system that has no such locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            # a full disk or a lost network: the next one may come through
            with contextlib.suppress(Exception):
                found = self.seen()
                if found is None or not self.mine(found):
                    continue  # `confirm` will say so
                if self.remote:
                    self.path.write_bytes(self.me.content())
                else:
                    os.utime(self.path)  # needs no space


def machine() -> str:
    return content("/proc/sys/kernel/random/boot_id")


def space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def running(pid: int) -> bool:
    """Whether a process of this machine is there and has not ended."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return stat(pid)[:1] not in (["Z"], ["X"])  # ended, but its parent has not asked how


def started(pid: int) -> str:
    """When a process was started; "" where that cannot be known."""
    found = stat(pid)
    return found[19] if len(found) > 19 else ""


def stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from its state on; the name before them may hold anything."""
    return content(f"/proc/{pid}/stat").rpartition(")")[2].split()


def content(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
