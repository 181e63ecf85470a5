"""Patch boundary rule of SpaceByte: the first space-like byte after one that is not.

    SpaceLike()  Hi,␣you!␣3x
                 00100001000

SpaceByte's global blocks run at these ends.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hlm.split.characters import translate
from hlm.split.rule import Rule, Splitter, at_least_one, cut, one_level, zeros

Array = jax.Array

# Of every byte, 1: it is space-like.
SPACE_LIKE = bytes(
    not (chr(b).isascii() and chr(b).isalnum()) and not 0x80 <= b < 0xC0 for b in range(256)
)


@dataclasses.dataclass(frozen=True)
class SpaceLike(Splitter):
    """Patch boundary rule of SpaceByte: an end is the first space-like byte after one that is not.

    Space-like is whatever is neither an ASCII letter or digit nor the continuation of a UTF-8
    character. BOS counts as space-like, as byte 255 does in the published code.
    """

    longest: int = 32

    def __post_init__(self) -> None:
        at_least_one(self.longest, "SpaceLike.longest")

    @classmethod
    def samples(cls) -> tuple[Splitter, ...]:
        return cls(), cls(longest=3)

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        like = translate(text, SPACE_LIKE)
        return one_level(np.flatnonzero(like[1:] > like[:-1]) + 1, len(text), self.longest)

    def rule(self) -> Rule:
        return SpaceLikeRule(self.longest)


class SpaceLikeState(NamedTuple):
    like: Array  # 1 where the last byte is space-like; BOS is
    run: Array  # bytes since the last end


@dataclasses.dataclass(frozen=True)
class SpaceLikeRule:
    """Rule of `SpaceLike`."""

    longest: int

    def start(self, rows: int) -> SpaceLikeState:
        return SpaceLikeState(zeros(rows) + 1, zeros(rows))

    def step(
        self, state: SpaceLikeState, byte_B: Array, live_B: Array
    ) -> tuple[SpaceLikeState, Array]:
        like = jnp.asarray(np.frombuffer(SPACE_LIKE, np.uint8), jnp.int32)[byte_B]
        run, end = cut(state.run, like > state.like, self.longest)
        return SpaceLikeState(like, run), end.astype(jnp.uint8)
