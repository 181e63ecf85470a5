"""Streams as training data: the records of one reader, without end, and where it is.

hlm/data/parts.py says what a reader reads in an epoch. If data are shuffled, so are its files, what
can be read apart in them, and records near each other.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from hlm.data.deal import Deal, Numbered
from hlm.data.formats.stream import BEGIN, Stream
from hlm.data.parts import Behind, Course, Courses, Part, Window
from hlm.data.source import Record

WINDOW = 1024  # records that are shuffled together
At = tuple[int, int, int]  # number of a part of the course, row, piece


class InOrder(grain.IterDataset[Numbered]):
    """The records of a stream that belong to one reader (of processes times workers), repeated for
    ever. Places are (worker, *Behind).

    seed: None for the order of the files. `place` names the source in errors. `begun`: that of
    each deal, of this source.
    """

    def __init__(
        self,
        stream: Stream,
        seed: int | None,
        reader: int,
        readers: int,
        place: str,
        deals: Sequence[Deal] = (),
        begun: Sequence[list[list[Any]]] = (),
    ):
        super().__init__()
        self.stream, self.order_seed, self.place = stream, seed, place
        self.reader, self.readers, self.worker = reader, readers, 0
        self.deals = [
            [Behind(*processes[p][w]) for w in range(deal.workers) for p in range(deal.processes)]
            for deal, processes in zip(deals, begun, strict=True)
        ]

    def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
        """Grain's way to make this the part of one of its workers."""
        self.worker = sl.start or 0
        self.reader += self.worker * self.readers
        self.readers *= sl.step or 1

    def __iter__(self) -> grain.DatasetIterator[Numbered]:
        return InOrderIterator(self)


class InOrderIterator(grain.DatasetIterator[Numbered]):
    """Its state is where the newest window begins, and how many records of that are given: it is
    read again. Without shuffling a window is one record.
    """

    def __init__(self, data: InOrder):
        super().__init__()
        self.data, self.size = data, 1 if data.order_seed is None else WINDOW
        self.courses = Courses(len(data.stream.files), data.order_seed, data.deals)
        # a reader may have nothing of what was left at a deal
        self.begin_epoch(0, found=bool(data.deals))

    def begin_epoch(self, epoch: int, found: bool) -> None:
        self.epoch, self.found = epoch, found  # anything, in this epoch
        self.course: Course = self.courses.of(epoch, self.data.reader, self.data.readers)
        self.go_to((0, *BEGIN), 0)

    def go_to(self, begin: At, given: int) -> None:
        self.begin = self.end = begin  # of the newest window
        self.window: list[Record] = []
        self.given = given
        self.reading: Iterator[tuple[At, Record]] | None = None  # from `end` on

    def __next__(self) -> Numbered:
        if not self.window:
            self.fill()
        record = self.window[self.given]
        self.given, self.found = self.given + 1, True
        if self.given == len(self.window):
            self.begin, self.given, self.window = self.end, 0, []
        return (self.data.worker, self.epoch, *self.begin, self.given, *self.end), record

    def fill(self) -> None:
        """Read the window that begins here, or the next one that has records that are not given."""
        while True:
            if self.begin[0] >= len(self.course):
                if not self.found:
                    raise ValueError(
                        f"{self.data.place}: reader {self.data.reader} of {self.data.readers} "
                        "(processes times workers) has no records of its own: give more files "
                        "(python -m hlm.data.convert) or fewer workers"
                    )
                self.begin_epoch(self.epoch + 1, found=False)
                continue
            head = self.course[self.begin[0]]
            if isinstance(head, Window):
                read = records(self.data, head.parts)
                part, first, of = head.parts[0], head.first, head.of
            else:
                part, first, of = head.behind(*self.begin[1:]), 0, 1
                if self.reading is None:
                    rest: Any = self.course[self.begin[0] + 1 :]
                    self.reading = records(self.data, (part, *rest), self.begin[0])
                read = self.reading
            some = list(itertools.islice(read, self.size))
            self.window = [some[i][1] for i in self.order(part, len(some))[first::of]]
            self.end = some[-1][0] if len(some) == self.size else (len(self.course), *BEGIN)
            if isinstance(head, Window):
                self.end = (self.begin[0] + 1, *BEGIN)
            if self.given < len(self.window):
                return
            self.begin, self.given, self.window = self.end, 0, []

    def order(self, first: Part, records: int) -> list[int]:
        """Of the records of a window, by where it begins."""
        if self.data.order_seed is None:
            return list(range(records))
        where = first.epoch, first.file, *first.at, first.share.first, first.share.of
        return np.random.default_rng([self.data.order_seed, *where]).permutation(records).tolist()

    def get_state(self) -> dict[str, Any]:
        part, *at = self.begin
        # a part was a file in older versions, and is where nothing was dealt anew
        return {"epoch": self.epoch, "file": part, "at": at, "given": self.given}

    def set_state(self, state: dict[str, Any]) -> None:
        self.begin_epoch(state["epoch"], found=True)
        self.go_to((state["file"], *state["at"]), state.get("given", 0))


# not a method: an iterator that is dropped closes its files at once
def records(data: InOrder, parts: Sequence[Part], number: int = 0) -> Iterator[tuple[At, Record]]:
    """(the place behind it, record) of the records of parts, of which `number` is the first's;
    behind the last one of a part is where the next part begins.
    """
    for n, part in enumerate(parts, number):
        if part.file >= len(data.stream.files):  # there were more
            continue
        own = None
        if data.order_seed is not None:
            words = [data.order_seed, part.epoch, part.file]
            own = int(np.random.SeedSequence(words).generate_state(1)[0])
        if part.file and part.at == BEGIN:
            data.stream.check(part.file)
        before = None
        for behind, _, record in data.stream.read(part.file, part.at, own, part.share):
            if before is not None:
                yield (n, *before[0]), before[1]
            before = behind, record
        if before is not None:
            yield (n + 1, *BEGIN), before[1]
