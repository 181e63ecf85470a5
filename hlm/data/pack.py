"""Packing: encoded texts into rows of fixed length, so that no symbol is lost and no row has more
chunks than its model can hold.

A piece of a text in a row is a run of targets `token[start:stop]`. Its inputs are BOS and then
`token[start:stop - 1]`: every piece starts anew with BOS, the first one and a continued one alike,
so every symbol after BOS is a target exactly once. BOS is an end of every level (hlm/seq.py: the
first element of a document always is), and so takes one chunk of every level's budget.

A row is a dict of arrays [L] with the names and types of `hlm.seq.Batch`. Padding is doc 0 with
weight 0.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hlm.vocab import Encoded

Row = dict[str, np.ndarray]
FIELDS = {
    "token": np.int32,
    "doc": np.int32,
    "level": np.uint8,
    "target": np.int32,
    "weight": np.float32,
    "nbytes": np.uint8,
    "label": np.int32,
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a row holds: `length` elements, and of them `chunks[k - 1]` ends of level k (BOS
    included).
    """

    length: int
    chunks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"Budget.length={self.length}: a row needs at least one element")
        if any(c < 1 for c in self.chunks):
            raise ValueError(
                f"Budget.chunks={self.chunks}: every level needs at least one chunk, for BOS"
            )
        if any(
            low < high for low, high in zip((self.length, *self.chunks), self.chunks, strict=False)
        ):
            raise ValueError(
                f"Budget.chunks={self.chunks}: no level can hold more than the one below it "
                f"(length {self.length})"
            )


class Window(NamedTuple):
    """A row, or a piece of one, for the evaluation of one text: its last `stop - start` elements
    score the targets `token[start:stop]`, in order.

    Those before them have weight 0.
    """

    row: Row
    start: int
    stop: int


def empty_row(budget: Budget) -> Row:
    return {name: np.zeros(budget.length, dtype) for name, dtype in FIELDS.items()}


def stack(rows: list[Row]) -> Row:
    """Rows [L] -> fields [R, L]."""
    return {name: np.stack([row[name] for row in rows]) for name in FIELDS}


