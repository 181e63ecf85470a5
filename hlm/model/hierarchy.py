"""One level of hierarchy: (B, L, D) -> (B, L, D). The backbone may be another Hierarchy.

x [B, L, D] ── encoder ── h ── pool ──── [B, S, E]      the word encoder reads each chunk
                          │             backbone        the global model, causal over chunks
y [B, L, D] ── decoder ── u ── unpool ── [B, S, E]      the byte decoder writes the next one
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.model import decoding
from hlm.model.pool import Pool
from hlm.model.segment import Segmenter
from hlm.model.unpool import Unpool
from hlm.nn.stack import Trunk
from hlm.seq import Boundaries, Seq, boundaries, take
from hlm.sharding import constrain

Array = jax.Array


class Hierarchy(Trunk):
    """One level: encoder -> segmenter -> pool -> backbone -> unpool -> decoder.

    `capacity`: chunks per row, static. `skip_input`: the decoder builds on this level's input
    instead of the encoder's output; needed when the encoder looks both ways inside a chunk, for
    then its output knows the bytes that the decoder must predict. `guide` makes of the chunk
    vectors what every block of the decoder reads (hlm/nn/cross.py).

    `group_BL` goes to a learned segmenter's encoder, which runs before the row is cut. Behind a
    rule the encoder's groups are the chunks that elements are pooled into; the decoder's are the
    chunks that they see.
    """

    encoder: Trunk
    segmenter: Segmenter
    pool: Pool
    backbone: Trunk
    unpool: Unpool
    decoder: Trunk
    capacity: int
    skip_input: bool = False
    guide: nn.Module | None = None

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None) -> tuple[Array, Aux]:
        if seq.decoding is not None:
            return decoding.advance(self, x_BLD, seq, group_BL)
        h_BLD, b, aux = self.encode(x_BLD, seq, group_BL)
        z_BSE, above = self.run_backbone(self.chunk_vectors(h_BLD, b), seq.above(b))
        y_BLD, down = self.down(z_BSE, x_BLD if self.skip_input else h_BLD, seq, b, above)
        return y_BLD, aux | down

    def encode(
        self, x_BLD: Array, seq: Seq, group_BL: Array | None
    ) -> tuple[Array, Boundaries, Aux]:
        """The way up, to the encoder's output and where it is cut.

        A rule cuts first: an encoder may look at chunks alone.
        """
        if self.segmenter.learned:
            h_BLD, aux = self.encoder(x_BLD, seq, group_BL)
            b, cut = self.cut(h_BLD, seq)
        else:
            b, cut = self.cut(x_BLD, seq)
            h_BLD, aux = self.encoder(x_BLD, seq, b.member)
        return h_BLD, b, aux | cut

    def cut(self, h_BLD: Array, seq: Seq) -> tuple[Boundaries, Aux]:
        """Run the segmenter and bound its ends."""
        ends_BL, prob_BL, aux = self.segmenter(h_BLD, seq)
        b, more = self.bounded(ends_BL, seq, self.capacity, prob_BL)
        return b, aux | more

    def bounded(
        self, ends_BL: Array, seq: Seq, capacity: int, prob_BL: Array | None = None
    ) -> tuple[Boundaries, Aux]:
        """Boundaries from ends, at most `capacity` chunks, with the segmenter's own `members`."""
        b, metrics = boundaries(ends_BL, seq, capacity, prob_BL)
        b = dataclasses.replace(b, member=self.segmenter.members(b, seq))
        return b, Aux(metrics)

    def chunk_vectors(self, h_BLD: Array, b: Boundaries) -> Array:
        """The pool's output [B, S, E], split over rows as everything is."""
        return constrain(self.pool(h_BLD, b), "batch", None, None)

    def run_backbone(
        self, z_BSE: Array, above: Seq, before_B1E: Array | None = None
    ) -> tuple[Array, Aux]:
        """The backbone's output for these chunks.

        `before_B1E`: that for the chunk before them, None in whole rows; for subclasses that guess.
        """
        return self.backbone(z_BSE, above, None)

    def down(
        self, z_BSE: Array, skip_BLD: Array, seq: Seq, b: Boundaries, above: Aux
    ) -> tuple[Array, Aux]:
        """The way down in whole rows; `above`: what the backbone left besides."""
        y_BLD, aux = self.write(z_BSE, skip_BLD, seq, b)
        return y_BLD, aux | above.under("above")

    def write(self, z_BSE: Array, skip_BLD: Array, seq: Seq, b: Boundaries) -> tuple[Array, Aux]:
        """From the chunks' vectors to this level's output."""
        b = dataclasses.replace(b, seen=self.segmenter.visible(b, seq))
        u_BLD = constrain(self.unpool(z_BSE, skip_BLD, b), "batch", None, None)
        above = () if self.guide is None else (self.guide(z_BSE, b),)
        return self.decoder(u_BLD, seq, take(b.number, b.seen) if seq.decoding else b.seen, *above)


def levels_of(trunk: Any) -> Iterator[Hierarchy]:
    """The hierarchies of a trunk, outermost first; a flat model has none."""
    while isinstance(trunk, Hierarchy):
        yield trunk
        trunk = trunk.backbone


def capacities(trunk: Any) -> tuple[int, ...]:
    """Chunks per row at each level, outermost first."""
    return tuple(level.capacity for level in levels_of(trunk))
