"""How well a model that looks both ways (hlm.masked.MaskedLM) guesses hidden words of documents.

Two ways to hide: every seventh word together, each in its turn, as many as in training; and each
word alone, with all others in sight, whose surprises add up to the pseudo-log-likelihood of the
text (Salazar et al. 2020). Either way each word is guessed once and all of its letters are behind
MASK: every byte but ASCII white space. A text longer than a row is read in windows, as
`LanguageModel.score` does.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import rich
from rich.progress import track

from hlm import sharding
from hlm.data.pack import Row, empty_row, stack, windows
from hlm.data.pipeline import encode
from hlm.data.source import Record, prompt_of
from hlm.evals.measure import Measure
from hlm.evals.measure import ratio as measured
from hlm.evals.suite import Found, Setting, Suite
from hlm.infer.api import LanguageModel
from hlm.papers.masked import LETTER, SYMBOLS
from hlm.seq import Batch
from hlm.vocab import Encoded

TOGETHER = 7  # every seventh word is hidden: 14 %
Span = tuple[int, int]  # first element of a word in its row, and that behind its last


class Job(NamedTuple):
    """One forward pass of a row."""

    row: Row
    hidden: np.ndarray  # bool [L]
    # the hidden words that are counted here; the others are counted in another window of the text
    counted: list[Span]


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over hidden words; every reported number is a ratio of two of them."""

    letters: int = 0
    words: int = 0
    nats: float = 0.0
    letters_right: int = 0  # by its piece, for models that guess pieces
    words_right: int = 0  # all letters right

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            *(
                a + b
                for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
            )
        )

    def report(self, model: Any) -> dict[str, Any]:
        """The ratios (None: nothing was hidden) by the model's names for them, then the totals."""
        return {
            model.bits: ratio(self.nats / math.log(2), self.letters),
            model.accuracy: ratio(self.letters_right, self.letters),
            "masked_word_accuracy": ratio(self.words_right, self.words),
        } | dataclasses.asdict(self)


def ratio(total: float, weight: float) -> float | None:
    return total / weight if weight else None


def evaluate(
    lm: LanguageModel, documents: Sequence[bytes], excerpt: Sequence[bytes]
) -> dict[str, Any]:
    """{"together": `Totals.report` of the documents, "alone": of the excerpt, where every word
    costs a forward pass}.
    """
    return {
        "together": measure(lm, documents, TOGETHER, title="masked: every seventh word"),
        "alone": measure(lm, excerpt, None, title="masked: word by word"),
    }


def glance(lm: LanguageModel, documents: Sequence[bytes]) -> dict[str, Any]:
    """`Totals.report` of one word in seven, in one pass: enough to watch a run by."""
    return measure(lm, documents, TOGETHER, turns=1)


def measure(
    lm: LanguageModel,
    documents: Sequence[bytes],
    every: int | None,
    turns: int | None = None,
    title: str = "masked",
) -> dict[str, Any]:
    """`Totals.report` with every `every`-th word of a row hidden at a time (None: one word), in so
    many turns (None: all).
    """
    return sum(totals(lm, documents, every, turns, title), Totals()).report(lm.model)


def totals(
    lm: LanguageModel,
    documents: Sequence[bytes],
    every: int | None,
    turns: int | None = None,
    title: str = "masked",
) -> list[Totals]:
    """`measure`, of each document."""
    if lm.model.causal:
        raise ValueError(
            f"masked: a {type(lm.model).__name__} guesses what follows, not hidden words; use "
            "eval.py --suite perplexity"
        )
    owned = [
        (i, job)
        for i, text in enumerate(documents)
        for job in jobs(lm, encode(lm.codec, Record(text, True, prompt_of(text))), every, turns)
    ]
    found = [Totals() for _ in documents]
    parts = [owned[k : k + lm.rows] for k in range(0, len(owned), lm.rows)]
    for part in track(parts, title, transient=True, disable=not rich.get_console().is_terminal):
        for (i, _), counted in zip(part, guessed(lm, [job for _, job in part]), strict=True):
            found[i] += counted
    expected = sum(
        int(job.hidden[start:stop].sum()) for _, job in owned for start, stop in job.counted
    )
    letters, nats = sum(t.letters for t in found), sum(t.nats for t in found)
    if letters != expected:
        raise RuntimeError(
            f"{letters} of {expected} hidden letters were guessed; every letter must be"
        )
    if not math.isfinite(nats):
        raise FloatingPointError(f"the model gives {nats} nats for {letters} hidden letters")
    return found


