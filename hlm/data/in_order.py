"""Streams as training data: which reader takes which files, in which order, and where it is.

With n readers (processes times workers), reader r takes every n-th file from the r-th on, in
another order in every epoch if data are shuffled. Where files are fewer than readers, several share
a file row by row, each of which then unpacks all of it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from hlm.data.deal import UNKNOWN, Numbered
from hlm.data.formats.stream import BEGIN, Share, Stream

WINDOW = 1024  # records that are shuffled together, beside files and row groups


def shuffled_window(records: "InOrder", seed: int) -> grain.IterDataset[Numbered]:
    """Records near each other in a file, parted. The newest window is read again for a state."""
    return grain.experimental.WindowShuffleIterDataset(records, window_size=WINDOW, seed=seed)


class InOrder(grain.IterDataset[Numbered]):
    """The records of a stream that belong to one reader, repeated for ever.

    seed: None for the order of the files. `place` names the source in errors.
    """

    def __init__(self, stream: Stream, seed: int | None, reader: int, readers: int, place: str):
        super().__init__()
        self.stream, self.order, self.place = stream, seed, place
        self.reader, self.readers = reader, readers

    def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
        """Grain's way to make this the part of one of its workers."""
        self.reader += (sl.start or 0) * self.readers
        self.readers *= sl.step or 1

    def __iter__(self) -> grain.DatasetIterator[Numbered]:
        return InOrderIterator(self)


class InOrderIterator(grain.DatasetIterator[Numbered]):
    """Its state is the epoch, the number of the file in the order of that epoch, and the place in
    it.
    """

    def __init__(self, data: InOrder):
        super().__init__()
        self.data, files = data, len(data.stream.files)
        self.mine, self.share = list(range(data.reader, files, data.readers)), Share()
        if files < data.readers:
            file = data.reader % files
            together = len(range(file, data.readers, files))
            self.mine, self.share = [file], Share(data.reader // files, together)
        self.reading: Iterator[Any] | None = None
        self.state: dict[str, Any] = {"epoch": 0, "file": 0, "at": list(BEGIN)}
        self.found = True  # anything, in this epoch

    def __next__(self) -> Numbered:
        while True:
            epoch, n = self.state["epoch"], self.state["file"]
            if n == len(self.mine):
                if not self.found:
                    raise ValueError(
                        f"{self.data.place}: reader {self.data.reader} of {self.data.readers} "
                        "(processes times workers) has no records of its own: give more files "
                        "(python -m hlm.data.convert) or fewer workers"
                    )
                self.found = False
                self.state = {"epoch": epoch + 1, "file": 0, "at": list(BEGIN)}
                continue
            if self.reading is None:
                self.reading = self.read(epoch, n, tuple(self.state["at"]))
            with contextlib.suppress(StopIteration):
                at, _, record = next(self.reading)
                self.state, self.found = {"epoch": epoch, "file": n, "at": list(at)}, True
                return UNKNOWN, record
            self.reading = None
            self.state = {"epoch": epoch, "file": n + 1, "at": list(BEGIN)}

    def read(self, epoch: int, n: int, at: tuple[int, ...]) -> Iterator[Any]:
        """The records of the n-th file of an epoch."""
        stream, seed = self.data.stream, self.data.order
        if seed is None:
            file, own = self.mine[n], None
        else:
            order = np.random.default_rng([seed, epoch]).permutation(self.mine)
            file = int(order[n])
            own = int(np.random.SeedSequence([seed, epoch, file]).generate_state(1)[0])
        if file and at == BEGIN:
            stream.check(file)
        return stream.read(file, (at[0], at[1]), own, self.share)

    def get_state(self) -> dict[str, Any]:
        return self.state

    def set_state(self, state: dict[str, Any]) -> None:
        self.reading = None
        self.state, self.found = state, True
