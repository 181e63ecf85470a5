"""What a model makes of texts, as numbers: the bits of each byte, and where its chunks end."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hlm.fim import Infill


@dataclasses.dataclass(frozen=True)
class View:
    """Of one text.

    `bits`: of each byte; None: the model gives no likelihood. `ends`: for each level, lowest first,
    where its chunks stop, in bytes, that at the end of the text included; a flat model has none,
    and one over subwords has its pieces. `gap`: where text is missing (of an `Infill`).
    """

    text: bytes
    bits: tuple[float, ...] | None
    ends: tuple[tuple[int, ...], ...]
    unit: str = "chunk"  # what ends at the first level
    gap: int | None = None


def views(lm: Any, prompts: Sequence[bytes | Infill]) -> list[View]:
    """What a LanguageModel makes of each; it reads all of them at once."""
    scores = lm.score(prompts, complete=False) if lm.model.causal else [None] * len(prompts)
    cut = lm.ends(prompts) if lm.budget.chunks else [None] * len(prompts)
    return [_view(lm, *one) for one in zip(prompts, scores, cut, strict=True)]


def _view(lm: Any, prompt: bytes | Infill, score: Any, cut: list[list[int]] | None) -> View:
    bits = None if score is None else (score.per_byte / math.log(2)).tolist()
    unit = "chunk"
    if cut is None:
        nbytes = lm.encode(prompt).nbytes
        pieces = nbytes.max(initial=0) > 1  # otherwise its symbols are its bytes
        cut = [np.unique(np.cumsum(nbytes, dtype=np.int64)[nbytes > 0]).tolist()] if pieces else []
        unit = "piece"
    if not isinstance(prompt, Infill):
        return View(prompt, bits and tuple(bits), tuple(map(tuple, cut)), unit)
    before, after = (as_bytes(part) for part in (prompt.prefix, prompt.suffix))
    # What comes after the gap is read first.
    if bits is not None:
        bits = (*bits[len(after) :], *bits[: len(after)])
    ends = tuple(
        tuple(sorted(s - len(after) if s > len(after) else s + len(before) for s in stops))
        for stops in cut
    )
    return View(before + after, bits, ends, unit, len(before))


def as_bytes(part: str | bytes) -> bytes:
    return part.encode() if isinstance(part, str) else bytes(part)


def beginning(text: bytes, most: int) -> bytes:
    """At most so many first bytes, whole characters."""
    stop = min(most, len(text))
    for back in range(min(4, stop + 1)):
        if stop - back == len(text) or text[stop - back] & 0xC0 != 0x80:
            return text[: stop - back]
    return text[:stop]  # no UTF-8
