"""From likelihoods to one number to minimise, and the statistics every run reports."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from hlm.metrics import Metrics, ratio
from hlm.model.lm import LM
from hlm.model.masked import MaskedLM
from hlm.seq import Batch

Array = jax.Array
AUXILIARY = "loss/"  # a part's metric under this name (at any level) is added to the loss


def head_weight(model: LM | MaskedLM, batch: Batch, key: Array | None = None) -> Array:
    """Number of symbols that each head is to predict [N]; known before the forward pass, so micro-batches add up exactly."""
    targets: Any = model.apply({}, batch, method="targets", rngs=noise(key))
    return jnp.sum(targets[1], axis=(0, 1))


def noise(key: Array | None) -> dict[str, Array]:
    """The generators of a model; without a key it has none."""
    return {} if key is None else {"boundary": key, "mask": key}


def loss_and_metrics(
    model: LM | MaskedLM, params: dict, batch: Batch, total_weight_N: Array, share: float, key: Array | None
) -> tuple[Array, Metrics]:
    """This (micro-)batch's part of the loss, in nats per symbol, and its metrics.

    Head i contributes its mean over `total_weight_N[i]` symbols of the whole batch; auxiliary losses of parts count by `share`, this
    micro-batch's part of the step. `key` is that of learned boundaries and of masks; None: no noise.
    """
    out: Any = model.apply({"params": params}, batch, rngs=noise(key))
    nll_N = jnp.sum(out.nll_BLN * out.weight_BLN, axis=(0, 1))
    weights_N = jnp.asarray(model.loss_weights)
    loss = jnp.sum(weights_N * nll_N / jnp.maximum(total_weight_N, 1.0))
    auxiliary = [m.total / jnp.maximum(m.weight, 1e-30) for name, m in out.metrics.items() if AUXILIARY in f"/{name}"]
    loss = loss + share * sum(auxiliary, jnp.zeros(()))
    scored_BL = out.weight_BLN[:, :, 0]
    nbytes_BL = out.nbytes_BL.astype(jnp.float32)
    text_BL = jnp.where((batch.doc > 0) & (batch.weight > 0), batch.nbytes, 0)
    metrics = {
        **out.metrics,
        "loss": ratio(out.nll_BLN[:, :, 0] * scored_BL, scored_BL),
        model.bits: ratio(out.nll_BLN[:, :, 0] * scored_BL / math.log(2), nbytes_BL),
        model.accuracy: ratio(out.hit_BL & (nbytes_BL > 0), nbytes_BL > 0),
        "bytes_per_row": ratio(text_BL, jnp.ones(batch.doc.shape[:1])),
        "padding": ratio(batch.doc == 0, jnp.ones(batch.doc.shape)),
    }
    for i in range(1, len(weights_N)):
        metrics[f"loss_ahead_{i + 1}"] = ratio(out.nll_BLN[:, :, i] * out.weight_BLN[:, :, i], out.weight_BLN[:, :, i])
    return loss, metrics
