"""Bits and accuracy of words by how often they stood in the training text, of numbers, and of the
first byte of a word beside its later ones.

A word is a run of letters (ASCII letters and all bytes from 0x80 on), as it is written; a number a
run of digits with "." and "," inside. The bits of a word are those of its bytes and of the blank
before it, because pieces of a tokenizer hold both. A word is right if each of its own bytes is part
of a symbol that was the model's best guess.
"""

import collections
import re
from collections.abc import Iterable, Sequence

import numpy as np

from hlm.data.source import prompt_of
from hlm.evals.measure import mean, ratio
from hlm.evals.suite import Grid
from hlm.infer.api import Score

WORD = re.compile(rb"[A-Za-z\x80-\xff]+|[0-9]+(?:[.,][0-9]+)*")
# name -> fewest and most times in the training text
BUCKETS = {
    "unseen": (0, 0),
    "rare: 1 to 9 times": (1, 9),
    "10 to 99 times": (10, 99),
    "common: 100 times or more": (100, 1 << 62),
}
NUMBERS = "numbers"


def counts(texts: Iterable[bytes]) -> collections.Counter[bytes]:
    """How often each word stands in the texts."""
    found: collections.Counter[bytes] = collections.Counter()
    for text in texts:
        found.update(WORD.findall(text))
    return found


def bucket(word: bytes, seen: collections.Counter[bytes]) -> str:
    if word[:1].isdigit():
        return NUMBERS
    times = seen[word]
    return next(name for name, (least, most) in BUCKETS.items() if least <= times <= most)


def by_word(
    texts: Sequence[bytes], scores: Sequence[Score], seen: collections.Counter[bytes]
) -> Grid:
    """A row for each bucket and for numbers, then for first and later bytes of all words."""
    found: dict[str, list[tuple[float, int, bool]]] = {name: [] for name in (*BUCKETS, NUMBERS)}
    first: list[tuple[float, int, int]] = []
    later: list[tuple[float, int, int]] = []
    for text, score in zip(texts, scores, strict=True):
        bits = np.concatenate([[0.0], np.cumsum(score.per_byte) / np.log(2)])
        hits = np.concatenate([[0], np.cumsum(score.hits)])
        for match in WORD.finditer(text, prompt_of(text)):
            start, stop = match.span()
            before = start - (start > 0 and text[start - 1] in b" ")
            right = bool(hits[stop] - hits[start] == stop - start)
            cost = float(bits[stop] - bits[before])
            found[bucket(match[0], seen)].append((cost, stop - before, right))
            first.append(
                (float(bits[start + 1] - bits[start]), 1, int(hits[start + 1] - hits[start]))
            )
            if stop > start + 1:
                rest = float(bits[stop] - bits[start + 1])
                later.append((rest, stop - start - 1, int(hits[stop] - hits[start + 1])))
    grid: Grid = {}
    for name, words in found.items():
        if words:
            cost, size, right = (
                np.array(column, np.float64) for column in zip(*words, strict=True)
            )
            grid[name] = {
                "bits_per_word": mean(cost),
                "bits_per_byte": ratio(cost, size),
                "accuracy": mean(right),
                "count": ratio([len(words)], [1]),
            }
    for name, bytes_ in (("first byte of a word", first), ("later bytes of a word", later)):
        if bytes_:
            cost, size, right = (
                np.array(column, np.float64) for column in zip(*bytes_, strict=True)
            )
            grid[name] = {
                "bits_per_byte": ratio(cost, size),
                "accuracy": ratio(right, size),
                "count": ratio([size.sum()], [1]),
            }
    return grid
