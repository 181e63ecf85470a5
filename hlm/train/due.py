"""When something is due: every so many steps, or so many minutes after it was last done."""

import time
from collections.abc import Callable

import jax

from hlm import agree

LOOK = 10.0  # seconds at most between two looks at the clock that several processes agree on


class Due:
    """Says, before each step, whether something is due by `steps` or by `minutes`; 0 is never.

    Of several processes the clock of the first one decides. They ask each other only now and then:
    after half of the steps that fit into the time that is left, after `LOOK`, and after twice as
    many steps as the last time, whichever is least. So an interval is met to the step, for a few
    exchanges.
    """

    def __init__(
        self,
        steps: int,
        minutes: float,
        start: int,
        clock: Callable[[], float] = time.monotonic,
        processes: int | None = None,
        first: Callable[[int], int] = agree.first,
    ):
        """`start`: the step that the run begins at, which counts as the last time."""
        self.steps, self.seconds = steps, 60 * minutes
        self.clock, self.first = clock, first
        self.alone = (jax.process_count() if processes is None else processes) == 1
        self.now = start
        self.done()

    def at(self, step: int) -> bool:
        """All processes must ask, with each step in turn, and hear the same."""
        self.now = step
        by_steps = self.steps > 0 and step % self.steps == 0
        return by_steps or (self.seconds > 0 and step >= self.next and self._by_clock())

    def back(self, step: int) -> None:
        """The run goes on from an earlier step."""
        self.now = step
        self.done()

    def done(self) -> None:
        """What was due is done."""
        self.since = self.looked_at = self.clock()
        self.looked, self.next = self.now, self.now + 1

    def _by_clock(self) -> bool:
        now, gap = self.clock(), self.now - self.looked
        pace = max((now - self.looked_at) / gap, 1e-6)  # seconds a step
        left = self.since + self.seconds - now
        ahead = 0 if left <= pace / 2 else 1
        if ahead and not self.alone:
            ahead = min(max(int(min(left / 2, LOOK) / pace), 1), 2 * gap)
        ahead = self.first(ahead)
        self.looked_at, self.looked, self.next = now, self.now, self.now + max(ahead, 1)
        return ahead == 0
