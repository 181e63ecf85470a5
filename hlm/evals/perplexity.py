"""How well a model predicts whole documents: bits per byte, accuracy of bytes and words, and what a
chunk holds.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rich
from rich.progress import track

from hlm.infer.api import LanguageModel, Score

# documents are scored in groups of about so many batches: memory stays bounded, and progress shows
BATCHES = 16
BLANK = np.array([bytes([b]).isspace() for b in range(256)])  # ASCII whitespace


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over whole documents.

    Every reported number is a ratio of two of them, so texts may be split and added at will.
    """

    documents: int = 0
    bytes: int = 0
    # predicted: bytes or subwords, ends of documents and, with them, explicit ends of words
    symbols: int = 0
    chunks: int = 0  # backbone steps at level 1
    words: int = 0
    nats: float = 0.0
    # the symbol that the byte is part of was the model's best guess, given all true bytes before
    bytes_right: int = 0
    words_right: int = 0  # all bytes right

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            *(
                a + b
                for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
            )
        )

    def report(self) -> dict[str, Any]:
        """The ratios (None: nothing to divide by), then the totals."""
        return {
            "bits_per_byte": ratio(self.nats / math.log(2), self.bytes),
            "byte_accuracy": ratio(self.bytes_right, self.bytes),
            "word_accuracy": ratio(self.words_right, self.words),
            "bytes_per_chunk": ratio(self.bytes, self.chunks),
        } | dataclasses.asdict(self)


def ratio(total: float, weight: float) -> float | None:
    return total / weight if weight else None


def evaluate(
    lm: LanguageModel, documents: Sequence[bytes], title: str = "perplexity"
) -> dict[str, Any]:
    """`Totals.report` of documents, each read from its own BOS to its EOS."""
    batch = lm.rows * lm.budget.length
    groups = list(grouped(documents, BATCHES * batch))
    total = Totals()
    for group in track(groups, title, transient=True, disable=not rich.get_console().is_terminal):
        for text, score in zip(group, lm.score(group), strict=True):
            total += totals(text, score)
    return total.report()


def grouped(documents: Sequence[bytes], size: int) -> Iterator[list[bytes]]:
    """The documents in order, in lists of `size` bytes or little more."""
    group, held = [], 0
    for text in documents:
        group.append(text)
        held += len(text)
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def totals(text: bytes, score: Score) -> Totals:
    """Of one document."""
    if not len(text) == score.nbytes == len(score.hits):
        raise RuntimeError(
            f"scored {score.nbytes} bytes of {len(text)}; every byte must be scored once: "
            f"{text[:60]!r}..."
        )
    if not math.isfinite(score.nats):
        raise FloatingPointError(
            f"the model gives {score.nats} nats for a document of {len(text)} bytes: "
            f"{text[:60]!r}..."
        )
    start, stop = words(text)
    misses = np.concatenate([[0], np.cumsum(~score.hits)])
    return Totals(
        documents=1,
        bytes=score.nbytes,
        symbols=score.symbols,
        chunks=score.chunks,
        words=len(start),
        nats=score.nats,
        bytes_right=int(score.hits.sum()),
        words_right=int(np.sum(misses[stop] == misses[start])),
    )


def words(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where the maximal runs of bytes that are not ASCII whitespace start and stop."""
    inside = np.concatenate([[False], ~BLANK[np.frombuffer(text, np.uint8)], [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return edges[::2], edges[1::2]
