"""The decoding loop, on the device: read symbols, choose the next, until a slice of steps is done
or no row is open.

Without drafts a step reads one symbol of each row, and rows wait for each other at the ends of
chunks only (hlm/model/decoding.py). With a drafter (hlm/infer/drafts.py) a step reads the newest
symbol and what the drafter guesses to follow it; the guesses that the model would have made itself
are kept (hlm/infer/speculate.py). Between slices the host looks at what was made.

KV caches have room for what is needed soon, not for a whole row, because attention reads all of
their room in every step: a loop with less room stops before it is used up, and the loop with
twice the room goes on with its rows. So a step costs what the text so far costs, however long rows
may become.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hlm.infer.automaton import automaton, read
from hlm.infer.drafts import Drafter
from hlm.infer.sampling import Numbers, log_probabilities, next_symbol
from hlm.infer.speculate import accept
from hlm.model.decoding import State
from hlm.model.hierarchy import levels_of
from hlm.model.lm import LM
from hlm.nn.kv_cache import CACHE, Bounded, cache_leaves, is_full
from hlm.nn.stack import unstacked
from hlm.seq import Decoding, Seq, take, where_rows
from hlm.vocab import bytes_of

Array = jax.Array
# bytes of a word for which kept drafts are counted; the last one stands for all further ones
PLACES = 12


@struct.dataclass
class Rows:
    """Rows that are being continued.

    B rows, K drafts; `made` holds what was made since the host last looked.
    """

    cache: Any
    machine: Any  # the splitter's state after the symbols read
    token_B: Array  # the newest symbol
    draft_BK: Array  # what may follow it
    pos_B: Array  # its position
    live_B: Array  # it has not been read; False: the row waits for its chunk
    open_B: Array  # the row goes on
    full_B: Array  # some layer without a window remembers all that it can: nothing more can be read
    crowded_B: Array  # the caches have no room for the next symbol, but more could be had
    left_B: Array  # bytes that it may still get
    last_B: Array  # the position that ends it, however few bytes its symbols stand for
    number_B: Array  # its number, for its randomness
    made_BN: Array
    count_B: Array  # of the symbols in `made`
    steps: Array  # calls of the model since the start
    # symbols since the last white space, the newest one included: 0 behind white space
    word_offset_B: Array
    drafts_PM: Array  # by place in a word: drafts that were read, and of these those that were kept

    @property
    def number_and_length(self) -> Array:
        """What the randomness of the next symbol depends on, besides the seed; [B, 2]."""
        return jnp.stack([self.number_B, self.pos_B + 1], axis=1)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Compiled generation of one model.

    `capacity`: elements that a row holds at each level; `slice`: steps between two looks of the
    host; `drafter`: who guesses ahead, if anyone; `most`: the capacity that rows may come to have,
    where this loop has less room for them.
    """

    model: LM
    capacity: tuple[int, ...]
    slice: int = 64
    drafter: Drafter | None = None
    most: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.drafter is not None:
            self.drafter.check(self.model)

    @property
    def drafts(self) -> int:
        """Symbols that are guessed in a step."""
        return 0 if self.drafter is None else self.drafter.count

    def decoding(
        self, prefill: bool, active_B: Array | None = None, draft: bool = False
    ) -> Decoding:
        ends = 1 if self.drafter is None else self.drafter.ends(self.known)
        return Decoding(
            prefill, 1 + self.drafts, ends, self.capacity, self.machine.longest, draft, active_B
        )

    @functools.cached_property
    def _rooms(self) -> "dict[int, Loop]":
        return {}

    def with_room(self, elements: int) -> "Loop":
        """This loop with room for so many elements of a row, and chunks in proportion."""
        most = self.most or self.capacity
        room = tuple(-(-n * elements // most[0]) for n in most)
        if elements >= most[0]:
            room = most
        made = dataclasses.replace(self, capacity=room, most=None if room == most else most)
        return self._rooms.setdefault(room[0], made)

    @functools.cached_property
    def machine(self) -> Any:
        return automaton(self.model.codec)

    @functools.cached_property
    def known(self) -> bool:
        """Whether the ends of chunks follow from the symbols alone."""
        outermost = next(levels_of(self.model.trunk), None)
        return outermost is not None and outermost.segmenter.from_levels

    @functools.cached_property
    def bytes_of(self) -> list[bytes]:
        return bytes_of(self.model.codec)

    @functools.cached_property
    def prepare(self) -> Any:
        """params -> those that `go` reads: the weights of each layer by themselves."""
        return jax.jit(functools.partial(unstacked, self.model))

    @functools.cached_property
    def begin(self) -> Any:
        """(params, token [B, T], level [B, T], size [B], left [B], number [B], how, seed [B]) ->
        Rows.

        Reads prompts that begin with BOS, right-padded, and chooses the first symbols; `left`:
        bytes that each row may get.
        """
        return jax.jit(self._begin)

    @functools.cached_property
    def go(self) -> Any:
        """(params, Rows, how, seed [B]) -> Rows, one slice on; the rows are donated."""
        return jax.jit(self._go, donate_argnums=1)

    def take_over(self, rows: Rows, *begun: Any) -> Rows:
        """Rows of a loop with less room, which `begin` began with these arguments."""
        leaves, tree = jax.tree.flatten(jax.eval_shape(self.begin, *begun))
        return enlarged(rows, tree, tuple(leaf.shape for leaf in leaves))

    def crowded(self, rows: Rows) -> Array:
        """Open rows that cannot read on in this room, but in a larger one; bool [B]."""
        if self.most is None:
            return jnp.zeros_like(rows.open_B)
        crowded_B = rows.full_B | (rows.pos_B >= self.capacity[0])
        for state in cache_leaves(rows.cache, State):
            crowded_B |= state.crowded_B
        return crowded_B & rows.open_B

    def _begin(
        self,
        params: Any,
        token_BT: Array,
        level_BT: Array,
        size_B: Array,
        left_B: Array,
        number_B: Array,
        how: Numbers,
        seed: Array,
    ) -> Rows:
        B, T = token_BT.shape
        t_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
        real_BT = t_BT < size_B[:, None]
        seq = Seq(token_BT, real_BT.astype(jnp.int32), t_BT, level_BT, None, self.decoding(True))
        result: Any = self.model.apply({"params": params}, seq, method="read", mutable=[CACHE])
        (y_BTD, _), state = result
        logits_B1NV: Any = self.model.apply(
            {"params": params}, take(y_BTD, size_B[:, None] - 1), method=predict
        )
        logits_BNV = logits_B1NV[:, 0]
        # the state begins after BOS
        machine, _ = read(self.machine, self.machine.start(B), token_BT, real_BT & (t_BT > 0))
        rows = Rows(
            cache=state[CACHE],
            machine=machine,
            token_B=jnp.zeros(B, jnp.int32),
            draft_BK=jnp.zeros((B, self.drafts), jnp.int32),
            pos_B=size_B - 1,
            live_B=jnp.zeros(B, bool),
            open_B=left_B > 0,
            full_B=is_full(state[CACHE], B),
            crowded_B=jnp.zeros(B, bool),
            left_B=left_B,
            last_B=size_B + 2 * left_B + 1,  # a byte and its EOW each, and EOS
            number_B=number_B,
            made_BN=jnp.zeros((B, (1 + self.drafts) * self.slice), jnp.int32),
            count_B=jnp.zeros(B, jnp.int32),
            steps=jnp.zeros((), jnp.int32),
            word_offset_B=take(
                self.word_offsets(jnp.zeros(B, jnp.int32), token_BT), size_B[:, None] - 1
            )[:, 0],
            drafts_PM=jnp.zeros((PLACES, 2), jnp.int32),
        )
        rows = self.one_more(rows, logits_BNV, rows.open_B, how, seed)
        return dataclasses.replace(rows, crowded_B=self.crowded(rows))

    def _go(self, params: Any, rows: Rows, how: Numbers, seed: Array) -> Rows:
        run = self.step if self.drafter is None else functools.partial(self.verify, self.drafter)

        def unfinished(i_rows: tuple[Array, Rows]) -> Array:
            i, rows = i_rows
            stuck_B = (rows.full_B & rows.open_B) | self.crowded(rows)
            return (i < self.slice) & jnp.any(rows.open_B) & ~jnp.any(stuck_B)

        def step(i_rows: tuple[Array, Rows]) -> tuple[Array, Rows]:
            i, rows = i_rows
            return i + 1, run(params, rows, how, seed)

        rows = dataclasses.replace(rows, count_B=jnp.zeros_like(rows.count_B))
        rows = jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), rows))[1]
        return dataclasses.replace(rows, crowded_B=self.crowded(rows))

    def step(self, params: Any, rows: Rows, how: Numbers, seed: Array) -> Rows:
        """Read the newest symbol of every row that does not wait."""
        machine, level_B = self.machine.step(rows.machine, rows.token_B, rows.live_B)
        token_B1, live_B1, level_B1 = (a[:, None] for a in (rows.token_B, rows.live_B, level_B))
        decoding = self.decoding(False, rows.open_B)
        read = (token_B1, live_B1, rows.pos_B, level_B1)
        logits_B1NV, there_B1, cache = self.advance(params, rows.cache, *read, decoding)
        rows = self.after_reading(rows, cache, machine=machine, live_B=jnp.zeros_like(rows.live_B))
        return self.one_more(rows, logits_B1NV[:, 0], there_B1[:, 0] & rows.open_B, how, seed)

    def one_more(
        self, rows: Rows, logits_BNV: Array, there_B: Array, how: Numbers, seed: Array
    ) -> Rows:
        """Choose a symbol where the logits are there."""
        symbol_B = next_symbol(logits_BNV[:, 0], how, seed, rows.number_and_length)
        return self.made(rows, symbol_B[:, None], jnp.zeros_like(rows.count_B), there_B, logits_BNV)

    def verify(self, drafter: Drafter, params: Any, rows: Rows, how: Numbers, seed: Array) -> Rows:
        """Read the newest symbol and its drafts, and keep those that are right."""
        rows = drafter.propose(self, params, rows)
        token_BT = jnp.concatenate([rows.token_B[:, None], rows.draft_BK], axis=1)
        machines, level_BT, _ = self.follow(rows.machine, token_BT, rows.live_B)
        real_BT = rows.live_B[:, None] & drafter.verifiable(level_BT > 0, self.known)
        decoding = self.decoding(False)
        logits_BTNV, _, cache = self.advance(
            params, rows.cache, token_BT, real_BT, rows.pos_B, level_BT, decoding
        )
        read_B = jnp.sum(real_BT, axis=1, dtype=jnp.int32) - 1
        log_p_BTV = log_probabilities(logits_BTNV[:, :, 0], how)
        count_B, symbol_B = accept(
            log_p_BTV, rows.draft_BK, None, read_B, seed, rows.number_and_length
        )
        count_B = jnp.where(rows.live_B, count_B, 0)
        kept = jax.tree.map(lambda a: take(jnp.moveaxis(a, 0, 1), count_B[:, None])[:, 0], machines)
        machine = where_rows(rows.live_B, kept, rows.machine)
        counted = self.counted(rows, real_BT, count_B)
        rows = self.after_reading(rows, cache, machine=machine, drafts_PM=counted)
        t_1T = jnp.arange(token_BT.shape[1], dtype=jnp.int32)[None]
        symbol_BT = jnp.where(
            t_1T < count_B[:, None], jnp.pad(rows.draft_BK, ((0, 0), (0, 1))), symbol_B[:, None]
        )
        return self.made(
            rows, symbol_BT, count_B, rows.live_B, take(logits_BTNV, count_B[:, None])[:, 0]
        )

    def counted(self, rows: Rows, real_BT: Array, kept_B: Array) -> Array:
        """`drafts_PM` with these drafts: where in a word those stood that were read, and those that
        were kept.
        """
        place_BK = jnp.concatenate(
            [
                rows.word_offset_B[:, None],
                self.word_offsets(rows.word_offset_B, rows.draft_BK)[:, :-1],
            ],
            axis=1,
        )
        place_BK = jnp.minimum(place_BK, PLACES - 1)
        read_BK = real_BT[:, 1:]
        kept_BK = read_BK & (jnp.arange(read_BK.shape[1], dtype=jnp.int32)[None] < kept_B[:, None])
        drafts_PM = rows.drafts_PM.at[place_BK, 0].add(read_BK.astype(jnp.int32))
        return drafts_PM.at[place_BK, 1].add(kept_BK.astype(jnp.int32))

    def follow(self, machine: Any, token_BT: Array, live_B: Array) -> tuple[Any, Array, Any]:
        """The splitter's states after each of these symbols, stacked in front; their levels; and
        the last state.
        """

        def step(machine: Any, token_B: Array) -> tuple[Any, tuple[Any, Array]]:
            machine, level_B = self.machine.step(machine, token_B, live_B)
            return machine, (machine, level_B)

        last, (machines, level_TB) = jax.lax.scan(step, machine, token_BT.T)
        return machines, level_TB.T, last

    def advance(
        self,
        params: Any,
        cache: Any,
        token_BT: Array,
        real_BT: Array,
        pos_B: Array,
        level_BT: Array,
        decoding: Decoding,
    ) -> tuple[Array, Array, Any]:
        """Read symbols from position `pos` on: (logits of all heads [B, T, N, V], which are there,
        the KV caches).
        """
        pos_BT = pos_B[:, None] + jnp.arange(token_BT.shape[1], dtype=jnp.int32)[None]
        seq = Seq(token_BT, real_BT.astype(jnp.int32), pos_BT, level_BT, None, decoding)
        result: Any = self.model.apply(
            {"params": params, CACHE: cache}, seq, method="advance", mutable=[CACHE]
        )
        (logits_BTNV, there_BT), state = result
        return logits_BTNV, there_BT, state[CACHE]

    def after_reading(self, rows: Rows, cache: Any, **changes: Any) -> Rows:
        full_B = is_full(cache, rows.open_B.shape[0])
        return dataclasses.replace(
            rows, cache=cache, full_B=full_B, steps=rows.steps + 1, **changes
        )

    def made(
        self, rows: Rows, symbol_BT: Array, kept_B: Array, there_B: Array, logits_BNV: Array
    ) -> Rows:
        """Take the first `kept` + 1 of these symbols, where they are there, and guess what follows
        the last of them by its heads.
        """
        B, N = rows.made_BN.shape
        T = symbol_BT.shape[1]
        t_1T = jnp.arange(T, dtype=jnp.int32)[None]
        new_BT = there_B[:, None] & (t_1T <= kept_B[:, None])
        nbytes_V = jnp.asarray(np.array([len(b) for b in self.bytes_of], np.int32))
        slot_BT = jnp.where(new_BT, rows.count_B[:, None] + t_1T, N)
        left_B = rows.left_B - jnp.sum(jnp.where(new_BT, nbytes_V[symbol_BT], 0), axis=1)
        count_B = jnp.sum(new_BT, axis=1, dtype=jnp.int32)
        ended_B = jnp.any(new_BT & (symbol_BT == self.model.codec.eos), axis=1)
        open_B = rows.open_B & ~(
            there_B & (ended_B | (left_B <= 0) | (rows.pos_B + count_B >= rows.last_B))
        )
        offset_BT = self.word_offsets(rows.word_offset_B, symbol_BT)
        return dataclasses.replace(
            rows,
            token_B=jnp.where(there_B, take(symbol_BT, kept_B[:, None])[:, 0], rows.token_B),
            draft_BK=rows.draft_BK if self.drafter is None else self.drafter.after(logits_BNV),
            pos_B=rows.pos_B + count_B,
            live_B=there_B & open_B,
            open_B=open_B,
            left_B=left_B,
            made_BN=rows.made_BN.at[jnp.arange(B)[:, None], slot_BT].set(symbol_BT, mode="drop"),
            count_B=rows.count_B + count_B,
            word_offset_B=jnp.where(
                there_B, take(offset_BT, kept_B[:, None])[:, 0], rows.word_offset_B
            ),
        )

    def word_offsets(self, offset_B: Array, symbol_BT: Array) -> Array:
        """Symbols since the last white space or mark such as BOS, after each of these; `offset`:
        before them.
        """
        codec = self.model.codec
        start_V = np.array([b[-1:].isspace() for b in self.bytes_of]) | ~codec.predicted
        start_V[codec.bos] = True

        def follow(offset_B: Array, start_B: Array) -> tuple[Array, Array]:
            offset_B = jnp.where(start_B, 0, offset_B + 1)
            return offset_B, offset_B

        return jax.lax.scan(follow, offset_B, jnp.asarray(start_V)[symbol_BT.T])[1].T


