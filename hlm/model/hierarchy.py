"""One level of hierarchy: (B, L, D) -> (B, L, D). The backbone may be another Hierarchy; that is all there is to depth."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.metrics import Mean, Metrics, under
from hlm.model import streaming
from hlm.model.shortcut import PAST_BACKBONE, Shortcut, shifted
from hlm.seq import Boundaries, Seq, boundaries, take

Array = jax.Array


class Hierarchy(nn.Module):
    """encoder -> segmenter -> pool -> backbone -> unpool -> decoder.

    `capacity`: chunks per row, static. `skip_input`: the decoder builds on this level's input instead of the encoder's output; needed
    when the encoder looks both ways inside a chunk, for then its output knows the bytes that the decoder must predict.
    `late`: a chunk is visible from the element after its end on, and the decoder's groups are the chunks themselves.
    `guide` makes of the chunk vectors what every block of the decoder reads (see `hlm.nn.cross`). `shortcut` learns to do without the
    backbone, for drafts (see `hlm.model.shortcut`); only an LM's outermost Hierarchy may have one.
    """

    encoder: nn.Module
    segmenter: nn.Module
    pool: nn.Module
    backbone: nn.Module
    unpool: nn.Module
    decoder: nn.Module
    capacity: int
    skip_input: bool = False
    guide: nn.Module | None = None
    late: bool = False
    shortcut: Shortcut | None = None
    local: ClassVar[bool] = False  # as Stack.local

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None) -> tuple[Array, Metrics]:
        if seq.begun:
            return streaming.step(self, x_BLD, seq, group_BL)
        if self.segmenter.learned:
            h_BLD, encoder_metrics = self.encoder(x_BLD, seq, group_BL)
            b, metrics = self.cut(h_BLD, seq)
        else:
            b, metrics = self.cut(x_BLD, seq)
            h_BLD, encoder_metrics = self.encoder(x_BLD, *streaming.encoder_view(self, seq, b))
        pooled_BSE, above = self.pool(h_BLD, b), seq.above(b)
        z_BSE, above_metrics = self.backbone(pooled_BSE, above, None)
        skip_BLD = x_BLD if self.skip_input else h_BLD
        past = {}
        if self.shortcut is not None:
            short_BSE = self.shortcut(shifted(z_BSE, b.first), pooled_BSE, above)
            if seq.stream is None:
                y_BLD, _ = self.write(short_BSE, skip_BLD, seq, b)
                past[PAST_BACKBONE] = Mean(y_BLD, jnp.asarray(self.shortcut.loss_weight))
        if seq.stream is not None:
            streaming.start(self, x_BLD, h_BLD, z_BSE, seq, b)
        y_BLD, decoder_metrics = self.write(z_BSE, skip_BLD, seq, b)
        return y_BLD, {**metrics, **encoder_metrics, **decoder_metrics, **past, **under("above", above_metrics)}

    def write(self, z_BSE: Array, skip_BLD: Array, seq: Seq, b: Boundaries) -> tuple[Array, Metrics]:
        """The way down, from the chunks' vectors to this level's output."""
        if self.late:
            b = b.late(seq)
        u_BLD = self.unpool(z_BSE, skip_BLD, b)
        above = () if self.guide is None else (self.guide(z_BSE, b),)
        return self.decoder(u_BLD, seq, take(b.number, b.seen) if seq.stream else b.seen, *above)

    def cut(self, h_BLD: Array, seq: Seq) -> tuple[Boundaries, Metrics]:
        ends_BL, prob_BL, metrics = self.segmenter(h_BLD, seq)
        # A stream is not packed: more chunks than there is room for are an error that the reader hears of, not an overflow.
        capacity = self.capacity if seq.stream is None else min(seq.stream.room[1] + 1, seq.token.shape[1])
        b, boundary_metrics = self.bounded(ends_BL, seq, capacity, prob_BL)
        return b, {**metrics, **boundary_metrics}

    def bounded(self, ends_BL: Array, seq: Seq, capacity: int, prob_BL: Array | None = None) -> tuple[Boundaries, Metrics]:
        b, metrics = boundaries(ends_BL, seq, capacity, prob_BL)
        if hasattr(self.segmenter, "members"):
            b = b.replace(member=self.segmenter.members(b, seq))  # pyright: ignore[reportAttributeAccessIssue]
        return b, metrics
