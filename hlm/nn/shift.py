"""Token shift: half of what a layer reads comes from the element before (RWKV, Peng et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import Norm, RMSNorm
from hlm.seq import Seq
from hlm.sharding import constrain

Array = jax.Array


class ShiftBlock(nn.Module):
    """Pre-norm residual block whose mixer and feed-forward read the shifted stream (MEGABYTE-pytorch)."""

    mixer: nn.Module
    mlp: nn.Module
    norm: Norm = dataclasses.field(default_factory=RMSNorm)

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        x_BLD = x_BLD + self.mixer(self.norm(self, shift(x_BLD, group_BL), "mixer"), seq, group_BL)
        x_BLD = x_BLD + self.mlp(self.norm(self, shift(x_BLD, group_BL), "mlp"))
        return constrain(x_BLD, "batch", None, None)


def shift(x_BLD: Array, group_BL: Array) -> Array:
    """The second half of the entries is that of the element before, zero at the first of a group."""
    first_BL = jnp.pad(group_BL[:, 1:] != group_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    now, before = jnp.split(x_BLD, [x_BLD.shape[-1] - x_BLD.shape[-1] // 2], axis=-1)
    before = jnp.pad(before[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.concatenate([now, jnp.where(first_BL[:, :, None], 0, before)], axis=-1)
