"""Past the backbone: a small module that guesses its next output, and so drafts the bytes of the chunk after next.

The sequential multi-token prediction of DeepSeek-V3 (arXiv 2412.19437, section 2.2), for chunks in place of tokens; the byte decoder is
what both predictions share.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import Linear, Norm, RMSNorm
from hlm.seq import Seq

Array = jax.Array
# Metric from a Hierarchy to its LM: `total` [B, L, D] is the decoder's output under the shortcut, `weight` its share of the loss.
PAST_BACKBONE = "past_backbone"


class Shortcut(nn.Module):
    """The backbone's output for a chunk, from its output for the chunk before and the chunk's own vector: trunk(W [norm y, norm z]).

    `loss_weight`: of "loss/shortcut", the likelihood of what the decoder predicts from it.
    """

    trunk: nn.Module
    loss_weight: float = 0.1
    norm: Norm = dataclasses.field(default_factory=RMSNorm)

    @nn.compact
    def __call__(self, before_BSE: Array, z_BSE: Array, seq: Seq) -> Array:
        both_BSF = jnp.concatenate([self.norm(self, before_BSE, "before"), self.norm(self, z_BSE, "chunk")], axis=-1)
        return self.trunk(Linear(before_BSE.shape[-1], name="linear")(both_BSF), seq, None)[0]


def shifted(y_BSE: Array, first_BS: Array) -> Array:
    """The output for the chunk before each; zero for the first of a document."""
    return jnp.where(first_BS[:, :, None], 0, jnp.pad(y_BSE[:, :-1], ((0, 0), (1, 0), (0, 0))))
