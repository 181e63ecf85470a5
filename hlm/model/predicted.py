"""Segmenters that predict ends from the encoder's output, and what they learn from (Nawrot et al. 2023, arXiv 2211.09761).

`Gumbel` samples ends and learns from the language model's loss; `Predicted` learns from examples, which an `LM.teacher` sets once the
logits are known. The first element of a document ends a chunk by convention and is no decision: it counts nowhere.
"""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.metrics import Mean, Metrics
from hlm.nn.attention import MASKED
from hlm.nn.basic import Linear
from hlm.seq import Batch, Seq

Array = jax.Array
# Metric [B, L] from a segmenter to its teacher: `total` is the logit of an end, `weight` is 1 where an end is a decision.
TAUGHT = "taught"


class EndLogit(nn.Module):
    """A layer of `width` GELUs and a logit for each element; float32 [B, L]."""

    width: int

    @nn.compact
    def __call__(self, h_BLD: Array) -> Array:
        hidden = jax.nn.gelu(Linear(self.width, bias=True, name="in")(h_BLD.astype(jnp.float32)), approximate=False)
        return Linear(1, bias=True, name="out")(hidden)[..., 0]


def decided(seq: Seq) -> Array:
    """Elements at which an end is a decision; bool [B, L]."""
    return (seq.doc > 0) & (seq.pos > 0)


def mean_of_rows(value_BL: Array, weight_BL: Array) -> Mean:
    """The mean over rows of each row's mean, so that micro-batches of equally many rows add up whatever their padding."""
    row_B = jnp.sum(value_BL * weight_BL, axis=1) / jnp.maximum(jnp.sum(weight_BL, axis=1), 1.0)
    return Mean(jnp.sum(row_B), jnp.asarray(row_B.shape[0], jnp.float32))


class Gumbel(nn.Module):
    """Ends are drawn (relaxed Bernoulli, straight-through), about `prior` of all elements by a binomial likelihood ("loss/prior").

    Without the generator "boundary" the likelier decision is taken.
    """

    width: int
    prior: float = 0.2
    temperature: float = 0.5
    learned: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, Array, Metrics]:
        logit_BL = EndLogit(self.width, name="end")(h_BLD)
        if self.has_rng("boundary"):
            tiny = jnp.finfo(jnp.float32).eps
            u_BL = jnp.clip(self.uniform(seq), tiny, 1 - tiny)
            logit_BL = logit_BL + jnp.log(u_BL) - jnp.log1p(-u_BL)
        soft_BL = jax.nn.sigmoid(logit_BL / self.temperature)
        ends_BL = soft_BL > 0.5
        hard_BL, free_BL = ends_BL.astype(jnp.float32), decided(seq)
        # What decides nothing has no gradient at all: post-norm layers over an all-zero BOS would make much of a rounding error.
        prob_BL = jnp.where(free_BL, hard_BL + (soft_BL - jax.lax.stop_gradient(soft_BL)), hard_BL)
        return ends_BL, prob_BL, {"loss/prior": self.surprise(prob_BL, free_BL)}

    def uniform(self, seq: Seq) -> Array:
        """The noise: uniform in 0..1, [B, L]."""
        return prefix_noise(self.make_rng("boundary"), seq)

    def surprise(self, prob_BL: Array, free_BL: Array) -> Mean:
        """-log Binomial(ends; decisions, prior) of each row, per decision."""
        n_B = jnp.sum(free_BL, axis=1, dtype=jnp.float32)
        k_B = jnp.sum(jnp.where(free_BL, prob_BL, 0.0), axis=1)
        ways_B = jax.lax.lgamma(n_B + 1) - jax.lax.lgamma(k_B + 1) - jax.lax.lgamma(n_B - k_B + 1)
        likelihood_B = ways_B + k_B * np.log(self.prior) + (n_B - k_B) * np.log1p(-self.prior)
        return Mean(jnp.sum(-likelihood_B / jnp.maximum(n_B, 1.0)), jnp.asarray(n_B.shape[0], jnp.float32))


