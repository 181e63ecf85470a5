"""The loop that generates, on the device: read a symbol, choose the next, until a slice of steps is done or no row is open.

Rows wait for each other at the ends of chunks only (hlm/model/streaming.py). Between slices the host looks at what was made.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hlm.infer.automaton import automaton, read
from hlm.infer.generate import Sampling, draw, keys, log_probabilities
from hlm.model.lm import LM
from hlm.nn.memory import CACHE, found, is_full
from hlm.seq import Seq, Stream

Array = jax.Array


@struct.dataclass
class Rows:
    """Rows that are being continued. B rows; `made` holds what was made since the host last looked."""

    cache: Any
    machine: Any  # the splitter's state after the symbols read
    token_B: Array  # the newest symbol
    pos_B: Array  # its position
    live_B: Array  # it has not been read; False: the row waits for its chunk
    open_B: Array  # the row goes on
    full_B: Array  # some layer without a window remembers all that it can: nothing more can be read
    left_B: Array  # bytes that it may still get
    last_B: Array  # the position that ends it, however few bytes its symbols stand for
    number_B: Array  # its number, for its randomness
    made_BN: Array
    count_B: Array  # of the symbols in `made`
    steps: Array  # calls of the model since the start


@dataclasses.dataclass(frozen=True)
class Loop:
    """Compiled generation of one model; `room` and `slice`: elements that a row holds at each level, and steps between two looks."""

    model: LM
    room: tuple[int, ...]
    slice: int = 64

    def stream(self, fresh: bool, open_B: Array | None = None) -> Stream:
        longest = (self.machine.longest, *[None] * len(self.room))
        return Stream(fresh=fresh, back=1, ends=1, room=self.room, longest=longest, open_B=open_B)

    @functools.cached_property
    def machine(self) -> Any:
        return automaton(self.model.codec)

    @functools.cached_property
    def nbytes_V(self) -> np.ndarray:
        """Bytes that each symbol stands for."""
        codec = self.model.codec
        return np.array([len(codec.decode([v])) if v not in (codec.bos, codec.eos) else 0 for v in range(codec.size)], np.int32)

    @functools.cached_property
    def begin(self) -> Any:
        """(params, token [B, T], level [B, T], size [B], left [B], number [B], how, seed [B]) -> Rows.

        Reads prompts that begin with BOS, right-padded, and chooses the first symbols; `left`: bytes that each row may get.
        """
        return jax.jit(self._begin, static_argnames="how")

    @functools.cached_property
    def go(self) -> Any:
        """(params, Rows, how, seed [B]) -> Rows, one slice on; the rows are donated."""
        return jax.jit(self._go, static_argnames="how", donate_argnums=1)

    def _begin(
        self,
        params: Any,
        token_BT: Array,
        level_BT: Array,
        size_B: Array,
        left_B: Array,
        number_B: Array,
        how: Sampling,
        seed: Array,
    ) -> Rows:
        B, T = token_BT.shape
        t_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
        real_BT = t_BT < size_B[:, None]
        seq = Seq(token_BT, real_BT.astype(jnp.int32), t_BT, level_BT, None, self.stream(True))
        (y_BTD, _), state = self.model.apply({"params": params}, seq, method="read", mutable=[CACHE])
        y_B1D = jnp.take_along_axis(y_BTD, size_B[:, None, None] - 1, axis=1)
        logits_BV = self.model.apply({"params": params}, y_B1D, method=predict)[:, 0, 0]
        after = t_BT > 0  # the state begins after BOS
        machine, _ = read(self.machine, self.machine.start(B), token_BT, real_BT & after)
        rows = Rows(
            cache=state[CACHE],
            machine=machine,
            token_B=jnp.zeros(B, jnp.int32),
            pos_B=size_B - 1,
            live_B=jnp.zeros(B, bool),
            open_B=left_B > 0,
            full_B=is_full(state[CACHE], B),
            left_B=left_B,
            last_B=size_B + 2 * left_B + 1,
            number_B=number_B,
            made_BN=jnp.zeros((B, self.slice + 1), jnp.int32),
            count_B=jnp.zeros(B, jnp.int32),
            steps=jnp.zeros((), jnp.int32),
        )
        return self.choose(rows, logits_BV, rows.open_B, how, seed)

    def _go(self, params: Any, rows: Rows, how: Sampling, seed: Array) -> Rows:
        def unfinished(i_rows: tuple[Array, Rows]) -> Array:
            i, rows = i_rows
            return (i < self.slice) & jnp.any(rows.open_B) & ~jnp.any(rows.full_B & rows.open_B)

        def step(i_rows: tuple[Array, Rows]) -> tuple[Array, Rows]:
            i, rows = i_rows
            machine, level_B = self.machine.step(rows.machine, rows.token_B, rows.live_B)
            stream = self.stream(False, rows.open_B)
            columns = (a[:, None] for a in (rows.token_B, rows.live_B.astype(jnp.int32), rows.pos_B, level_B))
            (logits_BLNV, there_BL), state = self.model.apply(
                {"params": params, CACHE: rows.cache}, Seq(*columns, None, stream), method="advance", mutable=[CACHE]
            )
            rows = rows.replace(
                cache=state[CACHE],
                machine=machine,
                live_B=jnp.zeros_like(rows.live_B),
                full_B=is_full(state[CACHE], rows.open_B.shape[0]),
                steps=rows.steps + 1,
            )
            return i + 1, self.choose(rows, logits_BLNV[:, 0, 0], there_BL[:, 0] & rows.open_B, how, seed)

        rows = rows.replace(count_B=jnp.zeros_like(rows.count_B))
        return jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), rows))[1]

    def choose(self, rows: Rows, logits_BV: Array, there_B: Array, how: Sampling, seed: Array) -> Rows:
        """The next symbol of the rows whose logits are there."""
        log_p_BV = log_probabilities(logits_BV, how)
        symbol_B = draw(keys(seed, jnp.stack([rows.number_B, rows.pos_B + 1], axis=1)), log_p_BV)
        B, N = rows.made_BN.shape
        slot_B = jnp.where(there_B, rows.count_B, N)
        left_B = rows.left_B - jnp.where(there_B, jnp.asarray(self.nbytes_V)[symbol_B], 0)
        ended_B = (symbol_B == self.model.codec.eos) | (left_B <= 0) | (rows.pos_B + 1 >= rows.last_B)
        open_B = rows.open_B & ~(there_B & ended_B)
        return rows.replace(
            token_B=jnp.where(there_B, symbol_B, rows.token_B),
            pos_B=rows.pos_B + there_B.astype(jnp.int32),
            live_B=there_B & open_B,
            open_B=open_B,
            left_B=left_B,
            made_BN=rows.made_BN.at[jnp.arange(B), slot_B].set(symbol_B, mode="drop"),
            count_B=rows.count_B + there_B.astype(jnp.int32),
        )


def predict(model: LM, y_BLD: Array) -> Array:
    return model.heads(y_BLD, model.codec.predicted)


def calls(cache: Any) -> list[int]:
    """Calls of the backbone of each level, outermost first."""
    return [int(n) for n in sorted(found(cache, "calls"), reverse=True)]
