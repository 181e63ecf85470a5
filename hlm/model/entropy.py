"""Chunks end where the next symbol is hard to guess, in the judgement of a small frozen language model (BLT, section 2.3)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.metrics import Metrics, ratio
from hlm.model.lm import LM
from hlm.nn.memory import Ring
from hlm.seq import Seq

Array = jax.Array


class Entropy(nn.Module):
    """Element t ends a chunk if the entropy of p(next | elements up to t) exceeds `threshold` nats.

    `frozen` is a flat model over the same symbols. Its parameters lie under that name, and nothing under that name is ever trained.
    `longest`: a chunk ends after so many elements at the latest, counted from the last end by entropy.
    """

    frozen: LM
    threshold: float
    longest: int | None = None
    learned: ClassVar[bool] = False

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Metrics]:
        entropy_BL = jax.lax.stop_gradient(next_entropy(self.frozen, seq))
        real_BL = seq.doc > 0
        metrics = {"entropy": ratio(jnp.where(real_BL, entropy_BL, 0.0), real_BL)}
        if seq.stream is None:
            return peaks(entropy_BL, seq, self.threshold, self.longest), None, metrics
        ring = Ring(self, "since", 1 + seq.stream.back, seq.pos)
        since_BL = since_peak(entropy_BL, seq, self.threshold, ring.read(seq.pos[:, :1] - 1) if seq.begun else None)
        ring.write(since_BL, seq.pos, real_BL)
        return every(since_BL, self.longest), None, metrics


def next_entropy(lm: LM, seq: Seq) -> Array:
    """Entropy in nats of a bound model's prediction after each element; [B, L] float32."""
    log_p_BLV = jax.nn.log_softmax(lm.heads(lm.read(seq)[0], lm.codec.predicted)[:, :, 0], axis=-1)
    return -jnp.sum(jnp.exp(log_p_BLV) * log_p_BLV, axis=-1)


def peaks(entropy_BL: Array, seq: Seq, threshold: float, longest: int | None = None) -> Array:
    """Where the entropy exceeds the threshold, the first element of each document, and every `longest` elements after those."""
    return every(since_peak(entropy_BL, seq, threshold), longest)


def since_peak(entropy_BL: Array, seq: Seq, threshold: float, before_B1: Array | None = None) -> Array:
    """How many elements ago the entropy exceeded the threshold or the document began; `before`: for the element before the row."""
    peak_BL = (entropy_BL > threshold) | (seq.pos == 0)
    i_BL = jnp.broadcast_to(jnp.arange(peak_BL.shape[1], dtype=jnp.int32)[None], peak_BL.shape)
    none_BL = 0 if before_B1 is None else -1 - before_B1
    return i_BL - jax.lax.cummax(jnp.where(peak_BL, i_BL, none_BL), axis=1)


def every(since_BL: Array, longest: int | None) -> Array:
    return since_BL == 0 if longest is None else since_BL % longest == 0


def threshold_for(entropies: np.ndarray, size: float) -> float:
    """The threshold at which chunks have `size` elements on average, from the entropies after the elements of some text."""
    if size < 1:
        raise ValueError(f"size: {size} elements in a chunk, but the least is 1")
    return float(np.quantile(entropies, 1 - 1 / size))