def jobs(
    lm: LanguageModel, encoded: Encoded, every: int | None, turns: int | None
) -> Iterator[Job]:
    """Hide every `every`-th word of a row (None: one) in each of its first `turns` turns (None:
    all); a word counts in the first window that holds all of it."""
    # of each symbol; a word is, if its last one is
    learned = np.ones(len(encoded.token)) if encoded.weight is None else encoded.weight
    read = 0  # the last symbol of the words so far
    most_asked: int | None = lm.model.heads.most  # pyright: ignore[reportAttributeAccessIssue]  (heads of a masked model)
    for window in windows(encoded, lm.budget, lm.context):
        row, size = window.row, int(np.count_nonzero(window.row["doc"]))
        before = window.stop - size - 1  # element k is symbol `before` + k
        ends = np.flatnonzero(row["level"][1:size]) + 1
        spans = list(zip([1, *(ends[:-1] + 1)], ends + 1, strict=False))
        if spans and not encoded.level[before]:  # the window begins inside a word
            start, stop = spans.pop(0)
            if before + stop - 1 > read:
                raise ValueError(
                    f"data.length: {lm.budget.length} elements are too few for a word of more "
                    f"than {stop - start}"
                )
        letter = (row["token"] < SYMBOLS) & LETTER[np.minimum(row["token"], SYMBOLS - 1)]
        words = [
            (int(start), int(stop))
            for start, stop in spans
            if letter[start:stop].any() and learned[before + stop - 1]
        ]
        step = every or len(words)
        for turn in range(step)[:turns]:
            for group in groups(words[turn::step], row, most_asked):
                hidden = np.zeros(len(letter), bool)
                for start, stop in group:
                    hidden[start:stop] = letter[start:stop]
                counted = [(start, stop) for start, stop in group if before + stop - 1 > read]
                if counted:
                    yield Job(row, hidden, counted)
        read = max(read, before + int(ends[-1])) if len(ends) else read


def groups(words: list[Span], row: Row, most: int | None) -> Iterator[list[Span]]:
    """The words in lists of at most `most` pieces (None: all at once)."""
    group, held = [], 0
    for start, stop in words:
        size = int(np.count_nonzero(row["label"][start:stop]))
        if group and most is not None and held + size > most:
            yield group
            group, held = [], 0
        group.append((start, stop))
        held += size
    if group:
        yield group


def guessed(lm: LanguageModel, part: list[Job]) -> list[Totals]:
    """Of each of at most `lm.rows` jobs."""
    spare = lm.rows - len(part)
    batch = Batch(**stack([job.row for job in part] + [empty_row(lm.budget)] * spare))
    hidden = np.stack([job.hidden for job in part] + [np.zeros(lm.budget.length, bool)] * spare)
    with jax.set_mesh(lm.mesh):
        run = compiled(lm.model, lm.mesh)  # pyright: ignore[reportArgumentType]  (a linen module is hashable)
        found = run(lm.params, sharding.spread(batch, lm.mesh), sharding.spread(hidden, lm.mesh))
    found = jax.device_get(found)
    totals = [Totals() for _ in part]
    for i, job in enumerate(part):
        for start, stop in job.counted:
            nats, letters, right = (a[i, start:stop].sum() for a in found)
            totals[i] += Totals(int(letters), 1, float(nats), int(right), int(right == letters))
    return totals


@functools.cache
def compiled(model: Any, mesh: jax.sharding.Mesh) -> Any:
    """(nats, letters that are guessed, those of them that are right), all [B, L]."""

    @functools.partial(jax.jit, out_shardings=sharding.everywhere(mesh))
    def run(params: Any, batch: Batch, hidden_BL: jax.Array) -> tuple[jax.Array, ...]:
        out: Any = model.apply({"params": params}, batch, hidden_BL, method="guess")
        letter_BL = out.nbytes_BL > 0
        return out.nll_BLN[:, :, 0] * out.weight_BLN[:, :, 0], letter_BL, letter_BL & out.hit_BL

    return run


class Masked(Suite):
    """Hidden words of the text that is given. Chance is 8 bits a letter; what a model of the
    letters' frequencies reaches is about half of that. A unit is a document.
    """

    usual = True

    def fits(self, lm: LanguageModel) -> bool:
        return not lm.model.causal

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        texts = [document.text for document in setting.documents]
        together = totals(lm, texts, TOGETHER, title="masked: every seventh word")
        alone = totals(lm, setting.excerpt, None, title="masked: word by word")
        return Found(
            {
                "masked: every seventh word": {"": measures(lm.model, together)},
                "masked: each word alone (pseudo-likelihood)": {"": measures(lm.model, alone)},
            }
        )


def measures(model: Any, found: Sequence[Totals]) -> dict[str, Measure]:
    """By the model's names for them; units are documents."""
    letters = [t.letters for t in found]
    return {
        model.bits: measured([t.nats / math.log(2) for t in found], letters),
        model.accuracy: measured([t.letters_right for t in found], letters),
        "masked_word_accuracy": measured([t.words_right for t in found], [t.words for t in found]),
        "letters_count": measured([sum(letters)], [1]),
    }
