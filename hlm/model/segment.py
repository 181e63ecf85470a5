"""Segmenters (boundary predictors, patchers, routers): which elements end a chunk.

Rules on the text live on the host (hlm/split) and arrive as `seq.level`; `Level` reads them. Others
predict ends from the encoder's output (hlm/papers). What a segmenter decides besides the ends is
which chunk an element is pooled into and which chunk it sees; by default that is the convention of
hlm/seq.py.

A segmenter of one's own, in full:

    class EveryOther(Segmenter):
        def __call__(self, h_BLD, seq):
            return seq.pos % 2 == 1, None, Aux()
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.seq import Boundaries, Seq

Array = jax.Array


class Segmenter(nn.Module, abc.ABC):
    """Base of all segmenters: (h [B, L, D], seq) -> (ends bool [B, L], probability or None, Aux).

    Whether element t ends a chunk must follow from elements up to t alone, and from those of its
    document; in decoding, earlier ones are reached by `with_left_context` (hlm/nn/kv_cache.py).
    The probability, float32 [B, L], is a differentiable form of the decision for pools and unpools
    that pass a gradient to it, such as `hlm.pool.Mean`: straight through, or a confidence.
    """

    # reads the encoder's output and so runs behind it; h is otherwise the level's input
    learned: ClassVar[bool] = False
    # ends follow from `seq.level` alone, so decoding knows them before the model reads
    from_levels: ClassVar[bool] = False
    # how many elements before an end may already belong to the next chunk; decoding keeps them
    overlap: ClassVar[int] = 0
    # why its losses, which a field `loss_weight` multiplies, are of a whole batch and no sum over
    # micro-batches; None: they add up. The law of micro-batches is asked without them.
    whole_batch: ClassVar[str | None] = None

    @property
    def target_size(self) -> float | None:
        """Elements in a chunk that training aims at; None: it aims at none."""
        return None

    @abc.abstractmethod
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, Array | None, Aux]: ...

    def members(self, b: Boundaries, seq: Seq) -> Array:
        """The chunk that each element is pooled into, S for none; int32 [B, L]."""
        return b.member

    def visible(self, b: Boundaries, seq: Seq) -> Array:
        """The newest chunk that the decoder sees at each element, S for none; int32 [B, L]."""
        return b.seen


class Level(Segmenter):
    """Rule-based segmenter: ends where the splitter of the codec ended at least `level` levels."""

    level: int = 1
    from_levels: ClassVar[bool] = True

    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Aux]:
        return seq.level >= self.level, None, Aux()


class Wrapped(Segmenter):
    """Base of segmenters that change what is seen of the chunks of another one."""

    segmenter: Segmenter

    @property
    def learned(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.segmenter.learned

    @property
    def from_levels(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.segmenter.from_levels

    @property
    def overlap(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.segmenter.overlap

    @property
    def target_size(self) -> float | None:
        return self.segmenter.target_size

    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, Array | None, Aux]:
        return self.segmenter(h_BLD, seq)

    def members(self, b: Boundaries, seq: Seq) -> Array:
        return self.segmenter.members(b, seq)


class SeenLater(Wrapped):
    """A chunk is seen from the element behind its end on; only BOS sees its own.

        element   BOS  a  b  c  d
        ends      1    0  1  0  1
        seen      0    0  0  1  1       without it: 0  0  1  1  2

    The decoder's groups are then the chunks, BOS with the first of them.
    """

    def visible(self, b: Boundaries, seq: Seq) -> Array:
        return b.seen - (b.ends & (seq.pos > 0)).astype(jnp.int32)


class SeenWithin(Wrapped):
    """Every element of a chunk sees that chunk, and these are the decoder's groups: not causal, for
    masked models.

    Elements of no chunk see none: for them it is S, as in `members`.
    """

    def visible(self, b: Boundaries, seq: Seq) -> Array:
        return b.member
