"""Pre-tokenizer rule of TFree-HAT: words that begin with their space.

Such a word ends where the next one begins, so the end is marked at the next word's first character:

    HatSplitter()  Hello,␣world!␣␣x
                   0000001000000101
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hlm.seq import where_rows
from hlm.split.characters import Utf8State, read_utf8, start_utf8
from hlm.split.rule import Rule, Splitter, at_least_one, cut, one_level, zeros
from hlm.split.word_breaks import BreakState, read_breaks, start_breaks, word_starts

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class HatSplitter(Splitter):
    """Pre-tokenizer rule of TFree-HAT: the words of the package `hat_splitter`, one character late.

    Such a word starts with its space, and its end is known only when the first character of the
    next word is there. The end is therefore marked at that character: *the element at an end is the
    first character of the next word*, and the chunk holds the word without its own first character.
    The first word of a text is not marked: BOS is its end.

    The package takes ends back in two cases, once it sees what follows; here they stay: after a
    single space, a tab or a no-break space (U+00A0, U+2007, U+202F) that a mark joins to the
    space's word; and a fraction slash (U+2044) before a digit.
    """

    longest: int = 100

    def __post_init__(self) -> None:
        at_least_one(self.longest, "HatSplitter.longest")

    @classmethod
    def samples(cls) -> tuple[Splitter, ...]:
        return cls(), cls(longest=4)

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        return one_level(word_starts(text), len(text), self.longest)

    def rule(self) -> Rule:
        return HatRule(self.longest)


class HatState(NamedTuple):
    text: Utf8State
    words: BreakState
    run: Array  # bytes since the last end


@dataclasses.dataclass(frozen=True)
class HatRule:
    """Rule of `HatSplitter`."""

    longest: int  # with the character by which an end is late: that is where the end is

    def start(self, rows: int) -> HatState:
        return HatState(start_utf8(rows), start_breaks(rows), zeros(rows))

    def step(self, state: HatState, byte_B: Array, live_B: Array) -> tuple[HatState, Array]:
        text, kind, _ = read_utf8(state.text, byte_B)
        words, starts = read_breaks(state.words, text.code)
        run, end = cut(state.run, starts & (kind > 0), self.longest)
        return HatState(text, where_rows(kind > 0, words, state.words), run), end.astype(jnp.uint8)
