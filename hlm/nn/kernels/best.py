"""The best kernel of the device that a program is compiled for, by the shape of the work."""

import dataclasses
import functools

import jax

from hlm.nn.kernels.blocks import Blocks
from hlm.nn.kernels.kernel import Gradients, Kernel, Reach, Read, Rows
from hlm.nn.kernels.splash import Splash

Array = jax.Array
SHORT_ROW = 1024  # up to here, all scores of a few rows are a small array
SHORT_WINDOW = 128  # up to here, a kernel's blocks hold mostly what no query reaches


@dataclasses.dataclass(frozen=True)
class Best(Kernel):
    """On a TPU splash attention, where rows and windows are long enough; elsewhere XLA.

    The choice is made when the traced program is lowered for a platform, so that one program can be
    compiled for any.
    """

    def forward(self, reach: Reach, rows: Rows) -> Read:
        if not pays(reach, rows):
            return Blocks().forward(reach, rows)
        return jax.lax.platform_dependent(
            rows,
            tpu=functools.partial(Splash().forward, reach),
            default=functools.partial(Blocks().forward, reach),
        )

    def backward(self, reach: Reach, rows: Rows, read: Read, d_BLHK: Array) -> Gradients:
        if not pays(reach, rows):
            return Blocks().backward(reach, rows, read, d_BLHK)
        return jax.lax.platform_dependent(
            *(rows, read, d_BLHK),
            tpu=functools.partial(Splash().backward, reach),
            default=functools.partial(Blocks().backward, reach),
        )


def pays(reach: Reach, rows: Rows) -> bool:
    """Whether a fused kernel is worth it, and can do it."""
    long = reach.window is None or reach.window > SHORT_WINDOW
    return rows.length > SHORT_ROW and long and rows.marks.query_only is None
