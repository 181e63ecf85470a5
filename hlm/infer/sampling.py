"""Choosing the next symbol: the one definition of the distribution it is drawn from, and of the
randomness it is drawn with.
"""

import dataclasses

import jax
import jax.numpy as jnp

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


def log_probabilities(logits: Array, how: Sampling) -> Array:
    """What symbols are drawn from: logits [..., V] -> float32 [..., V], normalised; -inf for what
    `how` excludes.

    Greedy is the distribution with all its mass on the argmax.
    """
    symbol = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    if how.temperature == 0:
        return jnp.where(symbol == jnp.argmax(logits, axis=-1, keepdims=True), 0.0, -jnp.inf)
    logits = logits.astype(jnp.float32)
    temperature = max(how.temperature, float(jnp.finfo(jnp.float32).tiny))
    # the difference first: no overflow
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
    if how.top_k is not None or how.top_p < 1:
        order = jnp.argsort(logits, axis=-1, stable=True, descending=True)
        ranked = jnp.take_along_axis(logits, order, axis=-1)
        ranked = jnp.where(symbol < (how.top_k or logits.shape[-1]), ranked, -jnp.inf)
        if how.top_p < 1:
            p = jax.nn.softmax(ranked, axis=-1)
            reached = jnp.cumsum(p, axis=-1) - p >= how.top_p  # by those that go first
            ranked = jnp.where(reached & (symbol > 0), -jnp.inf, ranked)
        logits = jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)
    return jax.nn.log_softmax(logits, axis=-1)


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
    logits_BV: Array, how: Sampling, seed: int | Array, row_and_length_B2: Array
) -> Array:
    """One symbol per row; its randomness depends on the seed, the row's own number and its length,
    not on its neighbours.
    """
    if how.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1)
    return draw(keys(seed, row_and_length_B2), log_probabilities(logits_BV, how))
