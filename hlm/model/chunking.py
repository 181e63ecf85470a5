"""Dynamic chunking: cut where neighbouring vectors differ, smooth the chunks by how sure the cuts are (H-Net, Hwang et al. 2025)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.metrics import Metrics, ratio
from hlm.nn.basic import uniform, weight, zeros
from hlm.nn.memory import Ring, preceded
from hlm.nn.recurrence import average
from hlm.seq import Boundaries, Seq, take

Array = jax.Array
SURE = 1e-4  # probabilities stay this far from 0 and 1 in the moving average


class Router(nn.Module):
    """Ends where the projected vectors of an element and the one before it point apart: p = (1 - cosine) / 2 > 1/2. Float32.

    The loss `loss/ratio`, weighted by `loss_weight`, is least where one element of `target` ends a chunk. It is a product of two means
    over the batch, as published, so that of several micro-batches is the mean of theirs and not that of the whole.
    """

    target: float = 6.0
    loss_weight: float = 0.03
    learned: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, Array, Metrics]:
        if self.target <= 1:
            raise ValueError(f"Router.target: {self.target} elements in a chunk; it must be more than 1")
        D = h_BLD.shape[-1]
        h_BMD = preceded(self, "before", h_BLD.astype(jnp.float32), seq, 1)
        q_BMD = unit(h_BMD @ weight(self, "q_kernel", (D, D), init=identity))
        k_BMD = unit(h_BMD @ weight(self, "k_kernel", (D, D), init=identity))
        alike_BL = jnp.sum(q_BMD[:, :-1] * k_BMD[:, 1:], axis=-1)
        p_BL = jnp.where(seq.pos == 0, 1.0, jnp.clip((1 - alike_BL) / 2, 0.0, 1.0))
        ends_BL, real_BL = p_BL > 0.5, seq.doc > 0
        count = jnp.sum(real_BL, dtype=jnp.float32)
        ended, hoped = (jnp.sum(a, where=real_BL, dtype=jnp.float32) / jnp.maximum(count, 1.0) for a in (ends_BL, p_BL))
        loss = self.loss_weight * balance(ended, hoped, self.target)
        return ends_BL, p_BL, {"loss/ratio": ratio(loss * count, count), "end_probability": ratio(hoped * count, count)}


def balance(ended: Array, hoped: Array, target: float) -> Array:
    """The ratio loss, of the share of elements that end a chunk and of their mean probability: 1 where both are 1 / target."""
    return target / (target - 1) * ((target - 1) * ended * hoped + (1 - ended) * (1 - hoped))


class Widen(nn.Module):
    """The element that ends the chunk, followed by a learned vector up to `width`."""

    width: int
    reach: ClassVar[int | None] = 1

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        z_BSD = take(h_BLD, b.at)
        more = self.width - z_BSD.shape[-1]
        if more < 0:
            raise ValueError(f"width: {self.width} is less than the {z_BSD.shape[-1]} of the level below")
        if not more:
            return z_BSD
        pad = weight(self, "pad_bias", (more,), init=zeros).astype(z_BSD.dtype)
        return jnp.concatenate([z_BSD, jnp.broadcast_to(pad[None, None], (*z_BSD.shape[:2], more))], axis=-1)


class Smooth(nn.Module):
    """The first D entries of the chunks' vectors, averaged over the document with the weight p of each cut; the newest one everywhere.

    The output is multiplied by 1, whose gradient is that of the router's confidence. The skip is projected and starts at zero. Float32.
    """

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        if b.prob is None:
            raise ValueError("unpool: Smooth needs a segmenter that gives probabilities, such as Router")
        D = skip_BLD.shape[-1]
        p_BS = jnp.clip(take(b.prob, b.at), SURE, 1 - SURE)
        keep_BS = jnp.where(b.first, 0.0, 1 - p_BS)  # nothing comes before a document
        x_BSD = p_BS[..., None] * z_BSE[..., :D].astype(jnp.float32)
        if b.stream is None:
            z_BSD = average(keep_BS, x_BSD)
        else:
            ring = Ring(self, "smoothed", 1 + b.stream.back, x_BSD)
            if not b.stream.fresh:  # the first chunk is the newest of those before
                keep_BS, x_BSD = keep_BS.at[:, 0].set(0.0), x_BSD.at[:, :1].set(ring.read(b.number[:, :1]))
            z_BSD = average(keep_BS, x_BSD)
            ring.write(z_BSD, b.number, b.used)
        sure_BL = jnp.maximum(b.prob, 1 - b.prob)
        one_BL = 1 + (sure_BL - jax.lax.stop_gradient(sure_BL))
        rest_BLD = skip_BLD.astype(jnp.float32) @ weight(self, "kernel", (D, D), init=zeros)
        rest_BLD = rest_BLD + weight(self, "bias", (D,), init=uniform(D**-0.5))[None, None]
        return (take(z_BSD, b.seen) * one_BL[..., None] + rest_BLD).astype(skip_BLD.dtype)


def unit(x: Array) -> Array:
    """x / |x| along the last axis; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def identity(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jnp.eye(*shape, dtype=dtype)
