"""Work that training does not wait for and does not need: a thread does it, and what fails is said
once.
"""

import queue
import threading
import time
from collections.abc import Callable

from hlm.train.stop import brief, say

MOST = 10_000  # jobs in the queue, of a file system that answers no more
PATIENCE = 60.0  # seconds that `close` waits for the last of them


class Optional:
    """Runs jobs whose failure is one line, said once for each name, and nothing else."""

    def __init__(self):
        self.failed: set[str] = set()

    def attempt(self, name: str, job: Callable[[], None]) -> bool:
        """Whether `job` was done."""
        try:
            job()
        except Exception as error:  # whatever it is: it must not end a run
            self.warn(name, f"{type(error).__name__}: {brief(error)}")
            return False
        return True

    def warn(self, name: str, reason: str) -> None:
        if name not in self.failed:
            self.failed.add(name)
            say(f"warning: {name} cannot be written ({reason}); training goes on without")


class Aside(Optional):
    """A thread that does jobs in order.

    `put` never waits; `close` waits for the last job, but not for ever.
    """

    def __init__(self, patience: float = PATIENCE):
        super().__init__()
        self.patience = patience
        self.jobs: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="hlm logs", daemon=True)
        self.thread.start()

    def put(self, name: str, job: Callable[[], None]) -> None:
        if self.jobs.qsize() < MOST:
            self.jobs.put((name, job))
        else:
            self.warn(name, "the file system does not answer")

    def _work(self) -> None:
        for name, job in iter(self.jobs.get, None):
            self.attempt(name, job)

    def close(self) -> None:
        self.jobs.put(None)
        self.thread.join(self.patience)
        if self.thread.is_alive():
            self.warn(
                "the end of the logs", f"the file system has not answered for {self.patience:g} s"
            )


class Retry:
    """Says when what has failed may be tried again, so that a full disk is not asked at
    every step.
    """

    def __init__(self, seconds: float = 30.0):
        self.seconds, self.after = seconds, 0.0

    def due(self) -> bool:
        return time.monotonic() >= self.after

    def failed(self) -> None:
        self.after = time.monotonic() + self.seconds
