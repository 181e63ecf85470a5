"""Batches with a state that a later run goes on from, if it has the same settings."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from hlm.data.contents import changed
from hlm.data.deal import DEAL, UNKNOWN, Deal, OtherDeal, deal
from hlm.data.pack import Row
from hlm.data.parts import Behind
from hlm.data.rows import LATEST, READ
from hlm.metrics import Mean, Metrics


class Resumable(grain.DatasetIterator[Row]):
    """Batches, and what they were made of.

    A state that was saved under other settings is refused: it would go on, but with other data. One
    that was saved with other contents of the files goes on, with a warning. Those of another number
    of processes or workers are for `redeal`.
    """

    def __init__(
        self,
        first: grain.DatasetIterator[Row],
        begin: Callable[[Sequence[Deal]], grain.DatasetIterator[Row]],
        made_with: dict[str, Any],
        names: list[str],
        contents: dict[str, Any],
        nothing: list[int | Behind],
    ):
        """nothing: what a worker has begun of each source at first (see `Deal.begun`)."""
        super().__init__(first)
        self.begin, self.deals = begin, list[Deal]()
        self.made_with, self.names, self.contents = made_with, names, contents
        self.nothing = nothing
        self.count_from({}, [[n] * max(made_with["workers"], 1) for n in nothing])

    def count_from(self, read: dict[str, int], begun: list[list[Any]]) -> None:
        """`read`: bytes of each source before; `begun`: that of `Deal`, of this process."""
        self.before, self.begun = read, begun
        self.total = np.zeros(len(self.names), np.int64)  # bytes of each source since then
        self.newest = np.zeros_like(self.total)  # and in the newest batch

    def __next__(self) -> Row:
        batch = next(self._parent)
        self.newest = batch.pop(READ)
        self.total += self.newest
        latest = batch.pop(LATEST).tolist()
        for begun, nothing, (worker, *place) in zip(self.begun, self.nothing, latest, strict=True):
            if worker >= 0:
                now = place[0] if isinstance(nothing, int) else Behind(*place)
                known = begun[worker] != UNKNOWN
                begun[worker] = max(begun[worker], now) if known else now
        return batch

    def read_by_source(self) -> dict[str, int]:
        """Bytes of text of each source in all batches so far, those before a restart too; of this
        process.
        """
        since = dict(zip(self.names, self.total.tolist(), strict=True))
        return {name: self.before.get(name, 0) + since.get(name, 0) for name in self.before | since}

    def shares(self) -> Metrics:
        """Metrics of the newest batch: each source's share of its bytes. Nothing for one source."""
        if len(self.names) == 1:
            return {}
        newest: Any = self.newest.astype(np.float32)
        total = newest.sum()
        return {f"share/{name}": Mean(n, total) for name, n in zip(self.names, newest, strict=True)}

    def get_state(self) -> dict[str, Any]:
        state = {"made_with": self.made_with, "iterator": self._parent.get_state()}
        state |= {"begun": [list(workers) for workers in self.begun]}
        state |= {"deals": [list(deal) for deal in self.deals]}
        return state | {"read": self.read_by_source(), "contents": self.contents}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises OtherDeal if it is of other processes or workers."""
        self.check(state, ())
        self.begin_with([Deal(*deal) for deal in state.get("deals", ())])
        self._parent.set_state(state["iterator"])
        self.count_from(dict(state.get("read", {})), self.begun_in(state))

    def redeal(self, states: Sequence[dict[str, Any]]) -> str:
        """Go on from the states of all processes of a run, which were others or had other workers;
        what that means, in one line.

        Raises ValueError if that cannot be.
        """
        for state in states:
            self.check(state, DEAL)
        deals = [*(Deal(*d) for d in states[0].get("deals", ())), deal(map(self.begun_in, states))]
        self.begin_with(deals)
        count = self.made_with["process_count"]
        names = dict.fromkeys(name for state in states for name in state.get("read", {}))
        read = {
            name: sum(state.get("read", {}).get(name, 0) for state in states) // count
            for name in names
        }
        self.count_from(read, [[n] * len(self.begun[0]) for n in self.nothing])
        old, window = self.deals[-1], self.made_with["window"]
        rows = f" and {window} rows" if window > 1 else ""
        was, now = states[0]["made_with"]["workers"], self.made_with["workers"]
        return (
            f"the data are dealt out anew: shares were {len(states)} and are {count}, workers of "
            f"each were {was} and are {now}; no record comes twice in an epoch, but what was not "
            f"yet read of {old.processes * old.workers} records{rows} is left out"
        )

    def begun_in(self, state: dict[str, Any]) -> list[list[Any]]:
        """What a state says of `Deal.begun`: of each source and worker, maybe that it is unknown.

        There were versions that did not say it, of anything or of what is read file by file.
        """
        unknown = [[UNKNOWN] * max(state["made_with"]["workers"], 1)] * len(self.nothing)
        found = [list(workers) for workers in state.get("begun", unknown)]
        for i, nothing in enumerate(self.nothing):
            if isinstance(nothing, Behind):
                found[i] = [UNKNOWN if isinstance(n, int) else Behind(*n) for n in found[i]]
        return found

    def begin_with(self, deals: list[Deal]) -> None:
        if deals != self.deals:
            self._parent.close()
            self._parents, self.deals = (self.begin(deals),), deals

    def check(self, state: dict[str, Any], free: Sequence[str]) -> None:
        """Raises ValueError if a state is of other settings, but for those that are `free`."""
        saved = state["made_with"]
        if self.made_with["mixture"] is not None and "mixture" not in saved:
            raise ValueError(
                "this state of the data is of an older version, which mixed sources "
                "otherwise; start the data afresh"
            )
        if self.made_with["shuffled"] and saved.get("streams") and "shuffled" not in saved:
            raise ValueError(
                "this state of the data is of an older version, which shuffled what is read file "
                "by file otherwise; start the data afresh"
            )
        other = {
            k: f"{k} was {saved.get(k)!r} and is {now!r}"
            for k, now in self.made_with.items()
            if saved.get(k) != now and k not in free
        }
        if other:
            kind = OtherDeal if all(k in DEAL for k in other) else ValueError
            raise kind(
                f"this state of the data cannot go on here: {', '.join(other.values())}; change "
                "back, or start the data afresh"
            )
        for place, now in self.contents.items():
            what = changed(state.get("contents", {}).get(place, now), now)
            if what:
                warnings.warn(
                    f"data.{place} is not what it was when the state was saved: {what}; the run "
                    "goes on by the numbers of records, so some may come twice in an epoch or not "
                    "at all; --fresh-data begins them anew",
                    stacklevel=3,
                )
