"""Dealing records out anew: a run goes on with another number of processes or workers, and no
record comes twice in an epoch.

A stream is what one worker of one process reads. As first dealt, process p reads its share in its
own order, endlessly, and worker w of n the places w, w + n, w + 2n, ... of that. When a run goes on
with other numbers, what the old streams have not begun is read from them in turn,

    old streams   a2 a3 a4 ...   b5 b6 b7 ...        (a0, a1 and b0 to b4 have been read)
    all in turn   a2 b5 a3 b6 a4 b7 ...

and process q of the new Q takes the places q, q + Q, q + 2Q, ... of that, as if this were its share
in its order. So a deal is a few numbers, and the next one counts on from it. Only what was begun
and not read to its end is lost: the rest of one record of each stream, and the rows of a window.

That is for records that can be read in any order; hlm/data/parts.py does it for those that are read
file by file.
"""

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grain

from hlm.data.formats.record import Record

DEAL = ("process_index", "process_count", "workers")  # settings of a state that a deal changes
UNKNOWN = -1  # in `Deal.begun`: a state of an older version does not say it
Place = tuple[int, ...]  # the worker, and numbers that grow with what it has begun
Numbered = tuple[Place, Record]  # the place behind a record, and the record


class OtherDeal(ValueError):
    """A state of other processes or workers than these."""


class Deal(NamedTuple):
    """Where the streams were when their number changed."""

    processes: int
    workers: int  # of each process; 1 where a process has none besides itself
    # [source][process][worker]: the number of records begun; of files in order, a `Behind`
    begun: list[list[list[Any]]]


class Dealt(grain.MapDataset[Numbered]):
    """One process's order of the records of one source, without end.

    `first`: the orders of the processes as first dealt; if nothing was dealt since, that of this
    process alone. `begun`: `Deal.begun` of this source, of each deal since. Places are (worker,
    records that it has begun).
    """

    def __init__(
        self,
        first: Sequence[grain.MapDataset[Record]],
        deals: Sequence[Deal],
        begun: Sequence[list[list[int]]],
        process_index: int,
        process_count: int,
        workers: int = 1,
    ):
        super().__init__(first)
        self.begun = begun
        self.workers = [deal.workers for deal in deals]
        self.processes = [deal.processes for deal in deals] + [process_count]
        self.process_index, self.own_workers = process_index, workers

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        process, place = self.process_index, index
        for t in reversed(range(len(self.workers))):
            turn = place * self.processes[t + 1] + process
            round_, stream = divmod(turn, self.processes[t] * self.workers[t])
            worker, process = divmod(stream, self.processes[t])
            place = worker + self.workers[t] * (self.begun[t][process][worker] + round_)
        round_, worker = divmod(index, self.own_workers)
        return (worker, round_ + 1), self._parents[process if self.workers else 0][place]


def deal(begun: Iterable[list[list[Any]]]) -> Deal:
    """That of what each process says of its sources and workers. ValueError if one does not say."""
    begun = list(begun)
    if UNKNOWN in itertools.chain(*itertools.chain(*begun)):
        raise ValueError(
            "the state of the data is of an older version, which did not say what each worker "
            "had read: it cannot be dealt out to other processes or workers; start the data afresh"
        )
    by_source = [list(processes) for processes in zip(*begun, strict=True)]
    return Deal(len(begun), len(begun[0][0]), by_source)
