"""Interfaces of a segmentation rule: `Splitter` on the host, `Rule` byte by byte on the device.

A chunk that its rule does not end in time is cut after `longest` bytes. The ends of a rule, and
what becomes of them where `longest` is 3:

    abcdef,ghi
    0000001000
    0010011001

Every rule here is causal: `level[t]` follows from the bytes up to t alone, so adding bytes on the
right never moves an end. Rules that speak of characters let a character take effect at its last
UTF-8 byte; the bytes of incomplete, overlong or stray sequences are invisible to them.
`Words(eow=True)` is the one rule that waits for the next byte; there it is the stream of symbols
with its EOWs that never changes.
"""

import abc
import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
State = Any


class Rule(Protocol):
    """Segmentation rule byte by byte: gives each byte the level that `Splitter.levels` gives it.

    Its state is a pytree of arrays with a leading axis of rows.
    """

    @property
    def longest(self) -> int | None: ...  # the most bytes of a level-1 chunk; None: no bound

    def start(self, rows: int) -> State: ...

    def step(self, state: State, byte_B: Array, live_B: Array) -> tuple[State, Array]:
        """One byte per row, int32 -> level uint8 [B].

        Where `live_B` is False, whatever comes out is thrown away.
        """
        ...


class Splitter(abc.ABC):
    """Segmentation rule: where the chunks of a text end. Each one is a frozen dataclass."""

    eow: bool = False  # put an explicit EOW symbol after each level-1 end
    depth: int = 1  # number of levels

    @abc.abstractmethod
    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        """Bytes, uint8 [n] -> how many levels end after each, uint8 [n].

        `complete`: the text ends here, and with EOWs so does its last word.
        """

    @classmethod
    def samples(cls) -> tuple["Splitter", ...]:
        """Settings that the laws of splitters try."""
        return (cls(),)

    def rule(self) -> Rule:
        """The same for the device. By default the host is asked about each row, which is slow."""
        return Recall(self)


class RecallState(NamedTuple):
    text: Array  # [B, most] uint8: the row so far
    length: Array


@dataclasses.dataclass(frozen=True)
class Recall:
    """Rule of any splitter: each row so far is split again on the host for every byte.

    Longer rows than `most` bytes are an error.
    """

    split: Splitter
    most: int = 1 << 14

    @property
    def longest(self) -> None:
        return None

    def start(self, rows: int) -> RecallState:
        return RecallState(jnp.zeros((rows, self.most), jnp.uint8), zeros(rows))

    def step(self, state: RecallState, byte_B: Array, live_B: Array) -> tuple[RecallState, Array]:
        here_BM = jnp.arange(self.most)[None] == state.length[:, None]
        text = jnp.where(here_BM, byte_B[:, None].astype(jnp.uint8), state.text)
        state = RecallState(text, state.length + 1)
        return state, jax.pure_callback(
            self._last, jax.ShapeDtypeStruct(byte_B.shape, jnp.uint8), *state, live_B
        )

    def _last(self, text_BM: Array, length_B: Array, live_B: Array) -> np.ndarray:
        text, length = np.asarray(text_BM), np.asarray(length_B)
        level = np.zeros(len(length), np.uint8)
        for row in np.flatnonzero(np.asarray(live_B)):
            if length[row] > self.most:
                name = type(self.split).__name__
                raise ValueError(
                    f"Recall.most: a row is longer than {self.most} bytes; give {name} a "
                    "rule() of its own"
                )
            level[row] = self.split.levels(text[row, : length[row]], False)[-1]
        return level


def overlong(ends: np.ndarray, n: int, longest: int) -> np.ndarray:
    """The further ends that stop every chunk of n bytes cut at `ends` after `longest` bytes."""
    edges = np.concatenate([[-1], ends, [n]])
    gap = edges[1:] - edges[:-1]
    if gap.max() <= longest:  # the usual case, before the slow division
        return np.zeros(0, np.int64)
    extra = (gap - 1) // longest
    nth = np.arange(extra.sum()) - np.repeat(np.cumsum(extra) - extra, extra) + 1
    return np.repeat(edges[:-1], extra) + nth * longest


def one_level(ends: np.ndarray, n: int, longest: int) -> np.ndarray:
    """The levels of n bytes whose chunks end at `ends`, and after `longest` bytes at the latest."""
    level = np.zeros(n, np.uint8)
    level[ends] = level[overlong(ends, n, longest)] = 1
    return level


def cut(run_B: Array, end_B: Array, longest: int) -> tuple[Array, Array]:
    """`overlong` for the device, a byte at a time.

    Bytes since the last end, whether the rule ends here -> the same, with chunks that are too long.
    """
    end_B = end_B | (run_B + 1 >= longest)
    return jnp.where(end_B, 0, run_B + 1), end_B


def zeros(rows: int) -> Array:
    return jnp.zeros(rows, jnp.int32)


def at_least_one(value: int, field: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{field}={value!r}: give a whole number of at least 1")
