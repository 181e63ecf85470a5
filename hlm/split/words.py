"""Pre-tokenizer rule of HAT: words between whitespace, each with the whitespace behind it.

Whitespace is White_Space of Unicode. Without an end-of-word symbol the first of it ends the word;
with it, the word owns the whole run:

    Words()          The␣␣cat⏎sat
                     000100001000

    Words(eow=True)  The␣␣cat⏎sat
                     000010001001
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hlm.split.characters import SPACE, Utf8State, characters, read_utf8, start_utf8
from hlm.split.rule import Rule, Splitter, at_least_one, cut, one_level, zeros

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Words(Splitter):
    """Pre-tokenizer rule of HAT: words between whitespace, each with the whitespace behind it.

    Without `eow`, the first whitespace character after another character ends the word; more
    whitespace opens the next one. With `eow`, the word owns its whole run of whitespace and EOW
    follows it. The EOW has to be placed as soon as the next byte is seen, so only ASCII whitespace
    continues a run: a wider space after a space is a word of its own.
    """

    longest: int = 32  # a word without an end is cut after so many bytes, also within a character
    eow: bool = False

    def __post_init__(self) -> None:
        at_least_one(self.longest, "Words.longest")

    @classmethod
    def samples(cls) -> tuple[Splitter, ...]:
        return cls(), cls(longest=3), cls(eow=True), cls(longest=3, eow=True)

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        kind, before = characters(text)
        if self.eow:
            # a wider space follows as a byte of no class
            ends = np.flatnonzero((kind[:-1] >= SPACE) & (kind[1:] < SPACE))
            if complete and len(text):
                ends = np.append(ends, len(text) - 1)
        else:
            ends = np.flatnonzero((kind >= SPACE) & (before < SPACE) & (before > 0))
        return one_level(ends, len(text), self.longest)

    def rule(self) -> Rule:
        return WordsRule(self.longest)


class WordsState(NamedTuple):
    text: Utf8State
    run: Array  # bytes since the last end


@dataclasses.dataclass(frozen=True)
class WordsRule:
    """Rule of `Words` without EOW; with it, the symbol itself is the end."""

    longest: int

    def start(self, rows: int) -> WordsState:
        return WordsState(start_utf8(rows), zeros(rows))

    def step(self, state: WordsState, byte_B: Array, live_B: Array) -> tuple[WordsState, Array]:
        text, kind, before = read_utf8(state.text, byte_B)
        run, end = cut(state.run, (kind >= SPACE) & (before < SPACE) & (before > 0), self.longest)
        return WordsState(text, run), end.astype(jnp.uint8)
