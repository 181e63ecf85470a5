"""Token shift: half of what a layer reads comes from the element before (RWKV, Peng et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import Norm, RMSNorm
from hlm.nn.memory import preceded
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
        group_BM = preceded(self, "group_before", group_BL, seq, 1, fill=-1)
        shifted = shift(preceded(self, "mixer_before", x_BLD, seq, 1), group_BM)
        x_BLD = x_BLD + self.mixer(self.norm(self, shifted, "mixer"), seq, group_BL)
        shifted = shift(preceded(self, "mlp_before", x_BLD, seq, 1), group_BM)
        x_BLD = x_BLD + self.mlp(self.norm(self, shifted, "mlp"))
        return constrain(x_BLD, "batch", None, None)


def shift(x_BMD: Array, group_BM: Array) -> Array:
    """The second half of the entries is that of the element before, zero at the first of a group. [B, 1 + L, D] -> [B, L, D]."""
    first_BL = group_BM[:, 1:] != group_BM[:, :-1]
    now, before = jnp.split(x_BMD, [x_BMD.shape[-1] - x_BMD.shape[-1] // 2], axis=-1)
    return jnp.concatenate([now[:, 1:], jnp.where(first_BL[:, :, None], 0, before[:, :-1])], axis=-1)
