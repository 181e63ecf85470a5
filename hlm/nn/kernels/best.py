"""The best kernel of the device that a program is compiled for, by the shape of the work."""

import dataclasses
import functools

import jax

from hlm.nn.kernels.blocks import Blocks
from hlm.nn.kernels.kernel import Gradients, Kernel, Marks, Reach
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

    def forward(
        self, reach: Reach, q_BLHK: Array, k_BLGK: Array, v_BLGK: Array, marks: Marks
    ) -> tuple[Array, Array]:
        given = (q_BLHK, k_BLGK, v_BLGK, marks)
        if not pays(reach, q_BLHK, marks):
            return Blocks().forward(reach, *given)
        return jax.lax.platform_dependent(
            *given,
            tpu=functools.partial(Splash().forward, reach),
            default=functools.partial(Blocks().forward, reach),
        )

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
        if not pays(reach, q_BLHK, marks):
            return Blocks().backward(reach, *given)
        return jax.lax.platform_dependent(
            *given,
            tpu=functools.partial(Splash().backward, reach),
            default=functools.partial(Blocks().backward, reach),
        )


def pays(reach: Reach, q_BLHK: Array, marks: Marks) -> bool:
    """Whether a fused kernel is worth it, and can do it."""
    long = reach.window is None or reach.window > SHORT_WINDOW
    return q_BLHK.shape[1] > SHORT_ROW and long and marks.query_only is None
