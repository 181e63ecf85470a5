"""The loop that generates, on the device: read symbols, choose the next, until a slice of steps is done or no row is open.

Without drafts a step reads one symbol of each row, and rows wait for each other at the ends of chunks only (hlm/model/streaming.py). With
drafts a step reads the newest symbol and what the further heads guess to follow it; the guesses that the model would have made itself are
kept (hlm/infer/speculate.py). Between slices the host looks at what was made.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hlm.infer.automaton import automaton, read
from hlm.infer.sampling import Sampling, log_probabilities, next_symbol
from hlm.infer.speculate import accept
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.segment import Level
from hlm.model.words import LateWords
from hlm.nn.memory import CACHE, found, is_full
from hlm.seq import Seq, Stream, take
from hlm.vocab import bytes_of

Array = jax.Array
DRAFTED_ENDS = 2  # ends of chunks in a step that drafts past the backbone, where they are known before the model reads
PLACES = 12  # bytes of a word for which kept drafts are counted; the last one stands for all further ones


@struct.dataclass
class Rows:
    """Rows that are being continued. B rows, K drafts; `made` holds what was made since the host last looked."""

    cache: Any
    machine: Any  # the splitter's state after the symbols read
    token_B: Array  # the newest symbol
    draft_BK: Array  # what may follow it
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
    place_B: Array  # symbols since the last white space, the newest one included: 0 behind white space
    drafts_PM: Array  # by place in a word: drafts that were read, and of these those that were kept

    @property
    def number_and_length(self) -> Array:
        """What the randomness of the next symbol depends on, besides the seed; [B, 2]."""
        return jnp.stack([self.number_B, self.pos_B + 1], axis=1)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Compiled generation of one model.

    `room`: elements that a row holds at each level; `slice`: steps between two looks of the host; `drafts`: symbols guessed in a step.
    """

    model: LM
    room: tuple[int, ...]
    slice: int = 64
    drafts: int = 0

    def __post_init__(self):
        if not 0 <= self.drafts < self.model.heads.ahead:
            raise ValueError(
                f"speculate: {self.drafts} drafts need heads.ahead={self.drafts + 1}; this model has {self.model.heads.ahead}"
            )

    def guess(self, params: Any, rows: Rows) -> Rows:
        """Set the drafts of a step. Here they are the further heads' guesses at the newest symbol, which `made` has set."""
        return rows

    def heads_guess(self, logits_BNV: Array) -> Array:
        """The drafts [B, K] behind the symbol that head 1 predicts, from the logits of all heads."""
        return jnp.argmax(logits_BNV[:, 1 : 1 + self.drafts], axis=-1)

    def worth(self, ends_BT: Array) -> Array:
        """Which symbols to read, by where chunks would end. Heads draft inside a chunk: a wrong end would cost a step of the backbone."""
        return jnp.cumsum(ends_BT.at[:, 0].set(False), axis=1) == 0

    def stream(self, fresh: bool, open_B: Array | None = None, draft: bool = False) -> Stream:
        longest = (self.machine.longest, *[None] * len(self.room))
        return Stream(fresh, 1 + self.drafts, self.ends, self.room, longest, draft, open_B)

    @functools.cached_property
    def machine(self) -> Any:
        return automaton(self.model.codec)

    @property
    def known(self) -> bool:
        """Whether the ends of chunks follow from the symbols alone."""
        trunk = self.model.trunk
        return isinstance(trunk, Hierarchy) and isinstance(trunk.segmenter, (Level, LateWords))

    @property
    def ends(self) -> int:
        """Ends of chunks in a step at most."""
        return 1 if self.known else 1 + self.drafts

    @functools.cached_property
    def bytes_of(self) -> list[bytes]:
        return bytes_of(self.model.codec)

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
        result: Any = self.model.apply({"params": params}, seq, method="read", mutable=[CACHE])
        (y_BTD, _), state = result
        logits_B1NV: Any = self.model.apply({"params": params}, take(y_BTD, size_B[:, None] - 1), method=predict)
        logits_BNV = logits_B1NV[:, 0]
        machine, _ = read(self.machine, self.machine.start(B), token_BT, real_BT & (t_BT > 0))  # the state begins after BOS
        rows = Rows(
            cache=state[CACHE],
            machine=machine,
            token_B=jnp.zeros(B, jnp.int32),
            draft_BK=jnp.zeros((B, self.drafts), jnp.int32),
            pos_B=size_B - 1,
            live_B=jnp.zeros(B, bool),
            open_B=left_B > 0,
            full_B=is_full(state[CACHE], B),
            left_B=left_B,
            last_B=size_B + 2 * left_B + 1,
            number_B=number_B,
            made_BN=jnp.zeros((B, (1 + self.drafts) * self.slice), jnp.int32),
            count_B=jnp.zeros(B, jnp.int32),
            steps=jnp.zeros((), jnp.int32),
            place_B=take(self.places(jnp.zeros(B, jnp.int32), token_BT), size_B[:, None] - 1)[:, 0],
            drafts_PM=jnp.zeros((PLACES, 2), jnp.int32),
        )
        return self.one_more(rows, logits_BNV, rows.open_B, how, seed)

    def _go(self, params: Any, rows: Rows, how: Sampling, seed: Array) -> Rows:
        def unfinished(i_rows: tuple[Array, Rows]) -> Array:
            i, rows = i_rows
            return (i < self.slice) & jnp.any(rows.open_B) & ~jnp.any(rows.full_B & rows.open_B)

        def step(i_rows: tuple[Array, Rows]) -> tuple[Array, Rows]:
            i, rows = i_rows
            return i + 1, (self.step_drafts if self.drafts else self.step)(params, rows, how, seed)

        rows = dataclasses.replace(rows, count_B=jnp.zeros_like(rows.count_B))
        return jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), rows))[1]

    def step(self, params: Any, rows: Rows, how: Sampling, seed: Array) -> Rows:
        """Read the newest symbol of every row that does not wait."""
        machine, level_B = self.machine.step(rows.machine, rows.token_B, rows.live_B)
        seq = column(rows.token_B, rows.live_B, rows.pos_B, level_B, self.stream(False, rows.open_B))
        logits_B1NV, there_B1, rows = self.advance(params, rows, seq)
        rows = dataclasses.replace(rows, machine=machine, live_B=jnp.zeros_like(rows.live_B))
        return self.one_more(rows, logits_B1NV[:, 0], there_B1[:, 0] & rows.open_B, how, seed)

    def one_more(self, rows: Rows, logits_BNV: Array, there_B: Array, how: Sampling, seed: Array) -> Rows:
        """Choose a symbol where the logits are there."""
        symbol_B = next_symbol(logits_BNV[:, 0], how, seed, rows.number_and_length)
        return self.made(rows, symbol_B[:, None], jnp.zeros_like(rows.count_B), there_B, logits_BNV)

    def step_drafts(self, params: Any, rows: Rows, how: Sampling, seed: Array) -> Rows:
        """Read the newest symbol and its drafts, and keep those that are right."""
        rows = self.guess(params, rows)
        K, token_BT = self.drafts, jnp.concatenate([rows.token_B[:, None], rows.draft_BK], axis=1)
        t_1T = jnp.arange(1 + K, dtype=jnp.int32)[None]

        def follow(machine: Any, token_B: Array) -> tuple[Any, tuple[Any, Array]]:
            machine, level_B = self.machine.step(machine, token_B, rows.live_B)
            return machine, (machine, level_B)

        _, (machines, level_TB) = jax.lax.scan(follow, rows.machine, token_BT.T)
        real_BT = rows.live_B[:, None] & self.worth(level_TB.T > 0)
        pos_BT = rows.pos_B[:, None] + t_1T
        seq = Seq(token_BT, real_BT.astype(jnp.int32), pos_BT, level_TB.T, None, self.stream(False))
        logits_BTNV, _, rows = self.advance(params, rows, seq)
        read_B = jnp.sum(real_BT, axis=1, dtype=jnp.int32) - 1
        log_p_BTV = log_probabilities(logits_BTNV[:, :, 0], how)
        count_B, symbol_B = accept(log_p_BTV, rows.draft_BK, None, read_B, seed, rows.number_and_length)
        count_B = jnp.where(rows.live_B, count_B, 0)
        machine = jax.tree.map(
            lambda after, before: jnp.where(
                rows.live_B.reshape(-1, *[1] * (before.ndim - 1)), take(jnp.moveaxis(after, 0, 1), count_B[:, None])[:, 0], before
            ),
            machines,
            rows.machine,
        )
        # Where in a word the drafts stood that were read, and those that were kept.
        place_BK = jnp.concatenate([rows.place_B[:, None], self.places(rows.place_B, rows.draft_BK)[:, :-1]], axis=1)
        place_BK = jnp.minimum(place_BK, PLACES - 1)
        drafts_PM = rows.drafts_PM.at[place_BK, 0].add(real_BT[:, 1:].astype(jnp.int32))
        drafts_PM = drafts_PM.at[place_BK, 1].add((real_BT[:, 1:] & (t_1T[:, :-1] < count_B[:, None])).astype(jnp.int32))
        rows = dataclasses.replace(rows, machine=machine, drafts_PM=drafts_PM)
        symbol_BT = jnp.where(t_1T < count_B[:, None], jnp.pad(rows.draft_BK, ((0, 0), (0, 1))), symbol_B[:, None])
        return self.made(rows, symbol_BT, count_B, rows.live_B, take(logits_BTNV, count_B[:, None])[:, 0])

    def advance(self, params: Any, rows: Rows, seq: Seq) -> tuple[Array, Array, Rows]:
        variables = {"params": params, CACHE: rows.cache}
        result: Any = self.model.apply(variables, seq, method="advance", mutable=[CACHE])
        (logits_BTNV, there_BT), state = result
        full_B = is_full(state[CACHE], rows.open_B.shape[0])
        return logits_BTNV, there_BT, dataclasses.replace(rows, cache=state[CACHE], full_B=full_B, steps=rows.steps + 1)

    def made(self, rows: Rows, symbol_BT: Array, kept_B: Array, there_B: Array, logits_BNV: Array) -> Rows:
        """Take the first `kept` + 1 of these symbols, where they are there, and guess what follows the last of them by its heads."""
        B, N = rows.made_BN.shape
        T = symbol_BT.shape[1]
        t_1T = jnp.arange(T, dtype=jnp.int32)[None]
        new_BT = there_B[:, None] & (t_1T <= kept_B[:, None])
        nbytes_V = jnp.asarray(np.array([len(b) for b in self.bytes_of], np.int32))
        slot_BT = jnp.where(new_BT, rows.count_B[:, None] + t_1T, N)
        left_B = rows.left_B - jnp.sum(jnp.where(new_BT, nbytes_V[symbol_BT], 0), axis=1)
        count_B = jnp.sum(new_BT, axis=1, dtype=jnp.int32)
        ended_B = jnp.any(new_BT & (symbol_BT == self.model.codec.eos), axis=1)
        open_B = rows.open_B & ~(there_B & (ended_B | (left_B <= 0) | (rows.pos_B + count_B >= rows.last_B)))
        place_BT = self.places(rows.place_B, symbol_BT)
        return dataclasses.replace(
            rows,
            token_B=jnp.where(there_B, take(symbol_BT, kept_B[:, None])[:, 0], rows.token_B),
            draft_BK=self.heads_guess(logits_BNV),
            pos_B=rows.pos_B + count_B,
            live_B=there_B & open_B,
            open_B=open_B,
            left_B=left_B,
            made_BN=rows.made_BN.at[jnp.arange(B)[:, None], slot_BT].set(symbol_BT, mode="drop"),
            count_B=rows.count_B + count_B,
            place_B=jnp.where(there_B, take(place_BT, kept_B[:, None])[:, 0], rows.place_B),
        )

    def places(self, place_B: Array, symbol_BT: Array) -> Array:
        """Symbols since the last white space or mark such as BOS, after each of these; `place_B`: before them."""
        codec = self.model.codec
        start_V = np.array([b[-1:].isspace() for b in self.bytes_of]) | ~codec.predicted
        start_V[codec.bos] = True

        def follow(place_B: Array, start_B: Array) -> tuple[Array, Array]:
            place_B = jnp.where(start_B, 0, place_B + 1)
            return place_B, place_B

        return jax.lax.scan(follow, place_B, jnp.asarray(start_V)[symbol_BT.T])[1].T


