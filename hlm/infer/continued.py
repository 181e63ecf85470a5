"""Continuing texts: prompts into rows of one shape, slices of the loop, and what the host does in
between.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from hlm.infer.loop import PLACES, Loop, Rows, calls
from hlm.infer.sampling import Sampling
from hlm.vocab import Codec, Encoded

MOST_ROWS = 64  # of one call
SHORTEST = 16  # symbols of a prompt's row, which is then a power of 2: few shapes, few compilations


class ContextFull(RuntimeError):
    """A row has read all that the model can remember.

    `made`: the continuations so far, bytes of each prompt.
    """

    def __init__(self, message: str, made: list[bytes]):
        super().__init__(message)
        self.made = made


@dataclasses.dataclass
class Stats:
    """What generation cost, added up over calls."""

    nbytes: int = 0  # bytes made
    symbols: int = 0  # symbols made
    # calls of the model for a symbol of every row; reading the prompts is not counted
    steps: int = 0
    backbone_steps: tuple[int, ...] = ()  # calls of the backbone of each level, outermost first
    drafts_PM: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((PLACES, 2), np.int64)
    )

    def add(self, rows: Rows, made: "Sequence[Continuation]") -> None:
        self.nbytes += sum(len(text.text) for text in made)
        self.symbols += sum(len(text.symbols) for text in made)
        self.steps += int(rows.steps)
        counted = calls(rows.cache)
        before = self.backbone_steps or (0,) * len(counted)
        self.backbone_steps = tuple(a + b for a, b in zip(before, counted, strict=True))
        self.drafts_PM = self.drafts_PM + np.asarray(rows.drafts_PM)

    @property
    def acceptance(self) -> np.ndarray:
        """Share of the drafts that were kept (`drafts_PM`: read, kept) by their place in the word,
        0 for its first byte; NaN where none.
        """
        read, kept = self.drafts_PM.T
        return np.where(read > 0, kept / np.maximum(read, 1), np.nan)

    @property
    def bytes_per_step(self) -> float:
        return self.nbytes / max(self.steps, 1)

    @property
    def bytes_per_backbone_step(self) -> float:
        return self.nbytes / max(self.backbone_steps[0] if self.backbone_steps else self.steps, 1)


@dataclasses.dataclass
class Continuation:
    """One text that is being continued."""

    stops: Sequence[bytes]
    max_bytes: int
    symbols: list[int] = dataclasses.field(default_factory=list)
    text: bytes = b""
    open: bool = True

    def add(self, symbols: list[int], codec: Codec) -> None:
        """Take symbols, until the end of the document, a stop or the most bytes."""
        if not self.open:
            return
        if codec.eos in symbols:
            symbols = symbols[: symbols.index(codec.eos) + 1]
        self.symbols += symbols
        whole = codec.decode([s for s in self.symbols if s != codec.eos])
        found = [at for stop in self.stops if (at := whole.find(stop)) >= 0]
        self.open = not found and codec.eos not in symbols and len(whole) < self.max_bytes
        self.text = whole[: min([self.max_bytes, *found])]

    @property
    def streamable(self) -> bytes:
        """The text without an end that may turn out to begin a stop."""
        if not self.open:
            return self.text
        unsure = max(
            (n for stop in self.stops for n in range(len(stop)) if self.text.endswith(stop[:n])),
            default=0,
        )
        return self.text[: len(self.text) - unsure]


def continued(
    loop: Loop,
    params: Any,
    prompts: Sequence[Encoded],
    first: int,
    max_bytes: int,
    how: Sampling,
    seeds: Sequence[int],
    stops: Sequence[bytes],
    stats: Stats,
) -> Iterator[list[Continuation]]:
    """The rows after each slice of the loop, numbered from `first`; at most MOST_ROWS of them."""
    codec = loop.model.codec
    size = [len(e.token) for e in prompts]
    B, T = power_of_2(len(prompts), 1), power_of_2(max(size), SHORTEST)
    token_BT, level_BT = np.full((B, T), codec.bos, np.int32), np.zeros((B, T), np.uint8)
    for i, e in enumerate(prompts):
        token_BT[i, : size[i]], level_BT[i, : size[i]] = e.token, e.level
    rest = B - len(prompts)
    size_B, left_B = (
        np.array(size + [1] * rest, np.int32),
        np.array([max_bytes] * len(prompts) + [0] * rest, np.int32),
    )
    number_B, seed_B = (
        np.arange(first, first + B, dtype=np.int32),
        np.array([*seeds, *[0] * rest], np.int32),
    )
    made = [Continuation(stops, max_bytes, open=max_bytes > 0) for _ in prompts]
    rows = loop.begin(params, token_BT, level_BT, size_B, left_B, number_B, how=how, seed=seed_B)
    while True:
        count_B, made_BN, open_B, full_B = jax.device_get(
            (rows.count_B, rows.made_BN, rows.open_B, rows.full_B)
        )
        for i, row in enumerate(made):
            row.add(made_BN[i, : count_B[i]].tolist(), codec)
            row.open &= bool(open_B[i])
        if not any(row.open for row in made):
            break
        if (full_B & open_B).any():
            i = int(np.argmax(full_B & open_B))
            stats.add(rows, made)
            raise ContextFull(
                f"the context is full: text {first + i} has {size[i] + len(made[i].symbols)} "
                "symbols, and layers without a window "
                f"hold {loop.capacity} at each level; shorten the prompt, or ask for fewer "
                f"bytes than max_bytes={max_bytes}",
                [row.text for row in made],
            )
        yield made
        stopped_B = np.array([not row.open for row in made] + [True] * rest)
        rows = rows.replace(open_B=open_B & ~stopped_B)
        rows = loop.go(params, rows, how=how, seed=seed_B)
    stats.add(rows, made)
    yield made


def power_of_2(n: int, least: int) -> int:
    return max(least, 1 << max(n - 1, 0).bit_length())
