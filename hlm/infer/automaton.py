"""Where chunks end, symbol by symbol on the device: `codec.levels` for generation.

    machine = automaton(codec)
    state = machine.start(rows)  # after BOS
    state, level_B = machine.step(state, token_B, live_B)

Stepping through a stream of symbols gives what `codec.levels` gives for the whole of it, in any
program of JAX, loops included.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from hlm.fim import FIMCodec
from hlm.seq import where_rows
from hlm.split.rule import Rule, State
from hlm.subwords import Subwords
from hlm.vocab import EOW, EVERY_LEVEL, Bytes

Array = jax.Array


class Automaton(Protocol):
    """The levels of B streams of symbols that grow one symbol at a time."""

    @property
    def longest(self) -> int | None: ...  # the most symbols of a level-1 chunk; None: no bound

    # after BOS: a pytree of arrays with a leading axis of rows
    def start(self, rows: int) -> State: ...

    def step(self, state: State, token_B: Array, live_B: Array) -> tuple[State, Array]:
        """The next symbol, int32 [B] -> state, level uint8 [B].

        Where `live_B` is False, the state stays and the level is 0.
        """
        ...


@functools.singledispatch
def automaton(codec: Any) -> Automaton:
    """The automaton of a codec."""
    raise TypeError(
        f"{type(codec).__name__} has no automaton: register one with hlm.infer.automaton.automaton"
    )


def read(machine: Automaton, state: State, token_BL: Array, live_BL: Array) -> tuple[State, Array]:
    """Many symbols in order -> state, levels uint8 [B, L]."""

    def step(state: State, symbol: tuple[Array, Array]) -> tuple[State, Array]:
        return machine.step(state, *symbol)

    state, level_LB = jax.lax.scan(step, state, (token_BL.T, live_BL.T))
    return state, level_LB.T


@automaton.register
def _(codec: Bytes) -> Automaton:
    if codec.split.eow:
        return EndOfWord(codec)
    return OnBytes(codec) if codec.split.depth else NoEnds()


@automaton.register
def _(codec: Subwords) -> Automaton:
    return NoEnds()


@automaton.register
def _(codec: FIMCodec) -> Automaton:
    return Restarted(automaton(codec.codec), codec.codec.size)


@dataclasses.dataclass(frozen=True)
class OnBytes:
    """A rule on the bytes among the symbols; it does not see the others."""

    codec: Bytes

    @functools.cached_property
    def rule(self) -> Rule:
        return self.codec.split.rule()

    @functools.cached_property
    def byte_of(self) -> np.ndarray:
        """The byte of each symbol; -1: none."""
        return np.array(
            [(*self.codec.decode([symbol]), -1)[0] for symbol in range(self.codec.size)], np.int32
        )

    @property
    def longest(self) -> int | None:
        return self.rule.longest

    def start(self, rows: int) -> State:
        return self.rule.start(rows)

    def step(self, state: State, token_B: Array, live_B: Array) -> tuple[State, Array]:
        byte_B = jnp.asarray(self.byte_of)[token_B]
        live_B = live_B & (byte_B >= 0)
        new, level_B = self.rule.step(state, jnp.maximum(byte_B, 0), live_B)
        return where_rows(live_B, new, state), jnp.where(live_B, level_B, jnp.uint8(0))


@dataclasses.dataclass(frozen=True)
class EndOfWord:
    """A symbol that ends words by itself."""

    codec: Bytes

    @property
    def longest(self) -> int | None:
        bound = self.codec.split.rule().longest
        return None if bound is None else bound + 1

    def start(self, rows: int) -> State:
        return ()

    def step(self, state: State, token_B: Array, live_B: Array) -> tuple[State, Array]:
        return state, (live_B & (token_B == EOW)).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class NoEnds:
    """Symbols of flat models: no chunk ends after BOS."""

    @property
    def longest(self) -> None:
        return None

    def start(self, rows: int) -> State:
        return ()

    def step(self, state: State, token_B: Array, live_B: Array) -> tuple[State, Array]:
        return state, jnp.zeros(token_B.shape, jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Restarted:
    """Another automaton, which starts anew at each symbol from `size` on."""

    machine: Automaton
    size: int

    @property
    def longest(self) -> int | None:
        # the symbol takes the place of the one that would have ended the chunk
        return self.machine.longest

    def start(self, rows: int) -> State:
        return self.machine.start(rows)

    def step(self, state: State, token_B: Array, live_B: Array) -> tuple[State, Array]:
        anew_B = live_B & (token_B >= self.size)
        after, level_B = self.machine.step(state, jnp.where(anew_B, 0, token_B), live_B & ~anew_B)
        return where_rows(anew_B, self.start(len(token_B)), after), jnp.where(
            anew_B, jnp.uint8(EVERY_LEVEL), level_B
        )
