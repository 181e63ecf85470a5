"""The law of the step: a row that is read piece by piece gives the logits of the row that is read
at once.

Rows are ragged: one begins with BOS alone, others inside words and characters, one is as long as
the window. Some calls read elements that are taken back afterwards; others read one element, whose
row waits for the others when it ends a chunk.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hlm.data.pack import windows
from hlm.infer.automaton import automaton
from hlm.model.decoding import State
from hlm.model.hierarchy import capacities
from hlm.nn.kv_cache import CACHE, cache_leaves, is_full
from hlm.seq import Decoding, Seq
from tests.laws.subjects import (
    SHORT,
    as_batch,
    budget,
    causal,
    chinese,
    corpus,
    encoded,
    every_config,
    random_params,
    small,
    texts,
)

CLOSE = 2e-4  # logits are about 1; other shapes mean other orders of summation
ROWS, BLOCK = 4, 3


class Reader:
    """Rows of a config, and calls of its model on some of their elements."""

    def __init__(self, name):
        exp = small(name)
        self.model, self.capacity = exp.model, (SHORT, *capacities(exp.model.trunk))
        self.longest = automaton(self.model.codec).longest
        self.params = random_params(self.model, SHORT)
        plain = [
            text for text, _ in zip(texts(6, 8 * SHORT, 8 * SHORT), range(ROWS - 2), strict=False)
        ]
        documents = [
            encoded(exp, text) for text in (*plain, chinese()[: 8 * SHORT], corpus()[: 8 * SHORT])
        ]
        self.batch = as_batch([windows(e, budget(exp), 0)[0].row for e in documents])
        self.logits, self.cuts = jax.tree.map(np.asarray, self.full(self.params, self.batch))
        self.size = np.minimum(np.sum(self.batch.doc > 0, axis=1), self.before_overflow())
        self.cache = None

    @functools.partial(jax.jit, static_argnums=0)
    def full(self, params, batch):
        logits, state = self.model.apply(
            {"params": params},
            batch,
            method="logits",
            capture_intermediates=lambda module, name: name == "cut",
        )
        leaves = jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "ends"))
        return logits[:, :, 0], [(leaf.ends, leaf.used) for leaf in leaves if hasattr(leaf, "ends")]

    def before_overflow(self):
        """Elements before a learned segmenter's chunks fill a row, at any level."""
        size = np.full(ROWS, SHORT)
        for ends_BL, used_BS in self.cuts:
            for row in np.flatnonzero(used_BS.all(axis=1)):
                # of a higher level: fewer than there are
                size[row] = min(size[row], np.flatnonzero(ends_BL[row])[-1])
        return size

    @functools.partial(jax.jit, static_argnums=0, static_argnames=("prefill", "waits"))
    def call(self, params, cache, token, real, pos, level, active_B, prefill=False, waits=False):
        decoding = Decoding(
            prefill, BLOCK, BLOCK, self.capacity, self.longest, active_B=active_B if waits else None
        )
        seq = Seq(token, real.astype(jnp.int32), pos, level, None, decoding)
        variables = {"params": params} if prefill else {"params": params, CACHE: cache}
        (logits, there), state = self.model.apply(variables, seq, method="advance", mutable=[CACHE])
        return logits[:, :, 0], there, state[CACHE]

    def read(self, start, count, columns, token=None, level=None, active_B=None, **how):
        """(logits, there) of `count` elements of each row from `start` on."""
        pos = start[:, None] + np.arange(columns)
        at = np.minimum(pos, SHORT - 1)
        token = np.take_along_axis(self.batch.token, at, 1) if token is None else token
        level = np.take_along_axis(self.batch.level, at, 1) if level is None else level
        real = np.arange(columns) < count[:, None]
        logits, there, self.cache = self.call(
            self.params, self.cache, token, real, pos, level, active_B, **how
        )
        assert not np.any(is_full(self.cache, ROWS))
        return np.asarray(logits), np.asarray(there)

    def check(self, logits, start, count):
        for row in range(ROWS):
            of_row = slice(start[row], start[row] + count[row])
            np.testing.assert_allclose(
                logits[row, : count[row]], self.logits[row, of_row], rtol=0, atol=CLOSE
            )


@every_config
def test_piece_by_piece_is_at_once(name):
    causal(name)
    reader, rng = Reader(name), np.random.default_rng(0)
    size = reader.size
    done = np.array([1, size[1] // 3, size[2] // 2, size[3]])
    assert (size > 30).all()

    # The prompts in one pass.
    logits, there = reader.read(np.zeros(ROWS, int), done, SHORT, prefill=True)
    assert np.array_equal(there, np.arange(SHORT) < done[:, None])
    reader.check(logits, np.zeros(ROWS, int), done)

    # Blocks of which only the first elements stay; behind them any symbols.
    codec = reader.model.codec
    symbols = np.flatnonzero(codec.predicted)
    for _ in range(5):
        stay = np.minimum(rng.integers(1, BLOCK + 1, ROWS), size - done)
        token, level = np.zeros((ROWS, BLOCK), np.int32), np.zeros((ROWS, BLOCK), np.uint8)
        for row in range(ROWS):
            real = reader.batch.token[row, : done[row] + stay[row]]
            stream = np.concatenate([real, rng.choice(symbols, BLOCK)])[: done[row] + BLOCK].astype(
                np.int32
            )
            token[row], level[row] = stream[done[row] :], codec.levels(stream)[done[row] :]
        reads = np.where(stay > 0, BLOCK, 0)
        logits, there = reader.read(done, reads, BLOCK, token, level)
        assert np.array_equal(there, np.arange(BLOCK) < reads[:, None])
        reader.check(logits, done, stay)
        done += stay

    # One element at a time; a row waits at the ends of its chunks.
    stop = np.minimum(done + 20, size)
    seen = [[] for _ in range(ROWS)]
    answered, calls = np.ones(ROWS, bool), 0
    before = [int(state.calls) for state in cache_leaves(reader.cache, State)]
    while (active_B := ~answered | (done < stop)).any():
        reads = answered & (done < stop)
        logits, there = reader.read(done, reads, 1, active_B=active_B, waits=True)
        done += reads
        answered = answered & ~reads | there[:, 0]
        for row in np.flatnonzero(there[:, 0]):
            np.testing.assert_allclose(
                logits[row, 0], reader.logits[row, done[row] - 1], rtol=0, atol=CLOSE
            )
            seen[row].append(done[row] - 1)
        calls += 1
        assert calls < 20 * ROWS
    assert [len(s) for s in seen] == [20, 20, 20, 0]
    assert all(s == sorted(set(s)) for s in seen)
    states = cache_leaves(reader.cache, State)
    for state, cut, was in (
        zip(states, reader.cuts, before, strict=True) if len(reader.cuts) == 1 else ()
    ):
        ended = [cut[0][row, stop[row] - 20 : stop[row]].sum() for row in range(ROWS - 1)]
        assert max(ended) <= int(state.calls) - was <= max(ended) + 2, (
            "the backbone runs more often than the row with most chunks needs"
        )
