"""Rows of texts as a step of the pipeline: what is packed, and where the next row begins.

Beside each row goes how many bytes of each source it holds, and up to which record; that stays on
the host.
"""

import collections
from typing import Any

import grain
import numpy as np

from hlm.data.deal import Place
from hlm.data.mix import Drawn
from hlm.data.pack import Budget, Packer, Row, stack
from hlm.data.parts import Behind
from hlm.vocab import Encoded

# in a row, beside the fields of a batch, int64: bytes of each source [sources], and of each the
# latest place that has come up to here [sources, PLACE], -1 if none
READ, LATEST = "read", "latest"
PLACE = 1 + len(Behind._fields)  # numbers of the longest one, a worker and a `Behind`


class Pack(grain.IterDataset[Row]):
    """Encoded texts into rows of a budget, which say how many bytes of each of the `sources` they
    hold, and up to which text.
    """

    def __init__(self, parent: grain.IterDataset[Drawn], budget: Budget, sources: int):
        super().__init__(parent)
        self.budget, self.sources = budget, sources

    def __iter__(self) -> grain.DatasetIterator[Row]:
        return PackIterator(iter(self._parent), self.budget, self.sources)


class PackIterator(grain.DatasetIterator[Row]):
    """Its state is where the next row begins: a row depends on nothing before that, so a few
    numbers are exact.
    """

    def __init__(self, parent: grain.DatasetIterator[Drawn], budget: Budget, sources: int):
        super().__init__(parent)
        self.budget, self.sources = budget, sources
        self.set_state({"parent": parent.get_state(), "skip": 0})

    def __next__(self) -> Row:
        while not self.ready:
            text = self._parent.get_state()
            drawn = next(self._parent)
            encoded = rest(drawn.text, self.skip)
            # symbols of this text in closed rows, once those of older texts are out
            given = self.skip - self.held
            self.held += len(encoded.token) - 1
            for row in self.packer.add(encoded):
                size = int(np.count_nonzero(row["doc"]))
                given, self.held = given + size, self.held - size
                row |= self.beside(row, drawn)
                self.ready.append((row, {"parent": text, "skip": given}))
            self.drawn += [drawn[:2]] * (self.packer.docs - len(self.drawn))
            self.skip = 0
        row, self.begin = self.ready.popleft()
        return row

    def beside(self, row: Row, last: Drawn) -> Row:
        """READ and LATEST of a row that was closed by the text `last`."""
        drawn, self.drawn = self.drawn, []
        begins = np.flatnonzero(np.diff(row["doc"], prepend=0) > 0)
        drawn += [last[:2]] * (len(begins) - len(drawn))
        read = np.zeros(self.sources, np.int64)
        latest = np.full((self.sources, PLACE), -1, np.int64)
        # of each document, and padding
        size = np.add.reduceat(row["nbytes"], begins, dtype=np.int64)
        np.add.at(read, [source for source, _ in drawn], size)
        for source, place in sorted(drawn):  # of a source the latest last
            latest[source, : len(place)] = place
        return {READ: read, LATEST: latest}

    def get_state(self) -> dict[str, Any]:
        return self.begin

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["parent"])
        # of the next row: the state before a text, and how many of its symbols are in rows given
        # out
        self.begin = state
        self.skip = state["skip"]
        self.packer = Packer(self.budget)
        self.held = 0  # symbols in the packer's open row
        self.drawn: list[tuple[int, Place]] = []  # (source, place) of its documents
        # rows, and the state after each
        self.ready: collections.deque[tuple[Row, dict[str, Any]]] = collections.deque()


def rest(encoded: Encoded, skip: int) -> Encoded:
    """A text without its first symbols, which begins with BOS all the same."""
    if not skip:
        return encoded
    arrays = {
        name: field for name, field in encoded._asdict().items() if isinstance(field, np.ndarray)
    }
    return encoded._replace(
        **{name: np.concatenate([field[:1], field[1 + skip :]]) for name, field in arrays.items()}
    )


def stack_beside(rows: list[Row]) -> Row:
    beside = {READ: np.sum([row[READ] for row in rows], axis=0)}
    of_rows = zip(*(row[LATEST].tolist() for row in rows), strict=True)
    return stack(rows) | beside | {LATEST: np.array([max(places) for places in of_rows])}
