"""Choosing the next symbol: the one definition of the distribution it is drawn from, and of the
randomness it is drawn with.

Settings are data of the compiled program, so that another temperature compiles nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hlm.infer import given

Array = jax.Array
# what a key is for: the next symbol, whether a draft is accepted (hlm/infer/speculate.py), a draft
DRAW, ACCEPT, DRAFT = range(3)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling settings: temperature (0 is greedy), top-k, then top-p (nucleus).

    `top_k` keeps the likeliest symbols, `top_p` then the smallest set of these whose share
    reaches it. The most likely symbol always stays. Where symbols are equally likely, lower ones
    go first, as in argmax.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None  # None: all

    def __post_init__(self):
        top_k = (
            self.top_k
            if self.top_k is None
            else given.whole(self.top_k, "Sampling.top_k", 1, fix=", or None for all symbols")
        )
        plain = {
            "temperature": given.real(self.temperature, "Sampling.temperature", 0),
            "top_p": given.real(self.top_p, "Sampling.top_p", 0, 1),
            "top_k": top_k,
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def numbers(self) -> "Numbers":
        """The same as arrays, for compiled programs."""
        top_k = given.MOST_INT if self.top_k is None else self.top_k
        # what float32 would round to 0 is not greedy
        least = np.finfo(np.float32).tiny if self.temperature else 0.0
        temperature = np.float32(max(self.temperature, least))
        return Numbers(temperature, np.float32(self.top_p), np.int32(top_k))


@struct.dataclass
class Numbers:
    """Sampling settings as arrays without dimensions: data of a compiled program."""

    temperature: Any  # float32
    top_p: Any  # float32
    top_k: Any  # int32; at least as many as there are symbols: all


def log_probabilities(logits: Array, how: Sampling | Numbers) -> Array:
    """What symbols are drawn from: logits [..., V] -> float32 [..., V], normalised; -inf for what
    `how` excludes.

    Greedy is the distribution with all its mass on the argmax.
    """
    n = how.numbers() if isinstance(how, Sampling) else how
    symbol = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)

    def greedy(logits: Array) -> Array:
        best = symbol == jnp.argmax(logits, axis=-1, keepdims=True)
        return jnp.where(best, 0.0, -jnp.inf).astype(jnp.float32)

    def tempered(logits: Array) -> Array:
        logits = logits.astype(jnp.float32)
        # the difference first: no overflow
        logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / n.temperature
        some = (n.top_p < 1) | (n.top_k < logits.shape[-1])
        return jax.nn.log_softmax(jax.lax.cond(some, kept, lambda a: a, logits), axis=-1)

    def kept(logits: Array) -> Array:
        order = jnp.argsort(logits, axis=-1, stable=True, descending=True)
        ranked = jnp.take_along_axis(logits, order, axis=-1)
        ranked = jnp.where(symbol < n.top_k, ranked, -jnp.inf)
        p = jax.nn.softmax(ranked, axis=-1)
        # by those that go first; top_p = 1 keeps also what rounding would lose
        reached = (jnp.cumsum(p, axis=-1) - p >= n.top_p) & (n.top_p < 1)
        ranked = jnp.where(reached & (symbol > 0), -jnp.inf, ranked)
        return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)

    return jax.lax.cond(n.temperature == 0, greedy, tempered, logits)


def keys(seed: int | Array, row_and_length_B2: Array, use: int = DRAW) -> Array:
    """A key for each row.

    It depends on the seed (one, or int32 [B]: each row's own), the row's own number and its length
    only.
    """

    def key(seed: Array, row_and_length: Array) -> Array:
        row_key = jax.random.fold_in(jax.random.key(seed), row_and_length[0])
        return jax.random.fold_in(jax.random.fold_in(row_key, row_and_length[1]), use)

    return jax.vmap(key)(jnp.broadcast_to(seed, row_and_length_B2.shape[:1]), row_and_length_B2)


def draw(key_B: Array, log_p_BV: Array) -> Array:
    """One symbol per row, int32; one that cannot be drawn never is."""
    return jax.vmap(jax.random.categorical)(key_B, log_p_BV)


def next_symbol(
    logits_BV: Array, how: Sampling | Numbers, seed: int | Array, row_and_length_B2: Array
) -> Array:
    """One symbol per row; its randomness depends on the seed, the row's own number and its length,
    not on its neighbours.
    """
    n = how.numbers() if isinstance(how, Sampling) else how

    def greedy(logits_BV: Array) -> Array:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def drawn(logits_BV: Array) -> Array:
        symbol_B = draw(keys(seed, row_and_length_B2), log_probabilities(logits_BV, n))
        return symbol_B.astype(jnp.int32)

    return jax.lax.cond(n.temperature == 0, greedy, drawn, logits_BV)
