"""Attention by XLA: a few blocks of queries at a time, so that memory grows with the row and not
with its square.
"""

import dataclasses
from typing import Any

import jax

from hlm.nn.kernels import parts, spans
from hlm.nn.kernels.kernel import Gradients, Kernel, Marks, Reach

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Blocks(Kernel):
    """Blocks of queries by XLA: against the keys within a window, or against a part of the row."""

    def forward(
        self, reach: Reach, q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, marks: Marks
    ) -> tuple[Array, Array]:
        return way(reach, q_BLHK.shape[1]).forward(reach, q_BLHK, k_BLGK, v_BLGK, marks)

    def backward(
        self,
        reach: Reach,
        q_BLHK: Array,
        k_BLGK: Array,
        v_BLGK: Array,
        marks: Marks,
        o_BLHK: Array,
        log_total_BLH: Array,
        d_BLHK: Array,
    ) -> Gradients:
        given = (q_BLHK, k_BLGK, v_BLGK, marks, o_BLHK, log_total_BLH, d_BLHK)
        return way(reach, q_BLHK.shape[1]).backward(reach, *given)


def way(reach: Reach, length: int) -> Any:
    """The cheaper way: a window that is half the row, or more, leaves out less than parts do."""
    return spans if reach.window is not None and 2 * reach.window < length else parts