def predict(model: LM, y_BLD: Array) -> Array:
    return model.heads(y_BLD, model.codec.predicted)


@functools.partial(jax.jit, static_argnums=(1, 2))
def enlarged(rows: Rows, tree: Any, shapes: tuple[tuple[int, ...], ...]) -> Rows:
    """Rows in caches of more room.

    Elements keep their slots: no ring comes round before its room is used up. That of a window,
    which does, has its full size from the first on.
    """

    def in_room(a: Array, shape: tuple[int, ...]) -> Array:
        pads = [(0, more - n, 0) for n, more in zip(a.shape, shape, strict=True)]
        return jax.lax.pad(a, jnp.zeros((), a.dtype), pads)

    def bounded(node: Any) -> bool:
        return isinstance(node, Bounded)

    def with_room(node: Any) -> Any:
        return node.replace(full_B=jnp.zeros_like(node.full_B)) if hasattr(node, "full_B") else node

    leaves = [in_room(a, s) for a, s in zip(jax.tree.leaves(rows), shapes, strict=True)]
    larger = with_room(jax.tree.unflatten(tree, leaves))
    return dataclasses.replace(larger, cache=jax.tree.map(with_room, larger.cache, is_leaf=bounded))


def calls(cache: Any) -> list[int]:
    """Calls of the backbone of each level, outermost first."""
    return sorted((int(state.calls) for state in cache_leaves(cache, State)), reverse=True)
