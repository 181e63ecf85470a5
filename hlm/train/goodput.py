"""Goodput: how much of a run's wall time went into steps that count, over all its starts.

Seconds are kept by kind. `steps`: training. `waiting`: the device was idle for want of a batch
(hlm/train/waiting.py). `evaluation` and `saving`: training stood still for them. `starting`: from
the start of the program to the end of its first step, so compiling and reading the checkpoint.
`again`: what had been done since the checkpoint that a killed run went back to. `away`: from the
last sign of life to the next start.

A checkpoint holds the seconds before it, each line of metrics.jsonl those before it as well, so
what a killed start had done is known up to its last line.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

DONE_AGAIN = ("steps", "waiting", "evaluation", "saving")
KINDS = (*DONE_AGAIN, "starting", "again", "away")
SECONDS, TIME = "seconds", "time"  # what a line of metrics.jsonl calls them
SHARES = (*(f"wall/{kind}" for kind in (*DONE_AGAIN, "starting", "lost")), "goodput")


class Goodput:
    """Account of the wall time of a run. It begins with the program, which is `starting`."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ):
        self.clock, self.now = clock, now
        self.began, self.kind, self.since = now(), "starting", clock()
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self.reported = dict(self.seconds)

    def go_on(self, saved: dict[str, Any], line: dict[str, Any]) -> None:
        """Add the starts before this one. `saved`: the `sign` in the checkpoint; `line`: the newest
        line that any start wrote, also one of steps that are lost. Either may be empty.
        """
        kept, last = account(saved), account(line)
        # which is later the seconds say: clocks of hosts differ, seconds of a run only grow
        if last is None or (kept is not None and total(kept) >= total(last)):
            if kept is None:
                return
            at, before = kept
            over = bool(
                saved.get("done")
            )  # nothing was lost while a run that had ended stood still
        else:
            at, before = last
            over = False
            whole: dict[str, float] = dict.fromkeys(KINDS, 0.0) if kept is None else kept[1]
            for kind in DONE_AGAIN:
                before["again"] += max(before[kind] - whole[kind], 0.0)
                before[kind] = whole[kind]
        before["away"] += 0.0 if over else max(self.began - at, 0.0)
        for kind in KINDS:
            self.seconds[kind] += before[kind]
            self.reported[kind] += before[kind] if kind not in ("again", "away") else 0.0

    def back(self, saved: dict[str, Any]) -> None:
        """What was done since a checkpoint with this `sign` is done again."""
        self._spend(self.kind)
        kept = account(saved)
        if kept is None:
            return
        for kind in DONE_AGAIN:
            more = max(self.seconds[kind] - kept[1][kind], 0.0)
            self.seconds[kind] -= more
            self.seconds["again"] += more
            self.reported[kind] = min(self.reported[kind], self.seconds[kind])

    def stepping(self) -> None:
        """A step has ended; with the first one, so has the start."""
        if self.kind == "starting":
            self._spend("steps")

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """The time in this `with` is of another kind."""
        before = self.kind
        self._spend(kind)
        try:
            yield
        finally:
            self._spend(before)

    def waited(self, seconds: float) -> None:
        """So much of the time of steps was none."""
        self._spend(self.kind)
        if self.kind == "steps":
            seconds = min(seconds, self.seconds["steps"] - self.reported["steps"])
            self.seconds["steps"] -= seconds
            self.seconds["waiting"] += seconds

    def sign(self) -> dict[str, Any]:
        """What the next start has to know, as JSON."""
        self._spend(self.kind)
        return {
            TIME: round(self.now(), 3),
            SECONDS: {k: round(s, 3) for k, s in self.seconds.items()},
        }

    def report(self) -> dict[str, float]:
        """Shares of the wall time since the last report; `goodput`: that of steps in all of it."""
        self._spend(self.kind)
        spent = {kind: self.seconds[kind] - self.reported[kind] for kind in KINDS}
        self.reported = dict(self.seconds)
        spent["lost"] = spent.pop("again") + spent.pop("away")
        whole = max(sum(spent.values()), 1e-9)
        every = max(sum(self.seconds.values()), 1e-9)
        shares = {f"wall/{kind}": round(seconds / whole, 4) for kind, seconds in spent.items()}
        return shares | {"goodput": round(self.seconds["steps"] / every, 4)}

    def _spend(self, kind: str) -> None:
        now = self.clock()
        self.seconds[self.kind] += now - self.since
        self.kind, self.since = kind, now


def total(known: tuple[float, dict[str, float]]) -> float:
    return sum(known[1].values())


def account(sign: dict[str, Any]) -> tuple[float, dict[str, float]] | None:
    """(time, seconds by kind) of a `sign`; None where it has none, or none that can be."""
    try:
        at, seconds = float(sign[TIME]), {kind: float(sign[SECONDS][kind]) for kind in KINDS}
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    sound = all(math.isfinite(x) and x >= 0 for x in (at, *seconds.values()))
    return (at, seconds) if sound else None
