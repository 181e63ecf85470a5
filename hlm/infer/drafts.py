"""Drafters for speculative decoding: who guesses the symbols that the model then reads at once and
verifies.

Whatever is guessed, what is made is the same text (hlm/infer/speculate.py); drafts only change how
many calls it takes.

    newest  drafts          model's own        kept
    "_"     w  h  a  t      w  h  e            w h, and then e
"""

import abc
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from hlm.model.lm import LM

if TYPE_CHECKING:
    from hlm.infer.loop import Loop, Rows

Array = jax.Array
# ends of chunks in a step whose drafts go past the backbone, where they are known before the model
# reads
DRAFTED_ENDS = 2


@dataclasses.dataclass(frozen=True)
class Drafter(abc.ABC):
    """Base of all drafters: `count` drafts in each step."""

    count: int

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(
                f"{type(self).__name__}.count: {self.count}; a drafter drafts 1 symbol or more"
            )

    @abc.abstractmethod
    def check(self, model: LM) -> None:
        """ValueError if a model cannot be drafted for in this way."""

    def ends(self, known: bool) -> int:
        """Ends of chunks in a step at most; `known`: they follow from the symbols alone."""
        return 1 if known else 1 + self.count

    @abc.abstractmethod
    def verifiable(self, ends_BT: Array, known: bool) -> Array:
        """Which of the newest symbol and its drafts to read, by where chunks would end; bool [B,
        T].
        """

    def after(self, logits_BNV: Array) -> Array:
        """Drafts [B, count] behind the symbol that head 1 predicts, from the logits of all heads at
        the newest symbol.
        """
        return jnp.zeros((logits_BNV.shape[0], self.count), jnp.int32)

    def propose(self, loop: "Loop", params: Any, rows: "Rows") -> "Rows":
        """The rows with their drafts, before the newest symbol is read."""
        return rows


class HeadDrafts(Drafter):
    """Multi-token prediction heads guess what follows the newest symbol, inside a chunk: no call of
    the model.
    """

    def check(self, model: LM) -> None:
        if self.count >= model.heads.ahead:
            raise ValueError(
                f"speculate: {self.count} drafts need heads.ahead={self.count + 1}; this "
                f"model has {model.heads.ahead}"
            )

    def verifiable(self, ends_BT: Array, known: bool) -> Array:
        """A wrong end would cost a step of the backbone."""
        return jnp.cumsum(ends_BT.at[:, 0].set(False), axis=1) == 0

    def after(self, logits_BNV: Array) -> Array:
        return jnp.argmax(logits_BNV[:, 1 : 1 + self.count], axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class ChunkDrafts(Drafter):
    """The model itself drafts, with a cheaper module in the backbone's place
    (hlm/papers/chunk_mtp.py).

    Each of its calls reads the symbols that the last one guessed; `heads` guess as many symbols in
    one call.
    """

    heads: int = 1

    def check(self, model: LM) -> None:
        if not model.trunk.can_draft:
            raise ValueError(
                "speculate: drafts past the backbone need a trunk "
                "hlm.chunk_mtp.DraftingHierarchy; this model has none"
            )
        if not 1 <= self.heads <= model.heads.ahead:
            raise ValueError(f"ChunkDrafts.heads: {self.heads}; this model has {model.heads.ahead}")

    def ends(self, known: bool) -> int:
        return min(DRAFTED_ENDS, 1 + self.count) if known else 1 + self.count

    def verifiable(self, ends_BT: Array, known: bool) -> Array:
        return jnp.cumsum(ends_BT, axis=1) <= self.ends(known)

    def propose(self, loop: "Loop", params: Any, rows: "Rows") -> "Rows":
        read = loop.decoding(False, draft=True)

        def guess(
            machine: Any, cache: Any, token_BI: Array, pos_B: Array
        ) -> tuple[Any, Any, Array]:
            """Read symbols and guess `heads` more."""
            _, level_BI, machine = loop.follow(machine, token_BI, rows.live_B)
            live_BI = rows.live_B[:, None] & self.verifiable(level_BI > 0, loop.known)
            logits_BINV, _, cache = loop.advance(
                params, cache, token_BI, live_BI, pos_B, level_BI, read
            )
            return (
                machine,
                cache,
                jnp.argmax(logits_BINV[:, -1, : self.heads], axis=-1).astype(jnp.int32),
            )

        def further(carry: Any, i: Array) -> tuple[Any, Array]:
            machine, cache, token_BI = carry
            machine, cache, more_BI = guess(
                machine, cache, token_BI, rows.pos_B + 1 + i * self.heads
            )
            return (machine, cache, more_BI), more_BI

        carry = guess(rows.machine, rows.cache, rows.token_B[:, None], rows.pos_B)
        rounds = -(-self.count // self.heads)
        (_, cache, _), more_RBI = jax.lax.scan(
            further, carry, jnp.arange(rounds - 1, dtype=jnp.int32)
        )
        draft_BK = (
            jnp.concatenate([carry[2][None], more_RBI])
            .swapaxes(0, 1)
            .reshape(-1, rounds * self.heads)
        )
        return dataclasses.replace(
            rows, cache=cache, draft_BK=draft_BK[:, : self.count], steps=rows.steps + rounds
        )
