"""Toucan: a decoder that says where its chunk ends (Fleshman & Van Durme 2023, arXiv 2311.08620).

The idea: dynamic pooling must run its encoder and boundary predictor after every byte to know
whether a chunk has ended. Toucan inserts an end-of-token symbol before every boundary byte, so that
the decoder itself writes where the chunk ends: a whole chunk is written before encoder and backbone
run again.

    decoder's row [B, 2L]   x0 s0 x1 s1 x2 s2 ...   s_t = newest chunk's vector + a learned one
    p(x_{t+1} | x_t)        p(at once) + p(EOW by x_t) * p(x_{t+1} by s_t)           `EndHeads`
    loss                    -log of that sum, and "loss/ending": which way it was    `ChunkEnds`

If the next element ends a chunk, s_t is the end-of-token symbol, which later elements see;
otherwise it is only what would be if it did, and no element sees it. So outputs at t follow from
elements up to t alone.

Where ours differs: the paper's bits per byte count the way that was drawn; here symbols have a
distribution of their own, the sum of both ways, and both losses together are the published one.
Slots stand behind every element, which costs twice the row in the decoder in place of 1.2 times.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from hlm.auxiliary import Aux
from hlm.metrics import mean_of_rows
from hlm.model.heads import Heads
from hlm.model.insert import insert_each
from hlm.model.objective import Objective, Seen
from hlm.nn.basic import MASKED, at_each, normal, weight
from hlm.nn.cross import Memory
from hlm.nn.kv_cache import with_left_context
from hlm.nn.stack import Trunk
from hlm.seq import Seq, take
from hlm.vocab import EOW

Array = jax.Array


@struct.dataclass
class Endings:
    """From the decoder to its objective; bool [B, L]."""

    ends_BL: Array  # the next element ends a chunk
    known_BL: Array  # the row has that element
    remedy: ClassVar[str] = "add hlm.toucan.ChunkEnds()"


class EndSlots(Trunk):
    """A decoder with a slot behind every element: the newest chunk's vector and a learned one. Its
    output is [B, L, 2, D].

    Needs Hierarchy.guide=ChunkMemory(1, ...), LM.heads=EndHeads(...) and
    LM.objectives=(ChunkEnds(),); attention is the only mixer that can leave slots out.
    """

    trunk: Trunk

    @nn.compact
    def __call__(
        self, x_BLD: Array, seq: Seq, group_BL: Array, memory: Memory
    ) -> tuple[Array, Aux]:
        B, L, D = x_BLD.shape
        stop_BLD = at_each(weight(self, "stop", (D,), init=normal(1.0)), x_BLD)
        slot_BLD = take(memory.slots_BSND[:, :, 0], memory.seen_BL) + stop_BLD
        before_BMD = with_left_context(self, "slot", slot_BLD, seq, 1)
        group_BM = with_left_context(self, "group", group_BL, seq, 1)
        known_BL = jnp.pad(
            (seq.doc[:, 1:] == seq.doc[:, :-1]) & (seq.doc[:, 1:] > 0), ((0, 0), (0, 1))
        )
        opens_BM = group_BM[:, 1:] != group_BM[:, :-1]  # each element ends a chunk
        ends_BL = known_BL & jnp.pad(opens_BM[:, 1:], ((0, 0), (0, 1)))

        longer = insert_each(B, L, behind=1)
        slot_BM, twice = (
            longer.added_BM,
            longer.seq(seq, 2 * seq.pos, 3, 2 * seq.decoding.capacity[0] if seq.decoding else 0),
        )
        row_BMD = jnp.where(slot_BM[..., None], longer.spread(slot_BLD), longer.spread(x_BLD))
        query_only_BM = slot_BM & longer.spread(~ends_BL)
        twice = dataclasses.replace(
            twice, token=jnp.where(slot_BM, EOW, twice.token), query_only=query_only_BM
        )
        again = int(seq.continued)
        # of the slot behind the last element that was read before it was not known whether a chunk
        # ends there
        if again:
            row_BMD = jnp.concatenate([before_BMD[:, :1], row_BMD], axis=1)
            twice = Seq(
                token=jnp.pad(twice.token, ((0, 0), (1, 0)), constant_values=EOW),
                doc=jnp.concatenate([twice.doc[:, :1], twice.doc], axis=1),
                pos=jnp.concatenate([twice.pos[:, :1] - 1, twice.pos], axis=1),
                level=jnp.concatenate([twice.level[:, :1], twice.level], axis=1),
                shared=twice.shared,
                decoding=twice.decoding,
                query_only=jnp.concatenate([~opens_BM[:, :1], query_only_BM], axis=1),
            )
        y_BMD, aux = self.trunk(row_BMD, twice, None)
        return y_BMD[:, again:].reshape(B, L, 2, D), aux | Aux(left=(Endings(ends_BL, known_BL),))


class EndHeads(nn.Module):
    """Heads over `EndSlots`: the next symbol is written at once, or after the symbol EOW, which
    stands for a chunk's end.

    Its likelihood is the sum of the two ways, so that symbols have a distribution and bits per byte
    are those of other models.
    """

    heads: Heads

    @property
    def ahead(self) -> int:
        return self.heads.ahead

    def __call__(
        self, y_BL2D: Array, predicted: np.ndarray, target_BLN: Array | None = None
    ) -> Any:
        """As Heads. The best guess is the slot's where that of the element is EOW."""
        if target_BLN is not None:
            at_BLN, behind_BL, hit_BL = self.ways(y_BL2D, predicted, target_BLN)
            return at_BLN.at[:, :, 0].set(-jnp.logaddexp(-at_BLN[:, :, 0], -behind_BL)), hit_BL
        at_BLNV = jax.nn.log_softmax(self.heads(y_BL2D[:, :, 0], and_end(predicted)))
        behind_BLV = jax.nn.log_softmax(self.heads(y_BL2D[:, :, 1], predicted)[:, :, 0])
        first_BLV = jnp.logaddexp(at_BLNV[:, :, 0], at_BLNV[:, :, 0, EOW, None] + behind_BLV)
        return jnp.where(
            jnp.asarray(predicted)[None, None, None], at_BLNV.at[:, :, 0].set(first_BLV), MASKED
        )

    def ways(
        self, y_BL2D: Array, predicted: np.ndarray, target_BLN: Array
    ) -> tuple[Array, Array, Array]:
        """(nll of the target at once, nll of EOW and then head 1's target, hit): [B, L, N], [B, L],
        [B, L].
        """
        at_BLD, behind_BLD = y_BL2D[:, :, 0], y_BL2D[:, :, 1]
        at_BLN, hit_BL = self.heads(at_BLD, and_end(predicted), target_BLN)
        end_BLN, ends_BL = self.heads(at_BLD, and_end(predicted), jnp.full_like(target_BLN, EOW))
        then_BLN, then_hit_BL = self.heads(behind_BLD, predicted, target_BLN)
        return at_BLN, end_BLN[:, :, 0] + then_BLN[:, :, 0], jnp.where(ends_BL, then_hit_BL, hit_BL)


