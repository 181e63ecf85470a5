"""A decoder that says where its chunk ends, so that it can write a whole chunk before encoder and backbone run again.

Toucan (Fleshman & Van Durme 2023, arXiv 2311.08620). In its words: an end-of-token symbol stands before every boundary character.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.metrics import Mean, Metrics
from hlm.model.heads import Heads
from hlm.model.predicted import mean_of_rows
from hlm.nn.attention import MASKED
from hlm.nn.basic import normal, weight
from hlm.nn.cross import Memory
from hlm.nn.memory import preceded
from hlm.seq import Seq, take
from hlm.vocab import EOW

Array = jax.Array
# Metric [B, L] from the decoder to the heads: `total` is 1 where the next element ends a chunk, `weight` where the row has that element.
ENDING = "ending"


class EndSlots(nn.Module):
    """A decoder with a slot behind every element: the newest chunk's vector and a learned one. Its output is [B, L, 2, D].

    If the next element ends a chunk, the slot is the end-of-token symbol, which later elements see; otherwise it is only what would be
    if it did, and no element sees it. So outputs at t follow from elements up to t alone. Needs Hierarchy.guide=Guide(1, ...) and
    LM.heads=EndHeads(...); attention is the only mixer that can leave slots out.
    """

    trunk: nn.Module
    local: ClassVar[bool] = False  # as Stack.local

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array, memory: Memory) -> tuple[Array, Metrics]:
        B, L, D = x_BLD.shape
        stop_D = weight(self, "stop", (D,), init=normal(1.0)).astype(x_BLD.dtype)
        slot_BLD = take(memory.slots_BSND[:, :, 0], memory.seen_BL) + stop_D[None, None]

        # Behind the last element that was read before stands a slot of which it was not known whether a chunk ends there.
        again = int(seq.begun)
        before_BMD, group_BM = (preceded(self, n, a, seq, 1) for n, a in (("slot", slot_BLD), ("group", group_BL)))

        def both(at: Array, behind: Array, before: Array) -> Array:  # [B L ...] -> [B again + 2L ...]
            pairs = jnp.stack([at, behind], axis=2).reshape(B, 2 * L, *at.shape[2:])
            return jnp.concatenate([before[:, :again], pairs], axis=1)

        known_BL = jnp.pad((seq.doc[:, 1:] == seq.doc[:, :-1]) & (seq.doc[:, 1:] > 0), ((0, 0), (0, 1)))
        next_BM = group_BM[:, 1:] != group_BM[:, :-1]  # before each element
        next_BL = known_BL & jnp.pad(next_BM[:, 1:], ((0, 0), (0, 1)))
        eow_BL, stream = jnp.full_like(seq.token, EOW), seq.stream
        twice = Seq(
            token=both(seq.token, eow_BL, eow_BL),
            doc=both(seq.doc, seq.doc, seq.doc),
            pos=both(2 * seq.pos, 2 * seq.pos + 1, 2 * seq.pos - 1),
            level=both(seq.level, seq.level, seq.level),
            shared=seq.shared,
            stream=None if stream is None else stream.longer(3, 2 * stream.room[0]),
            hidden=both(jnp.zeros_like(next_BL), ~next_BL, ~next_BM),
        )
        y_BMD, metrics = self.trunk(both(x_BLD, slot_BLD, before_BMD), twice, None)
        ending = Mean(next_BL.astype(jnp.float32), known_BL.astype(jnp.float32))
        return y_BMD[:, again:].reshape(B, L, 2, D), {**metrics, ENDING: ending}


class EndHeads(nn.Module):
    """Heads over `EndSlots`: the next symbol is written at once, or after the symbol EOW, which stands for the end of a chunk.

    Its likelihood is the sum of the two ways, so that symbols have a distribution and bits per byte are those of other models. Which way
    it was is learned by "loss/ending"; both together are the published loss, the likelihood of symbols and ends of chunks.
    """

    heads: Heads

    @property
    def ahead(self) -> int:
        return self.heads.ahead

    @property
    def loss_weights(self) -> np.ndarray:
        return self.heads.loss_weights

    def __call__(self, y_BL2D: Array, predicted: np.ndarray, target_BLN: Array | None = None) -> Any:
        """As Heads. The best guess is the slot's where that of the element is EOW."""
        if target_BLN is not None:
            at_BLN, behind_BL, hit_BL = self.ways(y_BL2D, predicted, target_BLN)
            return at_BLN.at[:, :, 0].set(-jnp.logaddexp(-at_BLN[:, :, 0], -behind_BL)), hit_BL
        at_BLNV = jax.nn.log_softmax(self.heads(y_BL2D[:, :, 0], and_end(predicted)))
        behind_BLV = jax.nn.log_softmax(self.heads(y_BL2D[:, :, 1], predicted)[:, :, 0])
        first_BLV = jnp.logaddexp(at_BLNV[:, :, 0], at_BLNV[:, :, 0, EOW, None] + behind_BLV)
        return jnp.where(jnp.asarray(predicted)[None, None, None], at_BLNV.at[:, :, 0].set(first_BLV), MASKED)

    def losses(self, metrics: Metrics, y_BL2D: Array, predicted: np.ndarray, target_BLN: Array) -> Metrics:
        """The loss of ends in place of the metric ENDING."""
        metrics = dict(metrics)
        ending = metrics.pop(ENDING)
        at_BLN, behind_BL, _ = self.ways(y_BL2D, predicted, target_BLN)
        logit_BL = at_BLN[:, :, 0] - behind_BL  # of an end, once the symbol is known
        nll_BL = jax.nn.softplus(logit_BL) - ending.total * logit_BL
        return {**metrics, "loss/ending": mean_of_rows(nll_BL, ending.weight)}

    def ways(self, y_BL2D: Array, predicted: np.ndarray, target_BLN: Array) -> tuple[Array, Array, Array]:
        """(nll of the target at once, nll of EOW and then head 1's target, hit): [B, L, N], [B, L], [B, L]."""
        at_BLD, behind_BLD = y_BL2D[:, :, 0], y_BL2D[:, :, 1]
        at_BLN, hit_BL = self.heads(at_BLD, and_end(predicted), target_BLN)
        end_BLN, ends_BL = self.heads(at_BLD, and_end(predicted), jnp.full_like(target_BLN, EOW))
        then_BLN, then_hit_BL = self.heads(behind_BLD, predicted, target_BLN)
        return at_BLN, end_BLN[:, :, 0] + then_BLN[:, :, 0], jnp.where(ends_BL, then_hit_BL, hit_BL)


def and_end(predicted: np.ndarray) -> np.ndarray:
    """The symbols that an element predicts: EOW, too."""
    if len(predicted) <= EOW or predicted[EOW]:
        raise ValueError(f"codec: EndHeads needs symbol {EOW} (EOW), unused; this codec has {len(predicted)} symbols")
    return predicted | (np.arange(len(predicted)) == EOW)
