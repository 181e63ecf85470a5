"""Spike guard: leaves out the update of a step whose gradient or loss is far above the usual.

Large runs meet such steps; Chowdhery et al. (2022, 2204.02311, section 5.1) went back some hundred
steps before each and left out the text in between, which is `Rewind` here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hlm.config import check_least
from hlm.metrics import Metrics, ratio

Array = jax.Array
Seen = tuple[Array, Array]  # gradient norms and losses of the last steps, float32 [window]


@dataclasses.dataclass(frozen=True)
class Skip:
    """Leave out the update: parameters and optimizer stay, the next step has other text."""

    @property
    def most(self) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class Rewind:
    """Go back to the newest checkpoint before the spike, and on from there with the text behind it.

    `most`: so often from one checkpoint. Then, and before there is one, as `Skip`.
    """

    most: int = 3

    def __post_init__(self):
        check_least(self, 1, "most")


@dataclasses.dataclass(frozen=True)
class SpikeGuard:
    """A step is a spike if its gradient's norm, before clipping, is above `norm` times the median
    of the last `window` steps, or its loss above `loss` times theirs, or if one is no number.

    It is decided on the device, the same on all. Spikes count in the median, so that what has
    become usual is none for ever; half a window must have been seen. Schedules go on.
    """

    norm: float = 5.0
    loss: float = 2.0
    window: int = 128
    then: Skip | Rewind = dataclasses.field(default_factory=Skip)

    def __post_init__(self):
        check_least(self, 1, "norm", "loss", "window")
        if not isinstance(self.then, (Skip, Rewind)):
            raise ValueError(f"SpikeGuard.then: {self.then!r}; give Skip() or Rewind()")

    def init(self) -> Seen:
        """Nothing seen: what is not known is infinite."""
        unknown_W = jnp.full(self.window, jnp.inf, jnp.float32)
        return unknown_W, jnp.copy(unknown_W)

    def judge(self, seen: Seen, step: Array, norm: Array, loss: Array) -> tuple[Array, Seen]:
        """(whether this step is a spike, what has been seen with it)."""
        spike, after = jnp.zeros((), bool), []
        for old_W, value, factor in zip(seen, (norm, loss), (self.norm, self.loss), strict=True):
            value = value.astype(jnp.float32)
            usual = jnp.median(old_W)
            finite = jnp.isfinite(value)
            spike |= ~(finite & (value <= factor * usual))
            after.append(old_W.at[step % self.window].set(jnp.where(finite, value, jnp.inf)))
        return spike, (after[0], after[1])

    def apply(
        self, seen: Seen, step: Array, norm: Array, loss: Array, old: Any, new: Any
    ) -> tuple[Any, Seen, Metrics]:
        """`new`, or after a spike `old`, of which whole numbers, which count steps, are new; what
        has been seen; the metric `spikes`, the share of steps that were some.
        """
        spike, after = self.judge(seen, step, norm, loss)

        def one(before: Array, behind: Array) -> Array:
            counts = jnp.issubdtype(behind.dtype, jnp.integer)
            return behind if counts else jnp.where(spike, before, behind)

        return jax.tree.map(one, old, new), after, {"spikes": ratio(spike, jnp.ones(()))}
