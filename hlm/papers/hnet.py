"""H-Net: dynamic chunking, learned end to end (Hwang, Wang & Gu 2025, arXiv 2507.07955).

The idea (section 2): a routing module cuts where neighbouring vectors differ. Its decisions are
hard, but the chunks' vectors are averaged over the sequence with the router's confidence as
weight, so that an unsure cut blurs into the chunk before it and gradients reach the router; a
ratio loss holds the share of cuts. Levels nest.

    h [B, L, D] ── select at ends ── widen by a learned vector ── [B, S, E] ── main network ── z
    y_t    = (W h_t + b) + zbar_(newest chunk) * 1
    zbar_s = p_s z_s + (1 - p_s) zbar_(s-1)

    p_t  = (1 - cos(Wq h_(t-1), Wk h_t)) / 2,  end_t = 1[p_t > 1/2],  p_0 = 1
    1    = c_t + stop(1 - c_t) with c_t = max(p_t, 1 - p_t): straight-through confidence
    loss = likelihood + loss_weight * N / (N - 1) * ((N - 1) F G + (1 - F)(1 - G))

    F: share of ends, G: mean of p, N: elements in a chunk that are aimed at

In the core: the mixer `hlm.Mamba2`. Where the released code differs: kernels in bfloat16; its
ratio loss is per device.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.metrics import ratio
from hlm.model.pool import Pool
from hlm.model.segment import Segmenter
from hlm.model.unpool import Unpool
from hlm.nn.basic import at_each, uniform, weight, zeros
from hlm.nn.kv_cache import CACHE, Ring, with_left_context
from hlm.nn.projection import project
from hlm.nn.recurrence import linear_recurrence
from hlm.seq import Boundaries, Seq, take

Array = jax.Array
SURE = 1e-4  # probabilities stay this far from 0 and 1 in the moving average


class Router(Segmenter):
    """Routing segmenter: ends where the projections of an element and of the one before it point
    apart. Float32.

    The loss `loss/ratio`, weighted by `loss_weight`, is least where one of every `target` elements
    ends a chunk. It is a product of two means over the batch, as published, so that of several
    micro-batches is the mean of theirs and not that of the whole.
    """

    target: float = 6.0
    loss_weight: float = 0.03
    learned: ClassVar[bool] = True
    whole_batch: ClassVar[str | None] = "the ratio loss is a product of two means over the batch"

    @property
    def target_size(self) -> float:
        return self.target

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, Array, Aux]:
        if self.target <= 1:
            raise ValueError(
                f"Router.target: {self.target} elements in a chunk; it must be more than 1"
            )
        D = h_BLD.shape[-1]
        h_BMD = with_left_context(self, "before", h_BLD.astype(jnp.float32), seq, 1)
        q_BMD = unit(project(h_BMD, weight(self, "q_kernel", (D, D), init=identity)))
        k_BMD = unit(project(h_BMD, weight(self, "k_kernel", (D, D), init=identity)))
        alike_BL = jnp.sum(q_BMD[:, :-1] * k_BMD[:, 1:], axis=-1)
        p_BL = jnp.where(seq.pos == 0, 1.0, jnp.clip((1 - alike_BL) / 2, 0.0, 1.0))
        ends_BL, real_BL = p_BL > 0.5, seq.doc > 0
        count = jnp.sum(real_BL, dtype=jnp.float32)
        ended, hoped = (
            jnp.sum(a, where=real_BL, dtype=jnp.float32) / jnp.maximum(count, 1.0)
            for a in (ends_BL, p_BL)
        )
        loss = self.loss_weight * balance(ended, hoped, self.target)
        aux = Aux(
            {"end_probability": ratio(hoped * count, count)},
            {"loss/ratio": ratio(loss * count, count)},
        )
        return ends_BL, p_BL, aux


def balance(ended: Array, hoped: Array, target: float) -> Array:
    """The ratio loss, of the share of elements that end a chunk and of their mean probability: 1
    where both are 1 / target.
    """
    return target / (target - 1) * ((target - 1) * ended * hoped + (1 - ended) * (1 - hoped))


class Widen(Pool):
    """Selection pool: the element that ends the chunk, followed by a learned vector up to
    `width`.
    """

    width: int
    reach: ClassVar[int | None] = 1

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        z_BSD = take(h_BLD, b.at)
        more = self.width - z_BSD.shape[-1]
        if more < 0:
            raise ValueError(
                f"width: {self.width} is less than the {z_BSD.shape[-1]} of the level below"
            )
        if not more:
            return z_BSD
        pad = weight(self, "pad_bias", (more,), init=zeros)
        like = jax.ShapeDtypeStruct((*z_BSD.shape[:2], more), z_BSD.dtype)
        return jnp.concatenate([z_BSD, at_each(pad, like)], axis=-1)


class Smooth(Unpool):
    """Smoothing unpool: the chunks' vectors, averaged over the document with the weight p of each
    cut; the newest everywhere.

    The output is multiplied by 1, whose gradient is that of the router's confidence. The skip is
    projected and starts at zero. Float32.
    """

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        if b.prob is None:
            raise ValueError(
                "unpool: Smooth needs a segmenter that gives probabilities, such as Router"
            )
        D = skip_BLD.shape[-1]
        p_BS = jnp.clip(take(b.prob, b.at), SURE, 1 - SURE)
        keep_BS = jnp.where(b.first, 0.0, 1 - p_BS)  # nothing comes before a document
        x_BSD = p_BS[..., None] * z_BSE[..., :D].astype(jnp.float32)
        if b.decoding is None:
            z_BSD = linear_recurrence(keep_BS, x_BSD)
        else:
            ring = self.variable(CACHE, "smoothed", Ring.empty, 1 + b.decoding.rewind, x_BSD)
            if not b.decoding.prefill:  # the first chunk is the newest of those before
                x_BSD = x_BSD.at[:, :1].set(ring.value.read(b.number[:, :1]))
                keep_BS = keep_BS.at[:, 0].set(0.0)
            z_BSD = linear_recurrence(keep_BS, x_BSD)
            ring.value = ring.value.write(z_BSD, b.number, b.used)
        sure_BL = jnp.maximum(b.prob, 1 - b.prob)
        one_BL = 1 + (sure_BL - jax.lax.stop_gradient(sure_BL))
        rest_BLD = project(skip_BLD.astype(jnp.float32), weight(self, "kernel", (D, D), init=zeros))
        rest_BLD = rest_BLD + weight(self, "bias", (D,), init=uniform(D**-0.5))[None, None]
        return (take(z_BSD, b.seen) * one_BL[..., None] + rest_BLD).astype(skip_BLD.dtype)


def unit(x: Array) -> Array:
    """x / |x| along the last axis; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def identity(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jnp.eye(*shape, dtype=dtype)
