"""Segmenters: which elements end a chunk. Rules live on the host (hlm/split) and arrive as `seq.level`.

A segmenter is (h_BLD, seq) -> (ends_BL bool, prob_BL or None, metrics). `learned` ones need the encoder's output and run after it.
One whose chunks do not hold the elements up to their ends has `members(boundaries, seq) -> member_BL`, in place of Boundaries.member.
"""

from typing import ClassVar

import jax
from flax import linen as nn

from hlm.metrics import Metrics
from hlm.seq import Seq

Array = jax.Array


class Level(nn.Module):
    """Ends where the host splitter ended at least `level` levels."""

    level: int = 1
    learned: ClassVar[bool] = False

    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Metrics]:
        return seq.level >= self.level, None, {}
