"""MuToR: registers beside the text that predict further ahead (Gerontopoulos et al. 2025).

arXiv 2505.10518, section 3. The idea: in training, a learned token stands behind every element.
It attends to what the element attends to, no other token attends to it, and it predicts a symbol
d steps on, where d is drawn for each document. In use the registers are left out, and the model
is what it would be without them.

    elements and registers by turns [B, 2L]    x0 r0 x1 r1 x2 r2 ...
    position of r_t                            that of the element before its target, pos_t + d - 1
    loss                                       of x_{t+1} by x_t + loss_weight * of x_{t+d} by r_t

Where ours differs: the paper weighs 0.7 : 0.3, here the next symbol has weight 1 and registers
3/7. The reference is a fine-tuning of Llama; here registers are an objective of any flat model of
full attention.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hlm.auxiliary import Aux
from hlm.config import check_least
from hlm.metrics import mean_of_rows
from hlm.model.insert import insert_each
from hlm.model.objective import Lengthened, Objective, Seen
from hlm.nn.attention import Attention
from hlm.seq import Batch, Seq, prefix_noise, seq_of, take
from hlm.vocab import MASK

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Registers(Objective):
    """Registers that look 1 (the next symbol) to `farthest` steps ahead, one number for each
    document.

    `symbol`: whose embedding they are.
    """

    farthest: int = 4
    symbol: int = MASK
    loss_weight: float = dataclasses.field(default=3 / 7, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        check_least(self, 1, "farthest")
        check_least(self, 0, "symbol")

    def check(self, model: Any) -> None:
        mixer = getattr(getattr(model.trunk, "block", None), "mixer", None)
        if not isinstance(mixer, Attention) or mixer.window is not None:
            raise ValueError(
                "objectives: Registers need a trunk Stack(depth, Block(Attention(...), ...)) "
                "without window"
            )
        if self.symbol >= model.codec.size:
            raise ValueError(
                f"Registers.symbol: {self.symbol} is none of the codec's {model.codec.size} symbols"
            )

    def ahead(self, key: Array, seq: Seq) -> Array:
        """Steps from each register's element to its target, one number for each document; int32 [B,
        L].
        """
        L = seq.doc.shape[1]
        i_L = jnp.arange(L, dtype=jnp.int32)
        last_BL = jnp.pad(seq.doc[:, 1:] != seq.doc[:, :-1], ((0, 0), (0, 1)), constant_values=True)
        end_BL = jax.lax.cummin(jnp.where(last_BL, i_L[None], L - 1), axis=1, reverse=True)
        drawn_BL = take(prefix_noise(key, seq), end_BL)  # noise of the whole document
        return 1 + jnp.minimum((drawn_BL * self.farthest).astype(jnp.int32), self.farthest - 1)

    def lengthen(self, seq: Seq, key: Array | None) -> Lengthened | None:
        return None if key is None else self.beside(seq, self.ahead(key, seq))

    def beside(self, seq: Seq, ahead_BL: Array) -> Lengthened:
        """Elements and their registers by turns: [B, 2L]."""
        longer = insert_each(*seq.doc.shape, behind=1)
        register_BM, plain = longer.added_BM, longer.seq(seq)
        row = dataclasses.replace(
            plain,
            token=jnp.where(register_BM, self.symbol, plain.token),
            pos=longer.spread(seq.pos) + jnp.where(register_BM, longer.spread(ahead_BL) - 1, 0),
            level=jnp.where(register_BM, jnp.uint8(0), plain.level),
            query_only=register_BM,
        )
        return Lengthened(row, longer)

    def targets(self, batch: Batch, ahead_BL: Array) -> tuple[Array, Array]:
        """The symbol that each register predicts, and its weight; [B, L].

        It is 0 beyond the document, and where the element's own target has weight 0.
        """
        L = batch.doc.shape[1]
        to_BL = jnp.arange(L, dtype=jnp.int32)[None] + ahead_BL - 1
        inside_BL = jnp.minimum(to_BL, L - 1)
        same_BL = (to_BL < L) & (take(batch.doc, inside_BL) == batch.doc)
        good_BL = same_BL & (batch.doc > 0) & (batch.weight > 0)
        return take(batch.target, inside_BL), jnp.where(good_BL, take(batch.weight, inside_BL), 0.0)

    def losses(self, seen: Seen) -> Aux:
        if seen.key is None or seen.longer_BMD is None:
            return Aux()
        target_BL, weight_BL = self.targets(seen.batch, self.ahead(seen.key, seq_of(seen.batch)))
        nll_BL = seen.nats(seen.longer_BMD[:, 1::2], target_BL)
        return Aux(losses={"loss/registers": mean_of_rows(self.weight(seen) * nll_BL, weight_BL)})
