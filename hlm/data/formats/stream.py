"""Streams: records in the order of their files, for what is packed, far away or too large to count.

A file is opened when its turn comes and read once, from its beginning to its end; what is in memory
does not depend on how much there is. A place in a file is two numbers, (row, piece): rows that are
done, and pieces of the next row that are.
"""

import abc
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from hlm.data import kinds
from hlm.data.formats.files import File
from hlm.data.formats.pieces import cuts
from hlm.data.formats.record import Record, Records

Place = tuple[int, int]
BEGIN: Place = (0, 0)


class Row(NamedTuple):
    """What one line, row or entry of a file holds: a document, or a part of one."""

    name: str
    text: bytes
    prompt: int = 0  # as in Record
    complete: bool = True


class Bad(NamedTuple):
    """A row without a text."""

    why: str  # with the file and the row


class Empty(ValueError):
    """A file without a row. Among others it is left out: programs that filter write such."""

    def __init__(self, file: File):
        super().__init__(f"{file} has no rows; remove it from the paths")


@dataclasses.dataclass(frozen=True)
class Share:
    """Every `of`-th row of a file, from row `first` on: files are shared if there are few."""

    first: int = 0
    of: int = 1


class Stream(Records):
    """Records in the order of their files.

    Iterate over it: its length, and a record by its index, are found by reading from the beginning.
    """

    def __init__(
        self, files: list[File], reader: str, piece: int | None, bad_lines: int | None = 0
    ):
        self.files, self.reader = files, reader  # the class whose paths they are
        self.piece = piece  # None: rows are not cut
        self.bad_lines = bad_lines
        self.check(0)
        next(self.read(0), None)  # what is wrong with the first file is said at once
        self.reading: tuple[int, str, Record, Iterator[Any]] | None = None

    def check(self, file: int) -> None:
        """ValueError if a file is not what it should be."""
        kinds.refuse(self.files[file], self.files[file].head(), self.reader, named=False)

    @abc.abstractmethod
    def rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row | Bad]:
        """The rows of a file from number `skip` on; with a seed in another order, if the format has
        parts that can be read by themselves. Empty if the file has none.
        """

    def read(
        self, file: int, place: Place = BEGIN, seed: int | None = None, share: Share | None = None
    ) -> Iterator[tuple[Place, str, Record]]:
        """(the place behind it, name, record) of the records of a file from a place on.

        More bad rows than `bad_lines` (of this file, from the place on) are an error.
        """
        share, bad = share or Share(), 0
        begun, done = place  # rows, and pieces of the next one
        n = begun
        for row in self.some_rows(file, n, seed):
            n += 1
            if (n - 1) % share.of != share.first:
                continue
            if isinstance(row, Bad):
                bad += 1
                if bad > (self.bad_lines or 0):
                    raise ValueError(too_many(row.why, bad, self.bad_lines, self.reader))
                continue
            start, ends = 0, [len(row.text)]
            if self.piece is not None:
                ends = cuts(row.text, 0, len(row.text), self.piece)
            for i, end in enumerate(ends, 1):
                last = i == len(ends)
                if i > done or n > begun + 1:
                    text = row.text[start:end]
                    prompt = min(max(row.prompt - start, 0), len(text))
                    record = Record(text, last and row.complete, prompt)
                    yield ((n, 0) if last else (n - 1, i)), row.name, record
                start = end
        if bad:
            warnings.warn(
                f"{self.reader}.bad_lines: {bad} left out of {self.files[file]}", stacklevel=2
            )

    def some_rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row | Bad]:
        """`rows`, but a file without any is a warning if there are others."""
        try:
            yield from self.rows(file, skip, seed)
        except Empty:
            if len(self.files) == 1:
                raise
            warnings.warn(f"{self.files[file]} has no rows and is left out", stacklevel=2)

    def named(self) -> Iterator[tuple[str, Record]]:
        for file in range(len(self.files)):
            if file:
                self.check(file)
            for _, name, record in self.read(file):
                yield name, record

    def __iter__(self) -> Iterator[Record]:
        return (record for _, record in self.named())

    def locations(self) -> list[File]:
        return self.files

    # by index: for looking at, not for training

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: int) -> Record:
        return self.at(index)[1]

    def name(self, index: int) -> str:
        return self.at(index)[0]

    def at(self, index: int) -> tuple[str, Record]:
        """Reads on from the newest index, or again from the beginning."""
        if self.reading is None or self.reading[0] > index:
            rest = self.named()
        elif self.reading[0] == index:
            return self.reading[1:3]
        else:
            rest = self.reading[3]
        n = -1 if self.reading is None or self.reading[0] > index else self.reading[0]
        for n, (name, record) in enumerate(rest, n + 1):  # noqa: B020
            if n == index:
                self.reading = (n, name, record, rest)
                return name, record
        raise IndexError(index)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"reading": None}


def too_many(newest: str, found: int, allowed: int | None, reader: str) -> str:
    if not allowed:
        return f"{newest}; mend it, or leave out up to so many with {reader}.bad_lines"
    return (
        f"{reader}.bad_lines is {allowed}, and there are {found} of this file: the last is {newest}"
    )
