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

from hlm.data.source import prompt_of
from hlm.evals.measure import Measure, mean, ratio
from hlm.evals.suite import Found, Setting, Suite
from hlm.fim import FIMCodec, Infill, between_characters
from hlm.infer.api import LanguageModel, Score

GAPS, LONGEST, AROUND = 512, 16, 120
MORE = 32  # bytes that the model may write beyond the longest gap
GROUP = 64  # gaps at once


class Hole(NamedTuple):
    before: bytes
    middle: bytes
    after: bytes


class Tally(NamedTuple):
    """Of one gap."""

    nats: float
    exact: bool  # greedy writing fills it with just what is missing, and ends there
    begun: bool  # with what is missing, whatever comes after it


def evaluate(lm: LanguageModel, documents: Sequence[bytes], seed: int = 0) -> dict[str, Any]:
    """The values of `measures`, and how much they are of."""
    found = holes(documents, seed)
    values = {name: measure.value for name, measure in measures(lm, found).items()}
    return values | {"gaps": len(found), "bytes": sum(len(hole.middle) for hole in found)}


def measures(lm: LanguageModel, found: Sequence[Hole]) -> dict[str, Measure]:
    """Bits per byte of what is missing (not of its end); shares of gaps that greedy writing gets
    right. Units are gaps.
    """
    groups = [found[k : k + GROUP] for k in range(0, len(found), GROUP)]
    shown = rich.get_console().is_terminal
    ways: tuple[list[Tally], list[Tally]] = ([], [])
    for group in track(groups, "fill", transient=True, disable=not shown):
        ways[0].extend(with_suffix(lm, group))
        ways[1].extend(without_suffix(lm, group))
    size = [len(hole.middle) for hole in found]
    bits, bits_without = ([t.nats / math.log(2) for t in way] for way in ways)
    return {
        "bits_per_byte": ratio(bits, size),
        "bits_per_byte_without_suffix": ratio(bits_without, size),
        "exact": mean([t.exact for t in ways[0]]),
        "exact_given_length": mean([t.begun for t in ways[0]]),
        "exact_given_length_without_suffix": mean([t.begun for t in ways[1]]),
    }


class Fill(Suite):
    """Gaps in the text that is given, for models with codec=FIMCodec. Chance is 8 bits a byte."""

    def fits(self, lm: LanguageModel) -> bool:
        return isinstance(lm.codec, FIMCodec)

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        found = holes([document.text for document in setting.documents], setting.seed)
        return Found({f"fill: what is missing in {len(found)} gaps": {"": measures(lm, found)}})


def holes(documents: Sequence[bytes], seed: int) -> list[Hole]:
    """GAPS of them, at places that follow from the texts and `seed`, none in a prompt: a document
    has as many as its share of the text.
    """
    rng = np.random.default_rng(seed)
    places = [between_characters(text) for text in documents]
    least = [int(p.searchsorted(prompt_of(t))) for p, t in zip(places, documents, strict=True)]
    room = np.array([max(len(p) - 1 - AROUND - n, 0) for p, n in zip(places, least, strict=True)])
    if not room.any():
        raise ValueError(
            f"fill: no document has more than {AROUND} characters; give longer ones with --data"
        )
    out = []
    for which in rng.choice(len(documents), GAPS, p=room / room.sum()):
        text, ends = documents[which], places[which]
        size = int(rng.integers(1, LONGEST + 1))
        first = int(rng.integers(least[which], len(ends) - size))
        at = [
            max(first - AROUND, 0),
            first,
            first + size,
            min(first + size + AROUND, len(ends) - 1),
        ]
        out.append(Hole(*(text[ends[a] : ends[b]] for a, b in itertools.pairwise(at))))
    return out


def with_suffix(lm: LanguageModel, part: Sequence[Hole]) -> list[Tally]:
    """What the model gives and writes."""
    scores = lm.score([Infill(h.before + h.middle, h.after) for h in part], complete=False)
    return tally(
        part, scores, lm.generate([Infill(h.before, h.after) for h in part], longest(part) + MORE)
    )


def without_suffix(lm: LanguageModel, part: Sequence[Hole]) -> list[Tally]:
    """The same without what is behind the gap."""
    scores = lm.score([h.before + h.middle for h in part], complete=False)
    return tally(part, scores, lm.generate([h.before for h in part], longest(part)))


def longest(part: Sequence[Hole]) -> int:
    return max(len(h.middle) for h in part)


def tally(part: Sequence[Hole], scores: Sequence[Score], made: Sequence[bytes]) -> list[Tally]:
    return [
        Tally(
            float(score.per_byte[-len(hole.middle) :].sum()),
            text == hole.middle,
            text.startswith(hole.middle),
        )
        for hole, score, text in zip(part, scores, made, strict=True)
    ]
