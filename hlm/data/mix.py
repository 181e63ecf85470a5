"""Mixing: texts of several sources in one stream, each with its share of what is read."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain

from hlm.data.deal import Place
from hlm.vocab import Encoded


class Drawn(NamedTuple):
    source: int  # its number
    place: Place  # behind the record
    text: Encoded


class Mix(grain.IterDataset[Drawn]):
    """Draws from whatever is owed most; `cost` says what a text counts, and `weights` are shares of
    that.
    """

    def __init__(
        self,
        parents: Sequence[grain.IterDataset[Drawn]],
        weights: Sequence[float],
        cost: Callable[[Encoded], int],
    ):
        super().__init__(parents)
        self.shares = [weight / sum(weights) for weight in weights]
        self.cost = cost

    def __iter__(self) -> grain.DatasetIterator[Drawn]:
        return MixIterator([iter(parent) for parent in self._parents], self.shares, self.cost)


class MixIterator(grain.DatasetIterator[Drawn]):
    """Its state is that of its parents, and what each of them is owed.

    What is owed adds up to 0 and stays below the cost of the longest text, so that a run may go on
    with other weights: it takes the new shares from there on.
    """

    def __init__(
        self,
        parents: Sequence[grain.DatasetIterator[Drawn]],
        shares: Sequence[float],
        cost: Callable[[Encoded], int],
    ):
        super().__init__(parents)
        self.shares, self.cost = shares, cost
        self.owed = [0.0] * len(parents)
        self.states = [parent.get_state() for parent in parents]

    def __next__(self) -> Drawn:
        i = self.owed.index(max(self.owed))
        drawn = next(self._parents[i])
        cost = self.cost(drawn.text)
        self.owed = [
            owed + share * cost for owed, share in zip(self.owed, self.shares, strict=True)
        ]
        self.owed[i] -= cost
        self.states = [*self.states]  # states that were given out stay as they are
        self.states[i] = self._parents[i].get_state()
        return drawn

    def get_state(self) -> dict[str, Any]:
        return {"parents": self.states, "owed": self.owed}

    def set_state(self, state: dict[str, Any]) -> None:
        for parent, saved in zip(self._parents, state["parents"], strict=True):
            parent.set_state(saved)
        self.states, self.owed = list(state["parents"]), list(state["owed"])


def by_bytes(encoded: Encoded) -> int:
    """Bytes of text; an empty text counts 1, or one after the other would be free."""
    return max(int(encoded.nbytes.sum()), 1)


def by_records(encoded: Encoded) -> int:
    return 1
