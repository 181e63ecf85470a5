"""Auxiliary outputs: what a part gives besides its output.

Numbers to report, losses to add, and activations that another part or an objective
(hlm/model/objective.py) waits for. Activations are found by their type, so that giver and taker
share a class and not a name:

    @struct.dataclass
    class EndLogits:                # in the file of the segmenter that predicts ends
        logit_BL: Array
        remedy: ClassVar[str] = "give the objective Spikes()"    # said if no objective takes them

    return ends_BL, None, Aux(left=(EndLogits(logit_BL),))      # the segmenter leaves them
    (found,) = aux.all(EndLogits)                               # the objective takes them
"""

from typing import Any, TypeVar

import jax
from flax import struct

from hlm.metrics import Metrics, under

Array = jax.Array
T = TypeVar("T")


@struct.dataclass
class Aux:
    """Metrics, losses and activations of one part or of several, joined by `|`."""

    metrics: Metrics = struct.field(default_factory=dict)  # numbers that add up
    # means that are added to the training loss, and reported as metrics are
    losses: Metrics = struct.field(default_factory=dict)
    left: tuple[Any, ...] = ()  # activations, each in a dataclass of its own

    def __or__(self, other: "Aux") -> "Aux":
        if twice := sorted(self.losses.keys() & other.losses.keys()):
            raise ValueError(
                f"losses: two parts or objectives give {', '.join(twice)}: take one out"
            )
        return Aux(
            {**self.metrics, **other.metrics},
            {**self.losses, **other.losses},
            (*self.left, *other.left),
        )

    def under(self, prefix: str) -> "Aux":
        """The same with `prefix/` before the names of metrics and losses."""
        return Aux(under(prefix, self.metrics), under(prefix, self.losses), self.left)

    def all(self, kind: type[T]) -> list[T]:
        """The activations of this type, in the order in which the parts left them."""
        return [found for found in self.left if isinstance(found, kind)]

    def first(self, kind: type[T]) -> T | None:
        return next(iter(self.all(kind)), None)

    def without(self, kind: type) -> "Aux":
        """All but the activations of this type."""
        return Aux(
            self.metrics,
            self.losses,
            tuple(found for found in self.left if not isinstance(found, kind)),
        )


@struct.dataclass
class Reading:
    """Another output of the decoder, which the LM normalises as it does the output: [B, L, D]."""

    y_BLD: Array


@struct.dataclass
class Ready:
    """In decoding: which of these elements have their output now; bool [B, L]. A trunk that leaves
    none never waits.
    """

    there_BL: Array
