"""Objectives: what training wants besides the likelihood of the next symbol.

`LM.objectives` is a tuple of them. One may lengthen the row before the trunk reads it; afterwards
it sees the outputs and what the parts left for it (hlm/auxiliary.py), and gives named losses. One
of one's own, in full:

    @dataclasses.dataclass(frozen=True)
    class ConfidencePenalty(Objective):
        "Entropy of the next symbol's distribution, wanted high (Pereyra et al. 2017)."

        def losses(self, seen):
            log_p_BLV = jax.nn.log_softmax(seen.logits(seen.y_BLD)[:, :, 0])
            nats_BL = jnp.sum(jnp.exp(log_p_BLV) * log_p_BLV, axis=-1)
            nats_BL = self.weight(seen) * nats_BL
            return Aux(losses={"loss/confidence": mean_of_rows(nats_BL, seen.weight_BLN[:, :, 0])})

What counts, decided once and here: losses of likelihood count targets by their weight from the
data, which is 0 for a prompt that is read and not learned; losses of segmenters count every element
that is read.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from hlm.auxiliary import Aux
from hlm.config import check_least
from hlm.metrics import Mean
from hlm.model.insert import Longer
from hlm.seq import Batch, Seq

Array = jax.Array


@runtime_checkable
class Schedule(Protocol):
    """A factor at a fraction 0..1 of training (hlm/train/schedule.py)."""

    def __call__(self, fraction: Array) -> Array: ...


@struct.dataclass
class Step:
    """Which step of training this is, and what of the whole batch a micro-batch has to know."""

    step: Array  # int32: steps done
    steps: int = struct.field(pytree_node=False)  # of the run
    # weight of each head's targets in the whole batch, times this micro-batch's share of the step
    count_N: Array

    @property
    def fraction(self) -> Array:
        return jnp.clip(self.step.astype(jnp.float32) / self.steps, 0.0, 1.0)


@struct.dataclass
class Lengthened:
    """A row that an objective made longer for the trunk to read."""

    seq: Seq  # [B, M]
    longer: Longer


@dataclasses.dataclass(frozen=True)
class Seen:
    """What an objective sees of a forward pass."""

    model: Any  # the bound LM
    batch: Batch
    y_BLD: Array  # outputs of the row's own elements, behind the last norm
    longer_BMD: Array | None  # those of the row that this objective made longer
    aux: Aux
    target_BLN: Array
    weight_BLN: Array
    nll_BLN: Array
    step: Step | None  # None: not in training
    key: Array | None  # of the noise of this step, as `lengthen` got it; None: no noise

    def logits(self, y_BLD: Array) -> Array:
        """Logits [B, L, N, V] of all heads, float32."""
        return self.model.heads(y_BLD, self.model.codec.predicted)

    def nats(self, y_BLD: Array, target_BL: Array) -> Array:
        """Surprise of head 1 at these targets; [B, L]."""
        target_BLN = jnp.repeat(target_BL[:, :, None], self.model.heads.ahead, axis=2)
        return self.model.heads(y_BLD, self.model.codec.predicted, target_BLN)[0][:, :, 0]


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """Base of all objectives.

    `loss_weight`: of its loss, where that of the next symbol is 1; `schedule` multiplies it.
    """

    loss_weight: float = dataclasses.field(default=1.0, kw_only=True)
    schedule: Schedule | None = dataclasses.field(default=None, kw_only=True)
    # the activations that it learns from, which some part must leave
    takes: ClassVar[type | None] = None
    # why its losses are of a whole batch and not a sum over micro-batches; None: they add up
    whole_batch: ClassVar[str | None] = None

    def __post_init__(self):
        check_least(self, 0, "loss_weight")

    @property
    def target_size(self) -> float | None:
        """Elements in a chunk that a segmenter is taught to make; None: it teaches none."""
        return None

    def given_ends(self, batch: Batch) -> Array | None:
        """Where the data says that chunks end, for objectives that teach this; bool [B, L]."""
        return None

    def check(self, model: Any) -> None:  # noqa: B027  (most need nothing)
        """ValueError, naming the field, if an LM cannot be trained by this."""

    def lengthen(self, seq: Seq, key: Array | None) -> Lengthened | None:
        """A longer row for the trunk; None: the row as it is. `key`: of noise; None in
        evaluation.
        """
        return None

    @abc.abstractmethod
    def losses(self, seen: Seen) -> Aux:
        """Its losses, and metrics if it has any."""

    def weight(self, seen: Seen) -> Array | float:
        """`loss_weight` at this step."""
        if self.schedule is None or seen.step is None:
            return self.loss_weight
        return self.loss_weight * self.schedule(seen.step.fraction)


@dataclasses.dataclass(frozen=True)
class Ahead(Objective):
    """Multi-token prediction: the further heads of `Heads(ahead=...)` share `loss_weight` (Gloeckle
    et al. 2024).
    """

    loss_weight: float = dataclasses.field(default=0.2, kw_only=True)

    def check(self, model: Any) -> None:
        if model.heads.ahead < 2:
            raise ValueError(
                f"objectives: Ahead trains further heads; heads.ahead is {model.heads.ahead}, "
                "give 2 or more"
            )

    def losses(self, seen: Seen) -> Aux:
        out, N = Aux(), seen.nll_BLN.shape[2]
        for i in range(1, N):
            weight_BL = seen.weight_BLN[:, :, i]
            total, count = jnp.sum(seen.nll_BLN[:, :, i] * weight_BL), jnp.sum(weight_BL)
            share = self.weight(seen) / (N - 1)
            whole = count if seen.step is None else seen.step.count_N[i]
            out |= Aux(
                {f"loss_ahead_{i + 1}": Mean(total, count)},
                {f"loss/ahead_{i + 1}": Mean(share * total, whole)},
            )
        return out


def check(model: Any) -> None:
    """Refuse objectives that cannot train this LM, and further heads that none trains."""
    for objective in model.objectives:
        objective.check(model)
    if model.heads.ahead > 1 and not any(isinstance(o, Ahead) for o in model.objectives):
        raise ValueError(
            f"heads.ahead: {model.heads.ahead} heads, but objectives train one only; add "
            "hlm.objective.Ahead()"
        )


def everything_taken(objectives: tuple[Objective, ...], aux: Aux) -> None:
    """Refuse activations that no objective learns from, and objectives for which there are none."""
    for found in aux.left:
        if not any(o.takes is not None and isinstance(found, o.takes) for o in objectives):
            kind = type(found).__name__
            remedy = getattr(found, "remedy", f"add an objective that takes {kind}")
            raise ValueError(f"model.objectives: none of {objectives} learns from {kind}; {remedy}")
    for o in objectives:
        if o.takes is not None and not aux.all(o.takes):
            raise ValueError(
                f"model.objectives: {o} learns from {o.takes.__name__}, and no part of the "
                "model leaves any"
            )
