"""Rows shared by pieces of several texts, each of which stays whole (best fit).

A piece goes into the open row that has least room behind it, in elements and in chunks of every
level. Where none has, a new row is opened. A row is closed when it is full, or the oldest of more
than OPEN: so no piece waits for long, and what is held is bounded.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hlm.data.pack import Budget, Row, Window, empty_row

OPEN = 16  # rows at once
LEAST = 2  # elements of a text of one byte


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a piece stands in its row: elements begin:end, of which the last score start:stop."""

    of: Any
    begin: int
    end: int
    start: int
    stop: int


class SharedRow:
    """A row with several pieces, each a document of its own."""

    def __init__(self, budget: Budget):
        self.budget, self.row = budget, empty_row(budget)
        self.length, self.chunks = budget.length, budget.chunks
        self.places: list[Place] = []

    def room(self, size: int, chunks: tuple[int, ...]) -> int:
        """Elements that are left behind a piece of this size; negative: it does not fit."""
        if any(c > left for c, left in zip(chunks, self.chunks, strict=True)):
            return -1
        return self.length - size

    def put(self, of: Any, piece: Window, chunks: tuple[int, ...]) -> None:
        begin = self.budget.length - self.length
        end = begin + len(piece.row["doc"])
        for name, values in piece.row.items():
            self.row[name][begin:end] = values
        self.places.append(Place(of, begin, end, piece.start, piece.stop))
        self.row["doc"][begin:end] = len(self.places)
        self.length = self.budget.length - end
        self.chunks = tuple(left - c for left, c in zip(self.chunks, chunks, strict=True))

    def pieces(self) -> Iterator[tuple[Any, Window]]:
        """What was put into it."""
        for place in self.places:
            row = {name: values[place.begin : place.end] for name, values in self.row.items()}
            yield place.of, Window(row, place.start, place.stop)


class BestFit:
    """Fills rows with pieces; `add` and `flush` return the rows that are closed.

    `most`: elements in a row of several pieces; fewer where a model finds more chunks by itself
    than a full row has room for.
    """

    def __init__(self, budget: Budget):
        self.budget, self.most = budget, float(budget.length)
        self.open: collections.deque[SharedRow] = collections.deque()

    def add(self, of: Any, piece: Window) -> list[SharedRow]:
        size, chunks = len(piece.row["doc"]), used(piece.row, self.budget)
        spare, rows = self.budget.length - self.most, enumerate(self.open)
        fits = [(left, i) for i, r in rows if (left := r.room(size, chunks)) >= spare]
        if fits:
            row = self.open[min(fits)[1]]
        else:
            row = SharedRow(self.budget)
            self.open.append(row)
        row.put(of, piece, chunks)
        if row.room(LEAST, (1,) * len(chunks)) < spare:
            self.open.remove(row)
            return [row]
        return [self.open.popleft()] if len(self.open) > OPEN else []

    def flush(self) -> list[SharedRow]:
        rows = list(self.open)
        self.open.clear()
        return rows


def used(row: Row, budget: Budget) -> tuple[int, ...]:
    """Chunks of each level that a piece takes."""
    return tuple(
        int(np.count_nonzero(row["level"] >= level)) for level in range(1, len(budget.chunks) + 1)
    )
