"""Hierarchical pre-tokenizer rule of AU-Net: words, and groups of so many words.

    WordGroups((1, 2))     a␣b␣c␣d␣1234.⏎e
                           010201022002210

    WordGroups((1, 2, 4))  a␣b␣c␣d␣e␣␣f
                           010201030100

Numbers, punctuation and newlines end every level, at once: no rule looks at what follows.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hlm.split.characters import (
    NEWLINE,
    NUMBER,
    OTHER,
    SPACE,
    Utf8State,
    characters,
    read_utf8,
    start_utf8,
)
from hlm.split.rule import Rule, Splitter, at_least_one, cut, overlong, zeros

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class WordGroups(Splitter):
    """Hierarchical pre-tokenizer rule of AU-Net: level l ends after every `counts[l - 1]`-th word.

    Numbers, punctuation and newlines end every level. In terms of characters (L letter, N number,
    whitespace, and O for all others, marks and emoji included):
    - the first whitespace after another character ends a word. Words are counted from 1, and from 1
      again after a second whitespace in a row; a word whose count is a multiple of counts[l - 1]
      ends level l;
    - characters 0, 3, 6, ... of a run of N or of a run of O end every level, at once: what follows
      is not looked at;
    - a newline (CR or LF) ends every level, unless it follows another newline or an O;
    - `longest` bytes without any of these end a word, which counts.

    The published regular expressions agree but for blanks before a newline: there they make the
    first blank, ours the newline, an end of every level, because at the blank the newline is not
    known yet.
    """

    counts: tuple[int, ...] = (1, 2)
    longest: int = 32

    def __post_init__(self) -> None:
        at_least_one(self.longest, "WordGroups.longest")
        if not self.counts:
            raise ValueError("WordGroups.counts=(): give the words of each level, such as (1, 2)")
        for low, high in zip((1, *self.counts), self.counts, strict=False):
            at_least_one(high, "WordGroups.counts")
            if high % low:
                raise ValueError(
                    f"WordGroups.counts={self.counts}: {low} does not divide {high}, so the "
                    "levels would not nest"
                )

    @property
    def depth(self) -> int:
        return len(self.counts)

    @classmethod
    def samples(cls) -> tuple[Splitter, ...]:
        return cls(), cls((1, 2, 4), longest=5), cls((2, 6))

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        kind, before = characters(text)
        space, more = kind >= SPACE, before >= SPACE
        word = np.flatnonzero(space & ~more & (before > 0))
        blank = np.flatnonzero(space & more)  # starts the count again
        every = _ends_of_every_level(kind, before)
        level = np.zeros(len(text), np.uint8)
        level[word] = level[every] = 1
        cut = overlong(np.flatnonzero(level), len(text), self.longest)
        if len(cut):
            word = np.sort(np.concatenate([word, cut]))
        restart = np.concatenate([[0], word.searchsorted(blank)])[
            blank.searchsorted(word, side="right")
        ]
        count = np.arange(1, len(word) + 1) - restart  # words since the last blank
        level[word] = 0
        for every_nth in self.counts:
            level[word] += count % every_nth == 0
        level[every] = self.depth
        return level

    def rule(self) -> Rule:
        return WordGroupsRule(self)


def _ends_of_every_level(kind: np.ndarray, before: np.ndarray) -> np.ndarray:
    mark = np.flatnonzero((kind == NUMBER) | (kind == OTHER))
    nth = np.arange(len(mark))
    in_run = nth - np.maximum.accumulate(np.where(kind[mark] != before[mark], nth, 0))
    newline = np.flatnonzero((kind == NEWLINE) & (before != NEWLINE) & (before != OTHER))
    return np.concatenate([mark[in_run % 3 == 0], newline])


class WordGroupsState(NamedTuple):
    text: Utf8State
    run: Array  # bytes since the last end
    # words since the count started, modulo the largest of `counts`, which all others divide
    count: Array
    nth: Array  # place in a run of numbers or of other marks, modulo 3


@dataclasses.dataclass(frozen=True)
class WordGroupsRule:
    """Rule of `WordGroups`."""

    split: WordGroups

    @property
    def longest(self) -> int | None:
        # blanks may start the count again and again
        return self.split.longest if self.split.counts[0] == 1 else None

    def start(self, rows: int) -> WordGroupsState:
        return WordGroupsState(start_utf8(rows), zeros(rows), zeros(rows), zeros(rows))

    def step(
        self, state: WordGroupsState, byte_B: Array, live_B: Array
    ) -> tuple[WordGroupsState, Array]:
        text, kind, before = read_utf8(state.text, byte_B)
        space, more = kind >= SPACE, before >= SPACE
        mark = (kind == NUMBER) | (kind == OTHER)
        nth = jnp.where(mark, jnp.where(kind == before, (state.nth + 1) % 3, 0), state.nth)
        every = (mark & (nth == 0)) | ((kind == NEWLINE) & (before != NEWLINE) & (before != OTHER))
        word = space & ~more & (before > 0)
        run, end = cut(state.run, word | every, self.split.longest)
        word |= end & ~every  # a word that is cut counts
        count = jnp.where(space & more, 0, state.count)
        count = jnp.where(word, (count + 1) % self.split.counts[-1], count)
        levels = sum(((count % each) == 0).astype(jnp.uint8) for each in self.split.counts)
        level = jnp.where(every, jnp.uint8(self.split.depth), jnp.where(word, levels, jnp.uint8(0)))
        return WordGroupsState(text, run, count, nth), level
