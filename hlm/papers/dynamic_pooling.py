"""Dynamic token pooling: an hourglass with a learned boundary predictor (Nawrot et al. 2023).

arXiv 2211.09761. The idea: a few layers read characters, a boundary predictor cuts their stream
into chunks of varying size, the mean of a chunk is one step of the middle layers, and each
character is written from the newest chunk behind it. The predictor is trained end to end by
sampling ends (Gumbel), or supervised: by a tokenizer's pieces, by spikes of the model's own
entropy.

    characters ── 2 layers ── h [B, L, D] ── mean of each chunk, LayerNorm ── [B, S, D]
                              │              a learned vector first           8 layers
    characters ── 2 layers ── h_t + s of the newest chunk ──────────────────── s

    logit_t = w2 gelu(W1 h_t)                       the boundary predictor
    y_t     = sigmoid((logit_t + log u - log(1 - u)) / temperature)
    end_t   = 1[y_t > 1/2]                          straight through (Gumbel)
    s_m     = sum_t w_t h_t / sum_t w_t             w_t = 1 + c_t - stop(c_t)
    c_t     = ends before t in its own chunk
    loss    = likelihood - log Binomial(ends; decisions, prior) / decisions      (Gumbel)
              likelihood + cross-entropy of given ends                           (Predicted)

In the core: the pool `hlm.pool.Mean`, the unpool `hlm.unpool.Broadcast`, Transformer-XL's
attention in hlm/nn/relative.py. The first element of a document ends a chunk by convention and is
no decision: it counts nowhere, and gets no gradient.

Where the released code differs: it samples ends in evaluation too (here the likelier decision is
taken); it takes the predictor's probability for a logit in its cross-entropy
(`Predicted.squashed`). Its w_t sums over all earlier ends; what those before the chunk add to the
gradient is zero but for rounding, and is left out here.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from hlm.auxiliary import Aux
from hlm.metrics import Mean, mean_of_rows
from hlm.model.objective import Objective, Seen
from hlm.model.segment import Segmenter
from hlm.nn.basic import MASKED, Linear
from hlm.seq import Batch, Seq, prefix_noise

Array = jax.Array


@struct.dataclass
class EndLogits:
    """Boundary logits, for the objective that a segmenter learns from; float32 and bool [B, L]."""

    logit_BL: Array  # of an end
    decided_BL: Array  # an end is a decision here
    remedy: ClassVar[str] = "give for example hlm.dynamic_pooling.Spikes() or GivenEnds()"


class BoundaryPredictor(nn.Module):
    """A layer of `width` GELUs and the logit of an end for each element; float32 [B, L]."""

    width: int

    @nn.compact
    def __call__(self, h_BLD: Array) -> Array:
        inner = Linear(self.width, bias=True, name="in")(h_BLD.astype(jnp.float32))
        return Linear(1, bias=True, name="out")(jax.nn.gelu(inner, approximate=False))[..., 0]


def decided(seq: Seq) -> Array:
    """Elements at which an end is a decision; bool [B, L]."""
    return (seq.doc > 0) & (seq.pos > 0)


class Gumbel(Segmenter):
    """Sampled segmenter: ends are drawn (relaxed Bernoulli, straight-through), about `prior` of all
    elements.

    The share is held by a binomial likelihood, "loss/prior". Without the generator "boundary" the
    likelier decision is taken.
    """

    width: int
    prior: float = 0.2
    temperature: float = 0.5
    learned: ClassVar[bool] = True

    @property
    def target_size(self) -> float:
        return 1 / self.prior

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, Array, Aux]:
        logit_BL = BoundaryPredictor(self.width, name="end")(h_BLD)
        if self.has_rng("boundary"):
            tiny = jnp.finfo(jnp.float32).eps
            u_BL = jnp.clip(self.uniform(seq), tiny, 1 - tiny)
            logit_BL = logit_BL + jnp.log(u_BL) - jnp.log1p(-u_BL)
        soft_BL = jax.nn.sigmoid(logit_BL / self.temperature)
        ends_BL = soft_BL > 0.5
        hard_BL, free_BL = ends_BL.astype(jnp.float32), decided(seq)
        # What decides nothing has no gradient at all: post-norm layers over an all-zero BOS would
        # make much of a rounding error.
        prob_BL = jnp.where(free_BL, hard_BL + (soft_BL - jax.lax.stop_gradient(soft_BL)), hard_BL)
        return ends_BL, prob_BL, Aux(losses={"loss/prior": self.surprise(prob_BL, free_BL)})

    def uniform(self, seq: Seq) -> Array:
        """The noise: uniform in 0..1, [B, L]."""
        return prefix_noise(self.make_rng("boundary"), seq)

    def surprise(self, prob_BL: Array, free_BL: Array) -> Mean:
        """-log Binomial(ends; decisions, prior) of each row, per decision."""
        n_B = jnp.sum(free_BL, axis=1, dtype=jnp.float32)
        k_B = jnp.sum(jnp.where(free_BL, prob_BL, 0.0), axis=1)
        ways_B = jax.lax.lgamma(n_B + 1) - jax.lax.lgamma(k_B + 1) - jax.lax.lgamma(n_B - k_B + 1)
        likelihood_B = ways_B + k_B * np.log(self.prior) + (n_B - k_B) * np.log1p(-self.prior)
        return Mean(
            jnp.sum(-likelihood_B / jnp.maximum(n_B, 1.0)), jnp.asarray(n_B.shape[0], jnp.float32)
        )


class Predicted(Segmenter):
    """Supervised segmenter: ends where they are likelier than not; the likelihood of text has no
    say.

    It learns from an objective such as `Spikes` or `GivenEnds`. `squashed`: as the released code,
    which takes the probability for a logit in its loss, so that it predicts an end only where the
    true share is above 62 %.
    """

    width: int
    squashed: bool = False
    learned: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Aux]:
        logit_BL = BoundaryPredictor(self.width, name="end")(h_BLD)
        learned_BL = jax.nn.sigmoid(logit_BL) if self.squashed else logit_BL
        return logit_BL > 0, None, Aux(left=(EndLogits(learned_BL, decided(seq)),))


@dataclasses.dataclass(frozen=True)
class Spikes(Objective):
    """Entropy-spike supervision: cross-entropy of ends at spikes of the model's own entropy.

    An end is given where the model is less sure of the next symbol than at each of the `window`
    elements before.
    """

    window: int = 2
    takes: ClassVar[type] = EndLogits

    @property
    def target_size(self) -> float:
        return self.window + 1  # one of so many numbers is the largest

    def losses(self, seen: Seen) -> Aux:
        sure_BL = negentropy(seen.logits(seen.y_BLD)[:, :, 0])
        (found,) = seen.aux.all(EndLogits)
        free_BL, doc_BL = found.decided_BL, seen.batch.doc
        spike_BL = free_BL
        for i in range(1, self.window + 1):
            before = (
                jnp.pad(a, ((0, 0), (i, 0)))[:, : a.shape[1]] for a in (sure_BL, free_BL, doc_BL)
            )
            sure_before_BL, was_free_BL, doc_before_BL = before
            spike_BL &= ~was_free_BL | (doc_before_BL != doc_BL) | (sure_BL < sure_before_BL)
        return Aux(losses={"loss/examples": end_loss(found, spike_BL, self.weight(seen))})


@dataclasses.dataclass(frozen=True)
class GivenEnds(Objective):
    """Boundary supervision by the data: cross-entropy of ends that the codec's labels give.

    Such as those of `hlm.subwords.Pieces`.
    """

    takes: ClassVar[type] = EndLogits

    def check(self, model) -> None:
        if getattr(model.codec, "labels", None) is None:
            raise ValueError(
                "model.codec.labels: none, but the objective GivenEnds learns from them; give "
                "for example hlm.subwords.Pieces"
            )

    def given_ends(self, batch: Batch) -> Array:
        return batch.label > 0

    def losses(self, seen: Seen) -> Aux:
        if seen.batch.label is None:
            raise ValueError("labels: a batch for the objective GivenEnds needs the field `label`")
        (found,) = seen.aux.all(EndLogits)
        return Aux(
            losses={
                "loss/examples": end_loss(found, self.given_ends(seen.batch), self.weight(seen))
            }
        )


def negentropy(logits: Array) -> Array:
    """Negentropy: how far the entropy lies below that of an even guess, nats. Masked symbols do not
    count.

    Early in training that difference is all there is to compare: entropies themselves are equal in
    all digits of float32.
    """
    known = logits > MASKED / 2
    count = jnp.sum(known, axis=-1, keepdims=True, dtype=jnp.float32)
    # log(p * count), up to rounding
    z = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True) + jnp.log(count)
    off = jnp.sum(jnp.expm1(z), axis=-1, keepdims=True, where=known) / count  # that rounding
    return (
        jnp.sum(jnp.exp(z) * z, axis=-1, where=known) / (count * (1 + off))[..., 0]
        - jnp.log1p(off)[..., 0]
    )


def end_loss(found: EndLogits, ends_BL: Array, weight: Array | float = 1.0) -> Mean:
    """Cross-entropy of given ends, over the decisions."""
    nll_BL = jax.nn.softplus(found.logit_BL) - jnp.where(ends_BL, found.logit_BL, 0.0)
    return mean_of_rows(weight * nll_BL, found.decided_BL.astype(jnp.float32))
