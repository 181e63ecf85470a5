"""How well a model predicts whole documents: bits per byte and per character, accuracy of bytes and
words, and what a chunk holds; by domain, and by how often a word stood in the training text.

Protocol: every byte is predicted once, from all before it in its document that the model's context
rule lets it see: a document is read from BOS to EOS, one longer than a row in windows, each but the
first with up to `context` symbols of the text before it (stated in the results; an eighth of a row,
or --context). The bits of EOS are part of the document's. What
a model with subwords says of a piece is spread evenly over its bytes, so only totals of whole
pieces are exact there. No guess at all is 8 bits per byte.

A unit, for errors and intervals, is a document, or a piece of about PIECE bytes of a longer one.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rich
from rich.progress import track

from hlm.data.source import Prompted, prompt_of
from hlm.evals import frequency
from hlm.evals.measure import Measure, ratio
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel, Score

# documents are scored in groups of about so many batches: memory stays bounded, and progress shows
BATCHES = 16
ROWS = 16  # in a batch at least: the rows that a group leaves open are few among its rows
PIECE = 2000  # bytes of a unit
BLANK = np.array([bytes([b]).isspace() for b in range(256)])  # ASCII whitespace


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over whole documents, without their prompts.

    Every reported number is a ratio of two of them, so texts may be split and added at will.
    """

    documents: int = 0
    bytes: int = 0
    # read: bytes or subwords, ends of documents and, with them, explicit ends of words
    symbols: int = 0
    chunks: int = 0  # backbone steps at level 1, of prompts too
    words: int = 0
    nats: float = 0.0
    # the symbol that the byte is part of was the model's best guess, given all true bytes before
    bytes_right: int = 0
    words_right: int = 0  # all bytes right
    bytes_of_prompts: int = 0

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
            "bits_per_byte": divided(self.nats / math.log(2), self.bytes),
            "byte_accuracy": divided(self.bytes_right, self.bytes),
            "word_accuracy": divided(self.words_right, self.words),
            "bytes_per_chunk": divided(self.bytes + self.bytes_of_prompts, self.chunks),
        } | dataclasses.asdict(self)


def divided(total: float, weight: float) -> float | None:
    return total / weight if weight else None


def evaluate(
    lm: LanguageModel, documents: Sequence[bytes], title: str = "perplexity"
) -> dict[str, Any]:
    """`Totals.report` of documents, each read from its own BOS to its EOS."""
    total = Totals()
    for text, score in scored(lm, documents, title):
        total += totals(text, score)
    return total.report()


def scored(
    lm: LanguageModel, documents: Sequence[bytes], title: str
) -> Iterator[tuple[bytes, Score]]:
    """Each document with its score, in order."""
    groups = list(grouped(documents, group_size(lm)))
    for group in track(groups, title, transient=True, disable=not rich.get_console().is_terminal):
        yield from zip(group, lm.score(group), strict=True)


def group_size(lm: LanguageModel) -> int:
    """In bytes."""
    return BATCHES * max(lm.rows, ROWS) * lm.budget.length


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
    prompt = prompt_of(text)
    start, stop = (edge[words(text)[0] >= prompt] for edge in words(text))
    misses = np.concatenate([[0], np.cumsum(~score.hits)])
    return Totals(
        documents=1,
        bytes=score.nbytes - prompt,
        symbols=score.symbols,
        chunks=score.chunks,
        words=len(start),
        nats=score.nats - float(score.per_byte[:prompt].sum()),
        bytes_right=int(score.hits[prompt:].sum()),
        words_right=int(np.sum(misses[stop] == misses[start])),
        bytes_of_prompts=prompt,
    )


