"""Likelihoods of texts, several of which share a row.

Texts become pieces of at most a row, long ones with some text read again (hlm/data/pack.py:
`pieces`), and pieces are packed into rows (hlm/infer/shared_rows.py). Rows of one shape are read
while the host packs the next ones; the law of packing says that neighbours change no number but for
its rounding. What is held follows from the rows that are open and being read, not from the number
of texts.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from hlm.data.pack import Budget, Row, empty_row, pieces
from hlm.infer.shared_rows import BestFit, SharedRow
from hlm.vocab import Encoded

AHEAD = 2  # batches that are being read while the next one is packed
SAFE = 0.9  # of the elements that chunks had room for, in the next row
MORE = 1 + 1 / 128  # after each row in which they had room


@dataclasses.dataclass(frozen=True)
class Score:
    """The likelihood of one text.

    `nats` covers every predicted symbol: it is the sum of `per_byte` and `nats_of_end`.
    """

    nats: float
    nbytes: int
    # float64 [nbytes], nats; a symbol of several bytes is spread evenly, an explicit end of a word
    # (EOW) goes to the byte before it, which is the last of the word
    per_byte: np.ndarray
    # bool [nbytes]: the symbol that this byte is part of was the model's best guess
    hits: np.ndarray
    symbols: int  # symbols predicted
    chunks: int  # backbone steps at level 1, BOS included once; symbols for flat models
    nats_of_end: float = 0.0  # of the end of the document (EOS); 0 for a text that stays open

    @property
    def bits_per_byte(self) -> float:
        """Of all symbols, the end of the document included, as evaluations report it.

        That of the bytes alone is per_byte.mean() / log(2).
        """
        return self.nats / (math.log(2) * max(self.nbytes, 1))


@dataclasses.dataclass(frozen=True)
class Scorer:
    """What reads rows: `begin(rows)` starts it and returns arrays that may not be there yet.

    They are nll [B, L] in nats, hit [B, L], ends of level 1 [B, L], and full [B]: a learned
    segmenter has used all room of its row, and may have wanted more.
    """

    begin: Callable[[list[Row]], Any]
    budget: Budget
    rows: int  # in a batch


class Text:
    """A text of which some symbols are scored, and how many pieces are still to come."""

    def __init__(self, encoded: Encoded):
        self.encoded = encoded
        self.nats = np.zeros(len(encoded.token))
        self.hits = np.zeros(len(encoded.token), bool)
        self.chunks, self.missing, self.cut = 1, 0, False

    def take(self, start: int, stop: int, row: dict[str, np.ndarray], at: slice) -> None:
        """The results for token[start:stop], from the elements `at` of a piece of a row."""
        self.nats[start:stop] = np.where(row["weight"][at] > 0, row["nll"][at], 0.0)
        self.hits[start:stop] = row["hit"][at]
        # A chunk counts in the window that scores what follows it; BOS of a later window is no
        # chunk of the text.
        self.chunks += int(np.count_nonzero(row["ends"][at])) - int(at.start == 0)
        self.missing -= 1

    @property
    def done(self) -> bool:
        return self.cut and not self.missing


def scored(scorer: Scorer, texts: Iterable[Encoded], eos: int, context: int) -> Iterator[Score]:
    """The score of each text, in order; `context` as in `pieces`."""
    run = _Run(scorer)
    waiting: collections.deque[Text] = collections.deque()
    for encoded in texts:
        text = Text(encoded)
        waiting.append(text)
        for piece in pieces(encoded, scorer.budget, context):
            text.missing += 1
            run.add(text, piece)
        text.cut = True
        while waiting and waiting[0].done:
            yield score_of(waiting.popleft(), eos)
    run.finish()
    for text in waiting:
        yield score_of(text, eos)


class _Run:
    """Rows on their way: open, closed, being read."""

    def __init__(self, scorer: Scorer):
        self.scorer = scorer
        self.open = BestFit(scorer.budget)
        self.closed: list[SharedRow] = []
        self.read: collections.deque[tuple[list[SharedRow], Any]] = collections.deque()

    def add(self, text: Text, piece: Any) -> None:
        self.closed += self.open.add(text, piece)
        while len(self.closed) >= self.scorer.rows:
            self._begin()
            if len(self.read) > AHEAD:
                self._end()

    def finish(self) -> None:
        while self.open.open or self.closed or self.read:
            self.closed += self.open.flush()
            while self.closed and len(self.read) <= AHEAD:
                self._begin()
            self._end()

    def _begin(self) -> None:
        rows, self.closed = self.closed[: self.scorer.rows], self.closed[self.scorer.rows :]
        spare = [empty_row(self.scorer.budget)] * (self.scorer.rows - len(rows))
        self.read.append((rows, self.scorer.begin([r.row for r in rows] + spare)))

    def _end(self) -> None:
        rows, out = self.read.popleft()
        out = jax.device_get(out)
        for i, shared in enumerate(rows):
            if out["full"][i] and len(shared.places) > 1:
                # One text may have taken the room of another: they are read again, fewer in a row
                # than had room in this one.
                held = min(shared.places[-1].end, np.flatnonzero(out["ends"][i])[-1] + 1)
                self.open.most = min(self.open.most, SAFE * held)
                for text, piece in shared.pieces():
                    self.closed += self.open.add(text, piece)
                continue
            if not out["full"][i]:  # perhaps more have room
                self.open.most = min(self.open.most * MORE, shared.budget.length)
            row = {name: out[name][i] for name in ("nll", "hit", "ends")}
            row["weight"] = shared.row["weight"]
            for place in shared.places:
                part = {name: values[place.begin : place.end] for name, values in row.items()}
                size, new = place.end - place.begin, place.stop - place.start
                place.of.take(place.start, place.stop, part, slice(size - new, size))


def score_of(text: Text, eos: int) -> Score:
    """The score of a text all of whose pieces are there."""
    encoded, nats = text.encoded, text.nats
    nbytes = encoded.nbytes.astype(np.int64)
    total = int(nbytes.sum())
    plain = nbytes > 0
    end = np.zeros(len(nats), bool)  # what no byte is charged with
    end[-1] = encoded.token[-1] == eos and not plain[-1]
    if not total:
        end[:] = True
    owner = np.maximum(np.cumsum(nbytes) - 1, 0)  # the byte at or before each symbol
    per_byte = np.repeat(np.where(plain, nats / np.maximum(nbytes, 1), 0.0), nbytes)
    silent = ~plain & ~end
    np.add.at(per_byte, owner[silent], nats[silent])
    return Score(
        nats=float(nats.sum()),
        nbytes=total,
        per_byte=per_byte,
        hits=np.repeat(text.hits, nbytes),
        symbols=len(nats) - 1,
        chunks=text.chunks,
        nats_of_end=float(nats[end].sum()),
    )
