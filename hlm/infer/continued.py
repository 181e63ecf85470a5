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
SHORTEST = 16  # symbols of a prompt's row, whose lengths are few, and so are compilations
SMALL_ROOM = (
    512  # elements that caches have room for from the first on, where so many are asked for
)


class Made(bytes):
    """What was made of a prompt: bytes that say how they ended.

    `ended` is "eos" at the end of the document, "stop" before one of the texts to stop at, "length"
    at the most bytes, or "full" where a layer without a window has no more room. A prompt that has
    no room itself gets b"" and "full".
    """

    ended: str

    def __new__(cls, text: bytes = b"", ended: str = "length") -> "Made":
        made = super().__new__(cls, text)
        made.ended = ended
        return made


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
    ended: str | None = None  # as in `Made`; None: it goes on

    @property
    def open(self) -> bool:
        return self.ended is None

    def add(self, symbols: list[int], codec: Codec) -> None:
        """Take symbols, until a stop, the most bytes or the end of the document."""
        if not self.open:
            return
        if codec.eos in symbols:
            symbols = symbols[: symbols.index(codec.eos) + 1]
        self.symbols += symbols
        whole = codec.decode([s for s in self.symbols if s != codec.eos])
        found = [at for stop in self.stops if (at := whole.find(stop)) >= 0]
        self.text = whole[: min([self.max_bytes, *found])]
        # In this order: drafts may bring several of these at once, and change nothing.
        if found and min(found) < self.max_bytes:
            self.ended = "stop"
        elif len(whole) >= self.max_bytes:
            self.ended = "length"
        elif codec.eos in symbols:
            self.ended = "eos"

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
    """The rows after each slice of the loop, numbered from `first`; at most MOST_ROWS of them.

    A row that is full ends, and the others go on. Caches begin with room for what is to be made, or
    for a part of it if that is much, and double when it is used up.
    """
    codec = loop.model.codec
    size = [len(e.token) for e in prompts]
    B, T = power_of_2(len(prompts), 1), rounded(max(*size, SHORTEST), 2)
    token_BT, level_BT = np.full((B, T), codec.bos, np.int32), np.zeros((B, T), np.uint8)
    for i, e in enumerate(prompts):
        token_BT[i, : size[i]], level_BT[i, : size[i]] = e.token, e.level
    rest = B - len(prompts)
    size_B, left_B = (
        np.array(size + [1] * rest, np.int32),
        np.array([max_bytes] * len(prompts) + [0] * rest, np.int32),
    )
    number_B = np.arange(first, first + B, dtype=np.int32)
    seed_B = np.array([*seeds, *[0] * rest], np.uint32).view(np.int32)
    made = [Continuation(stops, max_bytes, ended=None if max_bytes else "length") for _ in prompts]
    numbers = how.numbers()
    begun = (params, token_BT, level_BT, size_B, left_B, number_B, numbers, seed_B)
    small = loop.with_room(room(T, max_bytes))
    rows = small.begin(*begun)
    while small.most is not None and np.any(rows.full_B):
        small = loop.with_room(2 * small.capacity[0])
        rows = small.begin(*begun)
    layered, started = loop.prepare(params), False
    while True:
        count_B, made_BN, open_B, full_B, crowded_B = jax.device_get(
            (rows.count_B, rows.made_BN, rows.open_B, rows.full_B, rows.crowded_B)
        )
        if small.most is not None:
            full_B = np.zeros_like(full_B)
        for i, row in enumerate(made):
            if started or not full_B[i]:  # else the prompt itself had no room
                row.add(made_BN[i, : count_B[i]].tolist(), codec)
            if row.open and full_B[i]:
                row.ended = "full"
            elif row.open and not open_B[i]:
                row.ended = "length"  # of its symbols
        if not any(row.open for row in made):
            break
        yield made
        started = True
        stopped_B = np.array([not row.open for row in made] + [True] * rest)
        rows = rows.replace(open_B=open_B & ~stopped_B)
        if np.any(crowded_B & ~stopped_B):
            small = loop.with_room(2 * small.capacity[0])
            rows = small.take_over(rows, *begun)
        rows = small.go(layered, rows, numbers, seed_B)
    stats.add(rows, made)
    yield made


def room(prompt: int, max_bytes: int) -> int:
    """Elements that caches have room for at first: 2^n, or 5/4, 3/2, 7/4 of it."""
    return rounded(max(prompt + min(max_bytes, max(SMALL_ROOM - prompt, prompt)), 4), 4)


def rounded(n: int, steps: int) -> int:
    """The next of the numbers that divide what lies between powers of 2 into so many even steps."""
    step = max(power_of_2(n, 1) // 2 // steps, 1)
    return -(-n // step) * step


def power_of_2(n: int, least: int) -> int:
    return max(least, 1 << max(n - 1, 0).bit_length())