def words(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where the maximal runs of bytes that are not ASCII whitespace start and stop."""
    inside = np.concatenate([[False], ~BLANK[np.frombuffer(text, np.uint8)], [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return edges[::2], edges[1::2]


class Units:
    """Sums over pieces of documents, float64 [pieces] each.

    Chunks of a document are spread over its pieces by their bytes, so they are only reported by
    documents.
    """

    COLUMNS: tuple[str, ...] = (
        "nats",
        "bytes",
        "characters",
        "bytes_right",
        "words",
        "words_right",
        "chunks",
    )

    def __init__(self, sums: Any, document: Any):
        self.sums = dict(
            zip(self.COLUMNS, np.asarray(sums, np.float64).reshape(7, -1), strict=True)
        )
        self.document = np.asarray(document, np.int64)  # of each piece

    def __add__(self, other: "Units") -> "Units":
        """Of the same pieces, read once more."""
        return Units([self.sums[c] + other.sums[c] for c in self.COLUMNS], self.document)

    def of(self, documents: Sequence[int]) -> "Units":
        """The pieces of these documents."""
        mine = np.isin(self.document, documents)
        return Units([self.sums[c][mine] for c in self.COLUMNS], self.document[mine])

    def measures(self) -> dict[str, Measure]:
        bits = self.sums["nats"] / math.log(2)
        return {
            "bits_per_byte": ratio(bits, self.sums["bytes"]),
            "bits_per_character": ratio(bits, self.sums["characters"]),
            "byte_accuracy": ratio(self.sums["bytes_right"], self.sums["bytes"]),
            "word_accuracy": ratio(self.sums["words_right"], self.sums["words"]),
            "bytes_per_chunk": ratio(*(self.by_document(c) for c in ("bytes", "chunks"))),
        }

    def by_document(self, column: str) -> np.ndarray:
        """Sums over the pieces of each document."""
        _, which = np.unique(self.document, return_inverse=True)
        return np.bincount(which, self.sums[column])


def pieces(text: bytes) -> list[bytes]:
    """The text cut behind the first white space after each PIECE bytes; an empty one is a piece.

    Its prompt, which does not count, is a piece by itself.
    """
    if prompt := prompt_of(text):
        return [Prompted(text[:prompt], prompt), *pieces(bytes(text[prompt:]))]
    out, start = [], 0
    for stop, byte in enumerate(text, 1):
        if stop - start >= PIECE and BLANK[byte]:
            out.append(text[start:stop])
            start = stop
    return [*out, text[start:]] if text[start:] or not out else out


def units(
    lm: LanguageModel, documents: Sequence[Sequence[bytes]], title: str = "perplexity"
) -> Units:
    """Of documents that are given in pieces."""
    columns, owner = [], []
    joined = [b"".join(document) for document in documents]
    for i, (text, score) in enumerate(scored(lm, joined, title)):
        totals(text, score)  # every byte once, and finite
        columns.append(sums_of(text, score, documents[i]))
        owner += [i] * len(documents[i])
    return Units(np.concatenate(columns, axis=1) if columns else [np.zeros(0)] * 7, owner)


def sums_of(text: bytes, score: Score, parts: Sequence[bytes]) -> np.ndarray:
    """`Units.COLUMNS` of the pieces of one document, float64 [7, pieces]; 0 for a prompt."""
    sizes = np.array([len(part) for part in parts], np.int64)
    stops = np.cumsum(sizes)
    starts = stops - sizes

    def within(values: Any) -> np.ndarray:
        total = np.zeros(len(text) + 1)
        np.cumsum(values, out=total[1:])
        return total[stops] - total[starts]

    begin, end = words(text)
    misses = np.concatenate([[0], np.cumsum(~score.hits)]).astype(np.int64)
    word, right = np.zeros(len(text)), np.zeros(len(text))
    word[begin], right[begin] = 1, misses[end] == misses[begin]
    nats = within(score.per_byte)
    nats[-1] += score.nats_of_end
    first = (np.frombuffer(text, np.uint8) & 0xC0) != 0x80  # of a character
    share = (stops - starts) / max(len(text), 1)
    found = np.stack(
        [
            nats,
            (stops - starts).astype(np.float64),
            within(first),
            within(score.hits),
            within(word),
            within(right),
            share * score.chunks if len(text) else np.full(len(parts), score.chunks / len(parts)),
        ]
    )
    return found * [not prompt_of(part) for part in parts]


class Perplexity(Suite):
    """Bits per byte and per character of the text that is given, in all, by domain and by word.

    The domain of a document is its file's name, so one file a language gives a table of languages.
    Words by frequency need the training text; Feher et al. 2024 and Thawani et al. 2023 (Learn Your
    Tokens, arXiv 2310.11628, section 4) claim most of their gain on rare ones.
    """

    usual = True

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        documents = setting.documents
        found: list[Score] = []
        columns, owner = [], []
        texts = [document.text for document in documents]
        for i, (text, score) in enumerate(scored(lm, texts, "perplexity")):
            totals(text, score)
            parts = pieces(text)
            columns.append(sums_of(text, score, parts))
            owner += [i] * len(parts)
            found.append(score)
        every = Units(np.concatenate(columns, axis=1) if columns else [np.zeros(0)] * 7, owner)
        grids: dict[str, Grid] = {"perplexity": {"": every.measures()}}
        domains = list(dict.fromkeys(document.domain for document in documents))
        if len(domains) > 1:
            grids["perplexity by domain"] = {
                domain: every.of(
                    [i for i, d in enumerate(documents) if d.domain == domain]
                ).measures()
                for domain in domains
            }
        notes: tuple[str, ...] = ()
        if setting.training:
            counts = frequency.counts(setting.training)
            grids["words by frequency in the training text"] = frequency.by_word(
                texts, found, counts
            )
        else:
            notes = (
                "words by frequency: not measured, the training text is not one and the same, or "
                "not here: give --train-text",
            )
        each = []
        for document, score in zip(documents, found, strict=True):
            own = totals(document.text, score)
            bits = divided(own.nats / math.log(2), own.bytes)
            each.append({"domain": document.domain, "bytes": own.bytes, "bits_per_byte": bits})
        return Found(grids, details={"documents": each}, notes=notes)
