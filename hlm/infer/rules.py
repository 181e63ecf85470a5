"""Splitters byte by byte on the device: `rule(splitter)`, one class for each of `hlm/data/split.py`.

A rule has a state, a pytree of arrays with a leading axis of rows. `step` is told one byte per row and gives the level of each, as
`splitter.levels` does for a whole text. Rows where `live` is False take no part: whatever comes out for them is thrown away.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hlm.data.split import (
    NEWLINE,
    NUMBER,
    OTHER,
    SPACE,
    After,
    Fixed,
    HatSplitter,
    SpaceLike,
    WordGroups,
    Words,
    spacelike,
)
from hlm.infer import utf8, word_breaks
from hlm.vocab import Splitter

Array = jax.Array
State = Any
MEMORY = 1 << 14  # bytes of a row that Recall keeps


class Rule(Protocol):
    """One splitter, byte by byte."""

    @property
    def longest(self) -> int | None: ...  # the most bytes of a level-1 chunk; None: no bound

    def start(self, rows: int) -> State: ...

    def step(self, state: State, byte_B: Array, live_B: Array) -> tuple[State, Array]: ...  # int32, bool -> uint8 [B]


@functools.singledispatch
def rule(splitter: Splitter) -> Rule:
    """The rule of a splitter. One that is not registered is asked on the host about each row so far, which is slow."""
    return Recall(splitter)


def hold(live_B: Array, new: State, old: State) -> State:
    """The new state of the rows that are live, the old one of the others."""
    return jax.tree.map(lambda n, o: jnp.where(live_B.reshape(live_B.shape + (1,) * (n.ndim - 1)), n, o), new, old)


def cut(run_B: Array, end_B: Array, longest: int) -> tuple[Array, Array]:
    """Bytes since the last end, and whether the rule ends here -> the same after this byte, and whether a chunk ends."""
    end_B = end_B | (run_B + 1 >= longest)
    return jnp.where(end_B, 0, run_B + 1), end_B


def zeros(rows: int) -> Array:
    return jnp.zeros(rows, jnp.int32)


class WordState(NamedTuple):
    text: utf8.Utf8State
    run: Array  # bytes since the last end


@rule.register(Words)
@dataclasses.dataclass(frozen=True)
class WordsRule:
    """Without EOW; with it, the symbol itself is the end."""

    split: Words

    @property
    def longest(self) -> int:
        return self.split.longest

    def start(self, rows: int) -> WordState:
        return WordState(utf8.start(rows), zeros(rows))

    def step(self, state: WordState, byte_B: Array, live_B: Array) -> tuple[WordState, Array]:
        text, kind, before = utf8.read(state.text, byte_B)
        run, end = cut(state.run, (kind >= SPACE) & (before < SPACE) & (before > 0), self.longest)
        return WordState(text, run), end.astype(jnp.uint8)


class SpaceLikeState(NamedTuple):
    like: Array  # 1 where the last byte is space-like; BOS is
    run: Array


@rule.register(SpaceLike)
@dataclasses.dataclass(frozen=True)
class SpaceLikeRule:
    split: SpaceLike

    @property
    def longest(self) -> int:
        return self.split.longest

    def start(self, rows: int) -> SpaceLikeState:
        return SpaceLikeState(zeros(rows) + 1, zeros(rows))

    def step(self, state: SpaceLikeState, byte_B: Array, live_B: Array) -> tuple[SpaceLikeState, Array]:
        like = jnp.asarray(np.frombuffer(spacelike(), np.uint8), jnp.int32)[byte_B]
        run, end = cut(state.run, like > state.like, self.longest)
        return SpaceLikeState(like, run), end.astype(jnp.uint8)


class WordGroupsState(NamedTuple):
    text: utf8.Utf8State
    run: Array
    count: Array  # words since the count started, modulo the largest of `counts`, which all others divide
    nth: Array  # place in a run of numbers or of other marks, modulo 3


@rule.register(WordGroups)
@dataclasses.dataclass(frozen=True)
class WordGroupsRule:
    split: WordGroups

    @property
    def longest(self) -> int | None:
        return self.split.longest if self.split.counts[0] == 1 else None  # blanks may start the count again and again

    def start(self, rows: int) -> WordGroupsState:
        return WordGroupsState(utf8.start(rows), zeros(rows), zeros(rows), zeros(rows))

    def step(self, state: WordGroupsState, byte_B: Array, live_B: Array) -> tuple[WordGroupsState, Array]:
        text, kind, before = utf8.read(state.text, byte_B)
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


@rule.register(Fixed)
@dataclasses.dataclass(frozen=True)
class FixedRule:
    split: Fixed

    @property
    def longest(self) -> int:
        return max(self.split.stride, self.split.first or 0)

    def start(self, rows: int) -> Array:
        """Bytes left of the open chunk."""
        return zeros(rows) + (self.split.first or self.split.stride)

    def step(self, state: Array, byte_B: Array, live_B: Array) -> tuple[Array, Array]:
        end = state == 1
        return jnp.where(end, self.split.stride, state - 1), end.astype(jnp.uint8)


@rule.register(After)
@dataclasses.dataclass(frozen=True)
class AfterRule:
    split: After

    @property
    def longest(self) -> None:
        return None

    def start(self, rows: int) -> tuple[()]:
        return ()

    def step(self, state: tuple[()], byte_B: Array, live_B: Array) -> tuple[tuple[()], Array]:
        return state, jnp.isin(byte_B, jnp.asarray(self.split.symbols, jnp.int32)).astype(jnp.uint8)


class HatState(NamedTuple):
    text: utf8.Utf8State
    words: word_breaks.BreakState
    run: Array


@rule.register(HatSplitter)
@dataclasses.dataclass(frozen=True)
class HatRule:
    split: HatSplitter

    @property
    def longest(self) -> int:
        return self.split.longest  # with the character by which an end is late: that is where the end is

    def start(self, rows: int) -> HatState:
        return HatState(utf8.start(rows), word_breaks.start(rows), zeros(rows))

    def step(self, state: HatState, byte_B: Array, live_B: Array) -> tuple[HatState, Array]:
        text, kind, _ = utf8.read(state.text, byte_B)
        words, starts = word_breaks.read(state.words, text.code)
        run, end = cut(state.run, starts & (kind > 0), self.longest)
        return HatState(text, hold(kind > 0, words, state.words), run), end.astype(jnp.uint8)


class RecallState(NamedTuple):
    text: Array  # [B, most] uint8: the row so far
    length: Array


@dataclasses.dataclass(frozen=True)
class Recall:
    """Any splitter: each row so far is split again on the host for every byte. Longer rows than `most` bytes are an error."""

    split: Splitter
    most: int = MEMORY

    @property
    def longest(self) -> None:
        return None

    def start(self, rows: int) -> RecallState:
        return RecallState(jnp.zeros((rows, self.most), jnp.uint8), zeros(rows))

    def step(self, state: RecallState, byte_B: Array, live_B: Array) -> tuple[RecallState, Array]:
        here_BM = jnp.arange(self.most)[None] == state.length[:, None]
        text = jnp.where(here_BM, byte_B[:, None].astype(jnp.uint8), state.text)
        state = RecallState(text, state.length + 1)
        return state, jax.pure_callback(self._last, jax.ShapeDtypeStruct(byte_B.shape, jnp.uint8), *state, live_B)

    def _last(self, text_BM: Array, length_B: Array, live_B: Array) -> np.ndarray:
        text, length = np.asarray(text_BM), np.asarray(length_B)
        level = np.zeros(len(length), np.uint8)
        for row in np.flatnonzero(np.asarray(live_B)):
            if length[row] > self.most:
                raise ValueError(f"Recall.most: a row is longer than {self.most} bytes; register a rule for {self.split}")
            level[row] = self.split.levels(text[row, : length[row]], False)[-1]
        return level
