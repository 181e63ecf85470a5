"""One level of hierarchy: (B, L, D) -> (B, L, D). The backbone may be another Hierarchy; that is all there is to depth."""

import jax
from flax import linen as nn

from hlm.metrics import Metrics, under
from hlm.seq import Boundaries, Seq, boundaries

Array = jax.Array


class Hierarchy(nn.Module):
    """encoder -> segmenter -> pool -> backbone -> unpool -> decoder.

    `capacity`: chunks per row, static. `skip_input`: the decoder builds on this level's input instead of the encoder's output; needed
    when the encoder looks both ways inside a chunk, for then its output knows the bytes that the decoder must predict.
    `late`: a chunk is visible from the element after its end on, and the decoder's groups are the chunks themselves.
    `guide` makes of the chunk vectors what every block of the decoder reads (see `hlm.nn.cross`).
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

    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None) -> tuple[Array, Metrics]:
        if self.segmenter.learned:
            h_BLD, encoder_metrics = self.encoder(x_BLD, seq, group_BL)
            b, metrics = self.cut(h_BLD, seq)
        else:
            b, metrics = self.cut(x_BLD, seq)
            h_BLD, encoder_metrics = self.encoder(x_BLD, seq, b.member)
        z_BSE, above_metrics = self.backbone(self.pool(h_BLD, b), seq.above(b), None)
        if self.late:
            b = b.late(seq)
        u_BLD = self.unpool(z_BSE, x_BLD if self.skip_input else h_BLD, b)
        above = () if self.guide is None else (self.guide(z_BSE, b),)
        y_BLD, decoder_metrics = self.decoder(u_BLD, seq, b.seen, *above)
        return y_BLD, {**metrics, **encoder_metrics, **decoder_metrics, **under("above", above_metrics)}

    def cut(self, h_BLD: Array, seq: Seq) -> tuple[Boundaries, Metrics]:
        ends_BL, prob_BL, metrics = self.segmenter(h_BLD, seq)
        b, boundary_metrics = boundaries(ends_BL, seq, self.capacity, prob_BL)
        if hasattr(self.segmenter, "members"):
            b = b.replace(member=self.segmenter.members(b, seq))  # pyright: ignore[reportAttributeAccessIssue]
        return b, {**metrics, **boundary_metrics}
