"""Choosing the next symbol from logits."""

import dataclasses

import jax
import jax.numpy as jnp

from hlm.config import check_least

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; `top_p` keeps the smallest set of symbols whose probability reaches it."""

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self):
        check_least(self, 0, "temperature", "top_p")
        if self.top_p > 1:
            raise ValueError(f"top_p: {self.top_p} must be at most 1")


def next_symbol(logits_BV: Array, how: Sampling, seed: int | Array, row_and_length_B2: Array) -> Array:
    """One symbol per row; its randomness depends on the seed, the row's own number and its length, not on its neighbours."""
    if how.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1)
    logits_BV = keep_top_p(logits_BV / how.temperature, how.top_p)

    def draw(logits_V: Array, row_and_length: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row_and_length[0]), row_and_length[1])
        return jax.random.categorical(key, logits_V)

    return jax.vmap(draw)(logits_BV, row_and_length_B2)


def keep_top_p(logits_BV: Array, top_p: float) -> Array:
    """Symbols outside the nucleus get -inf; the most likely one always stays."""
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    mass_BV = jnp.cumsum(jax.nn.softmax(sorted_BV, axis=-1), axis=-1)
    kept_B1 = jnp.sum(mass_BV - jax.nn.softmax(sorted_BV, axis=-1) < top_p, axis=-1, keepdims=True)
    least_B1 = jnp.take_along_axis(sorted_BV, jnp.maximum(kept_B1 - 1, 0), axis=-1)
    return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
