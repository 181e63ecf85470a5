"""Multi-token prediction over chunks: a small module guesses the backbone's next output, and so
drafts past the backbone.

The idea is the sequential multi-token prediction of DeepSeek-V3 (arXiv 2412.19437, section 2.2),
for chunks in place of tokens: from the backbone's output for a chunk and the vector of the next
one, a single block guesses the output for that next one. The byte decoder is what both predictions
share. In training it reads the guess a second time and is scored on the same bytes; in generation
the guess stands for the backbone while a draft is written, and the model verifies it (hlm/infer).

    chunk vectors   z_0  z_1  z_2         [B, S, E], from the pool
    backbone        y_0  y_1  y_2
    short           -    g(y_0, z_1)  g(y_1, z_2),      g(y, z) = trunk(W [norm y; norm z])
    loss            likelihood by y  +  loss_weight * likelihood by short

Where ours differs: DeepSeek predicts one token further with the same loss; here the guess predicts
the chunk that the backbone predicts, one backbone step cheaper, because that is what a draft needs.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from hlm.auxiliary import Aux, Reading
from hlm.metrics import mean_of_rows
from hlm.model.hierarchy import Hierarchy
from hlm.model.objective import Objective, Seen
from hlm.nn.basic import Linear, Norm, RMSNorm
from hlm.nn.stack import Trunk
from hlm.seq import Boundaries, Seq

Array = jax.Array


class ChunkMTP(nn.Module):
    """Multi-token prediction module: guesses the backbone's output for a chunk.

    From its output for the chunk before and the chunk's own vector.
    """

    trunk: Trunk
    norm: Norm = dataclasses.field(default_factory=RMSNorm)

    @nn.compact
    def __call__(self, before_BSE: Array, z_BSE: Array, seq: Seq) -> Array:
        both = (self.norm(self, before_BSE, "before"), self.norm(self, z_BSE, "chunk"))
        mixed_BSE = Linear(before_BSE.shape[-1], name="linear")(jnp.concatenate(both, axis=-1))
        return self.trunk(mixed_BSE, seq, None)[0]


@struct.dataclass
class Guesses:
    """From `run_backbone` to `down`: the backbone's outputs as guessed."""

    short_BSE: Array


class DraftingHierarchy(Hierarchy, kw_only=True):
    """A Hierarchy with a `shortcut` past its backbone, which learns from the objective
    `ChunkMTPLoss`.

    Only an LM's outermost Hierarchy may be one.
    """

    shortcut: ChunkMTP
    can_draft: ClassVar[bool] = True

    def run_backbone(
        self, z_BSE: Array, above: Seq, before_B1E: Array | None = None
    ) -> tuple[Array, Aux]:
        first_B1E = jnp.zeros_like(z_BSE[:, :1]) if before_B1E is None else before_B1E
        if above.decoding is not None and above.decoding.draft:
            # one call seldom ends two chunks: all it ends see the output before the first of them
            before_BSE = jnp.broadcast_to(first_B1E, (*z_BSE.shape[:2], first_B1E.shape[-1]))
            return self.shortcut(before_BSE, z_BSE, above), Aux()
        y_BSE, aux = self.backbone(z_BSE, above, None)
        before_BSE = jnp.concatenate([first_B1E.astype(y_BSE.dtype), y_BSE[:, :-1]], axis=1)
        # nothing is before a document
        before_BSE = jnp.where((above.pos == 0)[:, :, None], 0, before_BSE)
        # in decoding only to fill its KV caches
        short_BSE = self.shortcut(before_BSE, z_BSE, above)
        return y_BSE, aux if above.decoding is not None else aux | Aux(left=(Guesses(short_BSE),))

    def down(
        self, z_BSE: Array, skip_BLD: Array, seq: Seq, b: Boundaries, above: Aux
    ) -> tuple[Array, Aux]:
        y_BLD, aux = self.write(z_BSE, skip_BLD, seq, b)
        past = [self.write(found.short_BSE, skip_BLD, seq, b)[0] for found in above.all(Guesses)]
        return y_BLD, aux | above.without(Guesses).under("above") | Aux(
            left=tuple(map(PastBackbone, past))
        )


@struct.dataclass
class PastBackbone(Reading):
    """Draft reading: the decoder's output for the guessed chunk vectors; [B, L, D]."""

    remedy: ClassVar[str] = "add hlm.chunk_mtp.ChunkMTPLoss()"


@dataclasses.dataclass(frozen=True)
class ChunkMTPLoss(Objective):
    """Likelihood of the next symbol as the decoder predicts it past the backbone
    ("loss/shortcut").
    """

    loss_weight: float = dataclasses.field(default=0.1, kw_only=True)
    takes: ClassVar[type] = PastBackbone

    def check(self, model: Any) -> None:
        if not isinstance(model.trunk, DraftingHierarchy):
            raise ValueError(
                "objectives: ChunkMTPLoss needs a trunk hlm.chunk_mtp.DraftingHierarchy, not "
                f"{type(model.trunk).__name__}"
            )

    def losses(self, seen: Seen) -> Aux:
        (past,) = seen.aux.all(PastBackbone)
        nll_BLN, _ = seen.model.heads(past.y_BLD, seen.model.codec.predicted, seen.target_BLN)
        nll_BL = self.weight(seen) * nll_BLN[:, :, 0]
        return Aux(losses={"loss/shortcut": mean_of_rows(nll_BL, seen.weight_BLN[:, :, 0])})