class _Text:
    """One encoded text and where its levels end."""

    def __init__(self, encoded: Encoded, levels: int):
        self.encoded = encoded
        self.size = len(encoded.token)
        highest = int(encoded.level[1:].max()) if self.size > 1 else 0
        none = np.zeros(0, np.int64)
        self.ends = [
            np.flatnonzero(encoded.level >= k) if k <= max(highest, 1) else none
            for k in range(1, max(levels, 1) + 1)
        ]

    def reach(self, start: int, length: int, chunks: tuple[int, ...]) -> int:
        """The largest `stop` such that the piece start:stop keeps to the budget, which must have
        room for BOS.
        """
        stop = min(self.size, start + length)
        for left, ends in zip(chunks, self.ends, strict=False):
            # the first end among the inputs that does not fit
            over = int(ends.searchsorted(start)) + left - 1
            if over < len(ends):
                stop = min(stop, int(ends[over]) + 1)
        return stop

    def cut(self, start: int, stop: int, least: int) -> int:
        """Move a cut at `stop` back behind a level-1 end, if there is one in the last quarter of
        the piece, at or after `least`.
        """
        if stop == self.size:
            return stop
        lowest = max(stop - (stop - start) // 4, least)
        last = int(self.ends[0].searchsorted(stop)) - 1
        behind = int(self.ends[0][last]) + 1 if last >= 0 else 0
        return behind if behind >= lowest else stop

    def used(self, start: int, stop: int, level: int) -> int:
        """Chunks of `level` that the piece start:stop takes."""
        ends = self.ends[level - 1]
        return 1 + int(ends.searchsorted(stop - 1)) - int(ends.searchsorted(start))

    def write(self, row: Row, at: int, start: int, stop: int, doc: int) -> int:
        """Put the piece start:stop into `row` from element `at`; returns the element after it."""
        e, end = self.encoded, at + stop - start
        row["token"][at], row["level"][at] = e.token[0], e.level[0]
        row["token"][at + 1 : end] = e.token[start : stop - 1]
        row["level"][at + 1 : end] = e.level[start : stop - 1]
        row["target"][at:end] = e.token[start:stop]
        row["nbytes"][at:end] = e.nbytes[start:stop]
        if e.label is not None:
            row["label"][at + 1 : end] = e.label[start : stop - 1]
        row["doc"][at:end] = doc
        row["weight"][at:end] = 1 if e.weight is None else e.weight[start:stop]
        return end


class Packer:
    """Fills rows with texts, in order. What it holds back is one open row.

    A text that does not fit into what is left of a row is cut, behind a level-1 end if there is one
    in the last quarter of what fits, and goes on in the next row. A row is closed early rather than
    given a first piece of less than max(8, length // 16) elements, or a part of a text that is to
    stay whole.
    """

    def __init__(self, budget: Budget):
        self.budget = budget
        self.least = max(8, budget.length // 16)
        self._open()

    def _open(self) -> None:
        self.row, self.docs, self.length, self.chunks = (
            empty_row(self.budget),
            0,
            self.budget.length,
            self.budget.chunks,
        )

    def _close(self) -> Row:
        row = self.row
        self._open()
        return row

    def add(self, encoded: Encoded) -> list[Row]:
        """Pack one text; returns the rows that it closed."""
        text, rows, start = _Text(encoded, len(self.budget.chunks)), [], 1
        while start < text.size:
            full = self.length < 1 or min(self.chunks, default=1) < 1
            stop = start if full else text.reach(start, self.length, self.chunks)
            if self.docs and stop < text.size and (stop - start < self.least or encoded.whole):
                rows.append(self._close())
                continue
            stop = text.cut(start, stop, start + 1)
            self.docs += 1
            text.write(self.row, self.budget.length - self.length, start, stop, self.docs)
            self.length -= stop - start
            self.chunks = tuple(
                left - text.used(start, stop, k) for k, left in enumerate(self.chunks, 1)
            )
            start = stop
            if start < text.size or not self.length:
                rows.append(self._close())
        return rows

    def flush(self) -> list[Row]:
        """Close the open row; returns it unless it is empty."""
        return [self._close()] if self.docs else []


def windows(encoded: Encoded, budget: Budget, context: int) -> list[Window]:
    """`pieces`, each in a row of its own."""
    found = []
    for piece, start, stop in pieces(encoded, budget, context):
        row = empty_row(budget)
        for name, values in piece.items():
            row[name][: len(values)] = values
        found.append(Window(row, start, stop))
    return found


def pieces(encoded: Encoded, budget: Budget, context: int) -> Iterator[Window]:
    """Pieces of rows, each as long as what it holds, that score every symbol of one text once, in
    order; all but the first see up to `context` symbols before.

    Those carry weight 0, and take at most the share context / length of every level's chunks. They
    begin behind a level-1 end if there is one in their first quarter. What a symbol sees follows
    from the symbols before it alone (so a piece is not cut behind an end that it reaches), or
    scores would not be those of a distribution.
    """
    if not 0 <= context < budget.length:
        raise ValueError(
            f"context={context}: give less than the row's length of {budget.length}, so that "
            "new symbols fit"
        )
    text, start = _Text(encoded, len(budget.chunks)), 1
    while start < text.size:
        begin = max(start - context, 1)
        for chunks, ends in zip(budget.chunks, text.ends, strict=False):
            # the first end that may be in the context
            first = int(ends.searchsorted(start)) - chunks * context // budget.length
            if first > 0:
                begin = max(begin, int(ends[first - 1]) + 1)
        after = int(text.ends[0].searchsorted(max(begin - 1, 1)))
        behind = int(text.ends[0][after]) + 1 if after < len(text.ends[0]) else text.size
        if behind <= begin + (start - begin) // 4:
            begin = behind
        stop = text.reach(begin, budget.length, budget.chunks)
        row = {name: np.zeros(stop - begin, dtype) for name, dtype in FIELDS.items()}
        text.write(row, 0, begin, stop, 1)
        row["weight"][: start - begin] = 0
        yield Window(row, start, stop)
        start = stop
