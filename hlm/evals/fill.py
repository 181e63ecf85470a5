"""How well a model fills gaps (fill-in-the-middle on random spans): its surprise at what is
missing, and whether it writes just that.

The gaps are the same for all models: up to LONGEST characters, with up to AROUND characters on
either side. The control is the same model without the text behind the gap. It cannot know where to
end, so both are also told how many bytes are missing.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import rich
from rich.progress import track

from hlm.fim import Infill, between_characters
from hlm.infer.api import LanguageModel, Score

GAPS, LONGEST, AROUND = 512, 16, 120
MORE = 32  # bytes that the model may write beyond the longest gap
GROUP = 64  # gaps at once


class Hole(NamedTuple):
    before: bytes
    middle: bytes
    after: bytes


class Tally(NamedTuple):
    nats: float
    exact: int  # gaps that greedy writing fills with just what is missing, and ends there
    begun: int  # with what is missing, whatever comes after it


def evaluate(lm: LanguageModel, documents: Sequence[bytes], seed: int = 0) -> dict[str, Any]:
    """Bits per byte of what is missing (not of its end); shares of gaps that greedy writing gets
    right; the totals.

    Raises ValueError if no document has more than AROUND characters.
    """
    found = holes(documents, seed)
    groups = [found[k : k + GROUP] for k in range(0, len(found), GROUP)]
    shown = rich.get_console().is_terminal
    tallies = [
        (with_suffix(lm, group), without_suffix(lm, group))
        for group in track(groups, "fill", transient=True, disable=not shown)
    ]
    (nats, exact, begun), (nats_without, _, begun_without) = (
        map(sum, zip(*way, strict=True)) for way in zip(*tallies, strict=True)
    )
    nbytes = sum(len(hole.middle) for hole in found)
    return {
        "bits_per_byte": nats / math.log(2) / nbytes,
        "bits_per_byte_without_suffix": nats_without / math.log(2) / nbytes,
        "exact": exact / len(found),
        "exact_given_length": begun / len(found),
        "exact_given_length_without_suffix": begun_without / len(found),
        "gaps": len(found),
        "bytes": nbytes,
    }


def holes(documents: Sequence[bytes], seed: int) -> list[Hole]:
    """GAPS of them, at places that follow from the texts and `seed`: a document has as many as its
    share of the text.
    """
    rng = np.random.default_rng(seed)
    places = [between_characters(text) for text in documents]
    room = np.array([max(len(p) - 1 - AROUND, 0) for p in places])
    if not room.any():
        raise ValueError(
            f"fill: no document has more than {AROUND} characters; give longer ones with --data"
        )
    out = []
    for which in rng.choice(len(documents), GAPS, p=room / room.sum()):
        text, ends = documents[which], places[which]
        size = int(rng.integers(1, LONGEST + 1))
        first = int(rng.integers(0, len(ends) - size))
        at = [
            max(first - AROUND, 0),
            first,
            first + size,
            min(first + size + AROUND, len(ends) - 1),
        ]
        out.append(Hole(*(text[ends[a] : ends[b]] for a, b in itertools.pairwise(at))))
    return out


def with_suffix(lm: LanguageModel, part: Sequence[Hole]) -> Tally:
    """What the model gives and writes."""
    scores = lm.score([Infill(h.before + h.middle, h.after) for h in part], complete=False)
    return tally(
        part, scores, lm.generate([Infill(h.before, h.after) for h in part], longest(part) + MORE)
    )


def without_suffix(lm: LanguageModel, part: Sequence[Hole]) -> Tally:
    """The same without what is behind the gap."""
    scores = lm.score([h.before + h.middle for h in part], complete=False)
    return tally(part, scores, lm.generate([h.before for h in part], longest(part)))


def longest(part: Sequence[Hole]) -> int:
    return max(len(h.middle) for h in part)


def tally(part: Sequence[Hole], scores: Sequence[Score], made: Sequence[bytes]) -> Tally:
    missing = [h.middle for h in part]
    nats = sum(
        float(score.per_byte[-len(m) :].sum()) for score, m in zip(scores, missing, strict=True)
    )
    right = [text.startswith(m) for text, m in zip(made, missing, strict=True)]
    return Tally(nats, sum(a == b for a, b in zip(made, missing, strict=True)), sum(right))
