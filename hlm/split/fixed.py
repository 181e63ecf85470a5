"""Segmentation rules of one line: patches of a fixed size, ends at given bytes, no ends at all.

    Fixed(3)           abcdefgh
                       00100100

    Fixed(3, first=1)  abcdefgh
                       10010010

    After((32,))       a␣b␣␣cd
                       0101100

    Unsplit()          a␣b␣␣cd
                       0000000

An end is the last byte of its chunk.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hlm.split.rule import Rule, Splitter, at_least_one, zeros

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Fixed(Splitter):
    """Patches of a fixed size (MegaByte).

    After BOS, every chunk is `stride` bytes, but for a `first` one of another size.
    """

    stride: int
    first: int | None = None

    def __post_init__(self) -> None:
        at_least_one(self.stride, "Fixed.stride")
        if self.first is not None:
            at_least_one(self.first, "Fixed.first")

    @classmethod
    def samples(cls) -> tuple[Splitter, ...]:
        return cls(1), cls(3)

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        level = np.zeros(len(text), np.uint8)
        level[(self.first or self.stride) - 1 :: self.stride] = 1
        return level

    def rule(self) -> Rule:
        return FixedRule(self)


@dataclasses.dataclass(frozen=True)
class FixedRule:
    """Rule of `Fixed`; its state is the bytes left of the open chunk."""

    split: Fixed

    @property
    def longest(self) -> int:
        return max(self.split.stride, self.split.first or 0)

    def start(self, rows: int) -> Array:
        return zeros(rows) + (self.split.first or self.split.stride)

    def step(self, state: Array, byte_B: Array, live_B: Array) -> tuple[Array, Array]:
        end = state == 1
        return jnp.where(end, self.split.stride, state - 1), end.astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class After(Splitter):
    """Delimiter rule: an end at every one of these bytes, however many stand in a row.

    Dynamic token pooling's whitespace.
    """

    symbols: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        if not self.symbols or not all(0 <= b < 256 for b in self.symbols):
            raise ValueError(
                f"After.symbols={self.symbols}: give the bytes after which a chunk ends"
            )

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        return np.isin(text, self.symbols).astype(np.uint8)

    def rule(self) -> Rule:
        return AfterRule(self.symbols)


@dataclasses.dataclass(frozen=True)
class AfterRule:
    """Rule of `After`, without a state."""

    symbols: tuple[int, ...]

    @property
    def longest(self) -> None:
        return None

    def start(self, rows: int) -> tuple[()]:
        return ()

    def step(self, state: tuple[()], byte_B: Array, live_B: Array) -> tuple[tuple[()], Array]:
        return state, jnp.isin(byte_B, jnp.asarray(self.symbols, jnp.int32)).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Unsplit(Splitter):
    """No segmentation: flat models."""

    depth = 0

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        return np.zeros(len(text), np.uint8)