@dataclasses.dataclass(frozen=True)
class ChunkEnds(Objective):
    """Which of the two ways it was to the next symbol, once the symbol is known ("loss/ending")."""

    takes: ClassVar[type] = Endings

    def check(self, model: Any) -> None:
        if not isinstance(model.heads, EndHeads):
            raise ValueError(
                "heads: the objective ChunkEnds needs hlm.toucan.EndHeads, not "
                f"{type(model.heads).__name__}"
            )

    def losses(self, seen: Seen) -> Aux:
        (found,) = seen.aux.all(Endings)
        at_BLN, behind_BL, _ = seen.model.heads.ways(
            seen.y_BLD, seen.model.codec.predicted, seen.target_BLN
        )
        logit_BL = at_BLN[:, :, 0] - behind_BL  # of an end, once the symbol is known
        nll_BL = jax.nn.softplus(logit_BL) - found.ends_BL.astype(jnp.float32) * logit_BL
        weight_BL = found.known_BL * (seen.weight_BLN[:, :, 0] > 0)
        return Aux(
            losses={
                "loss/ending": mean_of_rows(
                    self.weight(seen) * nll_BL, weight_BL.astype(jnp.float32)
                )
            }
        )


def and_end(predicted: np.ndarray) -> np.ndarray:
    """The symbols that an element predicts: EOW, too."""
    if len(predicted) <= EOW or predicted[EOW]:
        raise ValueError(
            f"codec: EndHeads needs symbol {EOW} (EOW), unused; this codec has "
            f"{len(predicted)} symbols"
        )
    return predicted | (np.arange(len(predicted)) == EOW)
