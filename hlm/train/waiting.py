"""How long the device had nothing to do because the next batch was not there."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from hlm.metrics import Mean, Metrics


class Waiting:
    """Fetches batches and measures what that costs, as the metric `waiting`: the share of time that
    the device was idle for want of a batch.

    A batch that is fetched while the device is still busy costs nothing. It is measured by each
    process for its own data; processes that wait for another one's batch wait within the step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.newest: Running | None = None
        self.last: float | None = None  # when the newest batch was there

    def next(self, data: Iterator[Any]) -> tuple[Any, Metrics]:
        """The next batch, and what it cost; before the first step nothing."""
        start = self.clock()
        batch = next(data)
        now = self.clock()
        waited = period = 0.0
        if self.newest is not None:
            idle_since = self.newest.ended
            waited = 0.0 if idle_since is None else max(now - max(start, idle_since), 0.0)
            period = now - (start if self.last is None else self.last)
        self.last = now
        total, weight = (np.asarray(seconds, np.float32) for seconds in (waited, period))
        return batch, {"waiting": Mean(total, weight)}  # type: ignore  (numpy, as all on the host)

    def runs(self, results: Any) -> None:
        """The device has been given a step with these results (arrays)."""
        self.newest = Running(results, self.clock)

    def pause(self) -> None:
        """Time until the next batch is asked for is not training time."""
        self.last = None


class Running:
    """A step on the device; `ended` is when it was done, None before."""

    def __init__(self, results: Any, clock: Callable[[], float]):
        self.ended: float | None = None
        self.clock = clock
        self.thread = threading.Thread(target=self.watch, args=(results,), daemon=True)
        self.thread.start()

    def watch(self, results: Any) -> None:
        try:
            jax.block_until_ready(results)
        except Exception:  # of the step, which raises it where its results are fetched
            return
        self.ended = self.clock()
