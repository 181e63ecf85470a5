"""Parts of a stream: what each reader reads of it in an epoch, what of that is left when a run goes
on with another number of readers, and who reads that.

A reader's course is the list of what it reads in an epoch, in this order. At first its parts are
whole files. If data are shuffled, so are the records of one window after the other, which may span
several files. A reader that stops here,

    files     a a a a a | b b | c c c c c | d d         (record by record; | is the end of a file)
    windows  (a a a a)(a b b c)(c c c c)(d d)
    given     4 of 4   1 of 4

leaves the other three records of its window, the file c from its second record on, and the file d.
What all readers leave is dealt out, windows and files apart; the next epoch begins with whole files
for everyone. So a deal is a few numbers, as in hlm/data/deal.py.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from hlm.data.formats.stream import BEGIN, Place, Share

EVEN = 4  # so many for each reader are about even
FEW = 16  # so many may be opened by all readers
T = TypeVar("T", "Part", "Window")


class Part(NamedTuple):
    """Records of a file, from a place on."""

    epoch: int  # whose order of the file it is
    file: int
    at: Place = BEGIN
    share: Share = Share()

    def behind(self, row: int, piece: int) -> "Part":
        """Its records from a place on, if it does not begin later."""
        return self._replace(at=max(self.at, (row, piece)))

    def cut(self, i: int, n: int) -> "Part":
        """One of n parts with its rows in turn, each of which is read by reading all of them."""
        return self._replace(share=Share(self.share.first + i * self.share.of, self.share.of * n))


class Window(NamedTuple):
    """Records that are left of a window: from number `first` in their shuffled order on, every
    `of`-th.
    """

    parts: tuple[Part, ...]  # it begins with these, and ends with them if they are shorter
    first: int
    of: int = 1

    def cut(self, i: int, n: int) -> "Window":
        return self._replace(first=self.first + i * self.of, of=self.of * n)


Course = Sequence[Part | Window]  # windows come first


class Behind(NamedTuple):
    """The place behind a record: where its window begins, how many records of that are given, and
    where the next window begins.

    Behind the last record of a window it is where the next one begins, and none of that is given.
    Later places are larger.
    """

    epoch: int = 0  # since the last deal
    part: int = 0  # its number in the course
    row: int = 0  # in the file
    piece: int = 0  # of the row
    given: int = 0
    next_part: int = 0
    next_row: int = 0
    next_piece: int = 0


class Courses:
    """The courses of all readers since the last of some deals, each of which is where every reader
    was.

    files: how many there are. seed: None for their order.
    """

    def __init__(self, files: int, seed: int | None, deals: Sequence[Sequence[Behind]]):
        self.files, self.seed = files, seed
        self.epoch = 0  # that of the last deal
        self.windows: list[Window] = []  # that were left then
        self.parts: list[Part] | None = None
        for deal in deals:
            rest = [
                left(self.of(behind.epoch, reader, len(deal)), behind)
                for reader, behind in enumerate(deal)
            ]
            self.windows = list(itertools.chain(*(windows for windows, _ in rest)))
            # first those that readers have begun, which are shorter
            turns = itertools.zip_longest(*(parts for _, parts in rest))
            self.parts = [part for turn in turns for part in turn if part is not None]
            self.epoch += max(behind.epoch for behind in deal)

    def of(self, epoch: int, reader: int, readers: int) -> Course:
        """That of a reader in an epoch, counted from the last deal."""
        if epoch or self.parts is None:
            return self.whole(self.epoch + epoch, reader, readers)
        return [*dealt(self.windows, reader, readers), *dealt(self.parts, reader, readers)]

    def whole(self, epoch: int, reader: int, readers: int) -> list[Part]:
        """Every n-th file; where files are fewer than readers, several share one row by row."""
        if self.files < readers:
            file = reader % self.files
            together = len(range(file, readers, self.files))
            return [Part(epoch, file).cut(reader // self.files, together)]
        mine = np.arange(reader, self.files, readers)
        if self.seed is not None:
            mine = np.random.default_rng([self.seed, epoch]).permutation(mine)
        return [Part(epoch, file) for file in mine.tolist()]


def left(course: Course, behind: Behind) -> tuple[list[Window], list[Part]]:
    """What is left of a course."""
    windows: list[Window] = []
    parts: list[Part] = []
    if behind.given:
        head = course[behind.part]
        if isinstance(head, Window):
            windows.append(head._replace(first=head.first + behind.given * head.of))
        else:
            some = course[behind.part + 1 : behind.next_part + 1]
            begun = head.behind(behind.row, behind.piece)
            windows.append(Window((begun, *some), behind.given))  # type: ignore  (no windows)
    for unit in course[behind.next_part :]:
        if isinstance(unit, Window):
            windows.append(unit)
        else:
            parts.append(unit)
    if parts and len(parts) == len(course) - behind.next_part:
        parts[0] = parts[0].behind(behind.next_row, behind.next_piece)
    return windows, parts


def dealt(units: Sequence[T], reader: int, readers: int) -> list[T]:
    """Those of a reader, about as much for each: of few a part of every one, of more every n-th,
    and parts of the last ones, which are too few for all.
    """
    if len(units) <= FEW:
        return [unit.cut(reader, readers) for unit in units]
    whole = len(units)
    if whole < EVEN * readers:
        whole -= whole % readers
    mine = list(units[reader:whole:readers])
    if last := units[whole:]:
        n = -(-EVEN * readers // len(last))
        mine += [unit.cut(i, n) for i in range(n) for unit in last][reader::readers]
    return mine
