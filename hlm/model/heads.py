"""Heads: from the last hidden state to the next symbols, and their negative log-likelihoods.
Float32 throughout.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.nn.basic import MASKED, weight, zeros
from hlm.nn.projection import project
from hlm.seq import Batch

Array = jax.Array


@runtime_checkable
class Readout(Protocol):
    """What an LM asks of its heads; `Heads`, or heads that wrap them."""

    @property
    def ahead(self) -> int: ...  # symbols that are predicted at each element

    def __call__(
        self, y_BLD: Array, predicted: np.ndarray, target_BLN: Array | None = None, /
    ) -> Any: ...


class Heads(nn.Module):
    """Multi-token prediction heads: `ahead` linear ones, of which head i predicts the symbol i
    steps on (Gloeckle et al. 2024).

    Head 1 is that of the next symbol; the objective `Ahead` trains the others. `block`: positions
    whose logits are held at once (large vocabularies). `bias`: one for each symbol. `std`: of the
    initial weights; None: width^-0.5.
    """

    ahead: int = 1
    block: int | None = None
    bias: bool = False
    std: float | None = None

    @nn.compact
    def __call__(self, y_BLD: Array, predicted: np.ndarray, target_BLN: Array | None = None) -> Any:
        """Without targets: logits [B, L, N, V]. With targets: (nll_BLN in nats, hit_BL: head 1's
        best guess is right).
        """
        head_DNV = weight(
            self, "head", (y_BLD.shape[-1], self.ahead, len(predicted)), init=self.std
        )
        bias_NV = (
            weight(self, "bias", (self.ahead, len(predicted)), init=zeros) if self.bias else None
        )

        def logits(y: Array) -> Array:
            out = project(y, head_DNV, dtype=jnp.float32)
            out = out if bias_NV is None else out + bias_NV[None, None]
            return jnp.where(jnp.asarray(predicted)[None, None, None], out, MASKED)

        def score(y: Array, target: Array) -> tuple[Array, Array]:
            out = logits(y)
            chosen = jnp.take_along_axis(out, target[..., None], axis=-1, mode="clip")[..., 0]
            return jax.nn.logsumexp(out, axis=-1) - chosen, jnp.argmax(
                out[:, :, 0], axis=-1
            ) == target[:, :, 0]

        if target_BLN is None:
            return logits(y_BLD)
        L = y_BLD.shape[1]
        if self.block is None or self.block >= L:
            return score(y_BLD, target_BLN)
        if L % self.block:
            raise ValueError(f"block: {self.block} does not divide the row length {L}")

        def cut(a: Array) -> Array:  # [B L ...] -> [L/block B block ...]
            return jnp.moveaxis(a.reshape(a.shape[0], -1, self.block, *a.shape[2:]), 1, 0)

        parts = jax.lax.map(
            lambda part: jax.checkpoint(score)(*part), (cut(y_BLD), cut(target_BLN))
        )
        return jax.tree.map(
            lambda a: jnp.moveaxis(a, 0, 1).reshape(a.shape[1], L, *a.shape[3:]), parts
        )


def targets_ahead(batch: Batch, ahead: int) -> tuple[Array, Array]:
    """The symbols 1..ahead steps on, and their weights: zero where that symbol belongs to another
    document. [B, L, N].
    """
    target, weights = [], []
    L = batch.doc.shape[1]
    for i in range(ahead):
        # Not a roll: a target never wraps around the row, and never crosses a document.
        later = [
            jnp.pad(a[:, i:], ((0, 0), (0, i))) for a in (batch.target, batch.weight, batch.doc)
        ]
        same_BL = (later[2] == batch.doc) & (batch.doc > 0) & (jnp.arange(L) < L - i)[None]
        target.append(later[0])
        weights.append(jnp.where(same_BL, later[1], 0.0))
    return jnp.stack(target, -1), jnp.stack(weights, -1)
