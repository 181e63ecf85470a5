"""What a model makes of an example text: where its chunks end, and how much each character
surprised it, to be shown under each other for all models (hlm/evals/page.py).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hlm.evals.boundaries import Boundaries, ends
from hlm.infer.api import LanguageModel

LONGEST, MOST = 240, 3  # bytes of an example, examples


@dataclasses.dataclass(frozen=True)
class View:
    """Of one text: its characters, bits of each (None: the model gives no likelihood), and whether
    a chunk ends behind it or inside of it.
    """

    characters: tuple[str, ...]
    bits: tuple[float | None, ...]
    ends: tuple[bool, ...]


def examples(texts: Sequence[bytes]) -> list[bytes]:
    """Beginnings of the first texts of different kinds, whole characters."""
    found = []
    for text in texts:
        start = text.strip()[:LONGEST]
        cut = start.decode(errors="ignore").encode()
        if cut and cut not in found:
            found.append(cut)
        if len(found) == MOST:
            break
    return found


def views(lm: LanguageModel, texts: Sequence[bytes]) -> list[View]:
    """One for each text."""
    scores = lm.score(list(texts), complete=False) if lm.model.causal else [None] * len(texts)
    cut = ends(lm, texts) if Boundaries().fits(lm) else [set()] * len(texts)
    out = []
    for text, score, stops in zip(texts, scores, cut, strict=True):
        characters = text.decode(errors="surrogateescape")
        sizes = [len(c.encode(errors="surrogateescape")) for c in characters]
        stop = np.cumsum([0, *sizes])
        spans = list(zip(stop[:-1].tolist(), stop[1:].tolist(), strict=True))
        bits = [
            None if score is None else float(score.per_byte[a:b].sum() / math.log(2))
            for a, b in spans
        ]
        ended = [any(a < s <= b for s in stops) for a, b in spans]
        shown = characters.encode("utf-8", "replace").decode() if characters else ""
        out.append(View(tuple(shown), tuple(bits), tuple(ended)))
    return out
