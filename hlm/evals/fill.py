"""How well a model fills gaps (fill-in-the-middle on random spans): its surprise at what is missing, and whether it writes just that.

The gaps are the same for all models: up to LONGEST characters, with up to AROUND characters on either side. The control is the same model
without the text behind the gap; where it writes, it is told how many bytes are missing.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import rich
from rich.progress import track

from hlm.gaps import Gap
from hlm.infer.api import LanguageModel, Score

GAPS, LONGEST, AROUND = 512, 16, 120
MORE = 32  # bytes that the model may write beyond what is missing
GROUP = 64  # gaps at once


class Hole(NamedTuple):
    before: bytes
    middle: bytes
    after: bytes


class Tally(NamedTuple):
    nats: float
    exact: int


def evaluate(lm: LanguageModel, documents: Sequence[bytes], seed: int = 0) -> dict[str, Any]:
    """Of what is missing, with the text behind the gap and without: bits per byte, end of the gap left out, and the share that greedy
    writing gets exactly right; and the totals. ValueError if no document has AROUND characters."""
    found = holes(documents, seed)
    groups = [found[k : k + GROUP] for k in range(0, len(found), GROUP)]
    tallies = [
        (filled(lm, g), continued(lm, g)) for g in track(groups, "fill", transient=True, disable=not rich.get_console().is_terminal)
    ]
    nbytes = sum(len(hole.middle) for hole in found)
    out: dict[str, Any] = {"gaps": len(found), "bytes": nbytes}
    for way, of_way in zip(("", "_without_suffix"), zip(*tallies, strict=True), strict=True):
        out[f"bits_per_byte{way}"] = sum(t.nats for t in of_way) / math.log(2) / nbytes
        out[f"exact{way}"] = sum(t.exact for t in of_way) / len(found)
    return out


def holes(documents: Sequence[bytes], seed: int) -> list[Hole]:
    """GAPS of them, at places that follow from the texts and `seed`: a document has as many as its share of the text."""
    rng = np.random.default_rng(seed)
    starts = [np.flatnonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80) for text in documents]  # of characters
    room = np.array([max(len(s) - AROUND, 0) for s in starts])
    if not room.any():
        raise ValueError(f"fill: no document has more than {AROUND} characters; give longer ones with --data")
    out = []
    for which in rng.choice(len(documents), GAPS, p=room / room.sum()):
        text, ends = documents[which], np.append(starts[which], len(documents[which]))
        size = int(rng.integers(1, LONGEST + 1))
        first = int(rng.integers(0, len(ends) - size))
        at = [max(first - AROUND, 0), first, first + size, min(first + size + AROUND, len(ends) - 1)]
        out.append(Hole(*(text[ends[a] : ends[b]] for a, b in itertools.pairwise(at))))
    return out


def filled(lm: LanguageModel, part: Sequence[Hole]) -> Tally:
    """By the model."""
    scores = lm.score([Gap(h.before + h.middle, h.after) for h in part], complete=False)
    made = lm.generate([Gap(h.before, h.after) for h in part], max(len(h.middle) for h in part) + MORE)
    return tally(part, scores, made)


def continued(lm: LanguageModel, part: Sequence[Hole]) -> Tally:
    """By the model without what is behind the gap."""
    scores = lm.score([h.before + h.middle for h in part], complete=False)
    made = lm.generate([h.before for h in part], max(len(h.middle) for h in part))
    return tally(part, scores, [text[: len(h.middle)] for text, h in zip(made, part, strict=True)])


def tally(part: Sequence[Hole], scores: Sequence[Score], made: Sequence[bytes]) -> Tally:
    nats = sum(float(score.per_byte[-len(h.middle) :].sum()) for score, h in zip(scores, part, strict=True))
    return Tally(nats, sum(text == h.middle for text, h in zip(made, part, strict=True)))