@dataclasses.dataclass(frozen=True)
class PastBackbone(Loop):
    """Drafts one symbol after the other by the model itself, whose shortcut stands for the backbone."""

    def __post_init__(self):
        if not has_shortcut(self.model):
            raise ValueError("speculate: drafts past the backbone need Hierarchy.shortcut; this model has none")

    def guess(self, params: Any, rows: Rows) -> Rows:
        def follow(machine_rows: Any, i: Array) -> tuple[Any, Array]:
            machine, token_B, cache = machine_rows
            machine, level_B = self.machine.step(machine, token_B, rows.live_B)
            seq = column(token_B, rows.live_B, rows.pos_B + i, level_B, self.stream(False, draft=True))
            result: Any = self.model.apply({"params": params, CACHE: cache}, seq, method="advance", mutable=[CACHE])
            (logits_BLNV, _), state = result
            token_B = jnp.argmax(logits_BLNV[:, 0, 0], axis=-1)
            return (machine, token_B, state[CACHE]), token_B

        start = (rows.machine, rows.token_B, rows.cache)
        (_, _, cache), draft_KB = jax.lax.scan(follow, start, jnp.arange(self.drafts, dtype=jnp.int32))
        return dataclasses.replace(rows, cache=cache, draft_BK=draft_KB.T, steps=rows.steps + self.drafts)

    @property
    def ends(self) -> int:
        return min(DRAFTED_ENDS, 1 + self.drafts) if self.known else 1 + self.drafts

    def worth(self, ends_BT: Array) -> Array:
        return jnp.cumsum(ends_BT, axis=1) <= self.ends

    def heads_guess(self, logits_BNV: Array) -> Array:
        """None: `guess` sets the drafts."""
        return jnp.zeros((logits_BNV.shape[0], self.drafts), jnp.int32)


def has_shortcut(model: LM) -> bool:
    return isinstance(model.trunk, Hierarchy) and model.trunk.shortcut is not None


def column(token_B: Array, real_B: Array, pos_B: Array, level_B: Array, stream: Stream) -> Seq:
    """One element of each row."""
    token, doc, pos, level = (a[:, None] for a in (token_B, real_B.astype(jnp.int32), pos_B, level_B))
    return Seq(token, doc, pos, level, None, stream)


def predict(model: LM, y_BLD: Array) -> Array:
    return model.heads(y_BLD, model.codec.predicted)


def calls(cache: Any) -> list[int]:
    """Calls of the backbone of each level, outermost first."""
    return [int(n) for n in sorted(found(cache, "calls"), reverse=True)]
