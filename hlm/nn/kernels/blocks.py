"""Attention by XLA: a few blocks of queries at a time, so that memory grows with the row and not
with its square.
"""

import dataclasses
from typing import Any

import jax

from hlm.nn.kernels import parts, spans
from hlm.nn.kernels.kernel import Gradients, Kernel, Reach, Read, Rows

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Blocks(Kernel):
    """Blocks of queries by XLA: against the keys within a window, or against a part of the row."""

    def forward(self, reach: Reach, rows: Rows) -> Read:
        return way(reach, rows.length).forward(reach, rows)

    def backward(self, reach: Reach, rows: Rows, read: Read, d_BLHK: Array) -> Gradients:
        return way(reach, rows.length).backward(reach, rows, read, d_BLHK)


def way(reach: Reach, length: int) -> Any:
    """The cheaper way: a window that is half the row, or more, leaves out less than parts do."""
    return spans if reach.window is not None and 2 * reach.window < length else parts