def prefix_noise(key: Array, seq: Seq) -> Array:
    """Uniform noise that follows from the key and the document up to each element: the same in any row, micro-batch and device. [B, L]."""

    def after(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    factor_BL = jnp.where(seq.pos == 0, jnp.uint32(0), jnp.uint32(0x9E3779B1))  # 2^32 / golden ratio, made odd
    _, hash_BL = jax.lax.associative_scan(after, (factor_BL, seq.token.astype(jnp.uint32) + 1), axis=1)
    keys_N = jax.vmap(jax.random.fold_in, (None, 0))(key, hash_BL.reshape(-1))
    return jax.vmap(jax.random.uniform)(keys_N).reshape(hash_BL.shape)


class Predicted(nn.Module):
    """Ends where they are likelier than not; learns from the examples of `LM.teacher`, the language model's loss has no say.

    `squashed`: the released code takes the probability for a logit in its loss, so that it predicts an end only where the true share is
    above 62 %.
    """

    width: int
    squashed: bool = False
    learned: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Metrics]:
        logit_BL = EndLogit(self.width, name="end")(h_BLD)
        learned_BL = jax.nn.sigmoid(logit_BL) if self.squashed else logit_BL
        return logit_BL > 0, None, {TAUGHT: Mean(learned_BL, decided(seq).astype(jnp.float32))}


class Teacher(Protocol):
    """Takes the metric TAUGHT of a segmenter and leaves losses in its place. `logits_BLV` are those of the next symbol."""

    def __call__(self, metrics: Metrics, logits_BLV: Array, batch: Batch) -> Metrics: ...


@dataclasses.dataclass(frozen=True)
class Spikes:
    """Ends where the model is less sure of the next symbol than it was at each of the `window` elements before."""

    window: int = 2

    def __call__(self, metrics: Metrics, logits_BLV: Array, batch: Batch) -> Metrics:
        sure_BL = certainty(logits_BLV)
        free_BL = metrics[TAUGHT].weight > 0
        spike_BL = free_BL
        for i in range(1, self.window + 1):
            before_BL, was_free_BL, doc_BL = (jnp.pad(a, ((0, 0), (i, 0)))[:, : a.shape[1]] for a in (sure_BL, free_BL, batch.doc))
            spike_BL &= ~was_free_BL | (doc_BL != batch.doc) | (sure_BL < before_BL)
        return graded(metrics, spike_BL)


@dataclasses.dataclass(frozen=True)
class GivenEnds:
    """Ends of the codec's `examples`, such as hlm.Pieces: the unigram segmentation of dynamic pooling."""

    def __call__(self, metrics: Metrics, logits_BLV: Array, batch: Batch) -> Metrics:
        if batch.example is None:
            raise ValueError("examples: a batch for LM.teacher=GivenEnds() needs the field `example`")
        return graded(metrics, batch.example > 0)


def certainty(logits: Array) -> Array:
    """How far the entropy lies below that of an even guess, nats. Early in training that difference is all there is to compare: entropies
    themselves are equal in all digits of float32. Masked symbols do not count."""
    known = logits > MASKED / 2
    count = jnp.sum(known, axis=-1, keepdims=True, dtype=jnp.float32)
    z = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True) + jnp.log(count)  # log(p * count), up to rounding
    off = jnp.sum(jnp.expm1(z), axis=-1, keepdims=True, where=known) / count  # that rounding
    return jnp.sum(jnp.exp(z) * z, axis=-1, where=known) / (count * (1 + off))[..., 0] - jnp.log1p(off)[..., 0]


def graded(metrics: Metrics, example_BL: Array) -> Metrics:
    """Cross-entropy of the examples in place of TAUGHT."""
    metrics = dict(metrics)
    taught = metrics.pop(TAUGHT)
    nll_BL = jax.nn.softplus(taught.total) - jnp.where(example_BL, taught.total, 0.0)
    return {**metrics, "loss/examples": mean_of_rows(nll_BL, taught.weight)}
