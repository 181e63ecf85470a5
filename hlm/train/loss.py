"""From likelihoods to one number to minimise, and the statistics every run reports."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from hlm.metrics import Metrics, ratio
from hlm.model.lm import Model
from hlm.model.objective import Step
from hlm.seq import Batch

Array = jax.Array


def head_weight(model: Model, batch: Batch, key: Array | None = None) -> Array:
    """Weight of the targets of each head [N]; known before the forward pass, so micro-batches add
    up exactly.
    """
    targets: Any = model.apply({}, batch, method="targets", rngs=noise(key))
    return jnp.sum(targets[1], axis=(0, 1))


def noise(key: Array | None) -> dict[str, Array]:
    """The random generators of a model (`rngs` of linen); without a key it has none."""
    return {} if key is None else {"boundary": key, "mask": key}


def loss_and_metrics(
    model: Model,
    params: Any,
    batch: Batch,
    step: Step | None,
    share: Array | float,
    key: Array | None,
) -> tuple[Array, Metrics]:
    """This (micro-)batch's part of the loss, in nats per symbol, and its metrics.

    The likelihood of the next symbol is divided by what the whole batch has to predict, which is
    `step.count_N[0] / share`; other losses are means, which count by `share`, this micro-batch's
    part of the step.
    `step` None: evaluation, of a batch by itself. `key` is that of learned boundaries and of masks;
    None: no noise.
    """
    out: Any = model.apply({"params": params}, batch, step, rngs=noise(key))
    nll_BL, scored_BL = out.nll_BLN[:, :, 0], out.weight_BLN[:, :, 0]
    count = jnp.sum(scored_BL) if step is None else step.count_N[0] / share
    loss = jnp.sum(nll_BL * scored_BL) / jnp.maximum(count, 1.0)
    others = [m.total / jnp.maximum(m.weight, 1e-30) for m in out.losses.values()]
    loss = loss + share * sum(others, jnp.zeros(()))
    nbytes_BL = out.nbytes_BL.astype(jnp.float32)
    text_BL = jnp.where((batch.doc > 0) & (batch.weight > 0), batch.nbytes, 0)
    metrics = {
        **out.metrics,
        "loss": ratio(nll_BL * scored_BL, scored_BL),
        model.bits: ratio(nll_BL * scored_BL / math.log(2), nbytes_BL),
        model.accuracy: ratio(out.hit_BL & (nbytes_BL > 0), nbytes_BL > 0),
        "bytes_per_row": ratio(text_BL, jnp.ones(batch.doc.shape[:1])),
        "padding": ratio(batch.doc == 0, jnp.ones(batch.doc.shape)),
    }
    return loss, metrics
