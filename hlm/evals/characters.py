"""Does the model know letters? CUTE, counting and positions (CharBench), LangGame, and addition
with reversed digits.

Protocol: worked examples, then a question, made or drawn from a seed and so the same for every
model; hlm/evals/words.py and hlm/evals/cute.py say what each is. Options are compared by
log-likelihood in all (`accuracy`) and per byte; open answers count if greedy decoding writes them.
`majority` is what it gives always to say what is most often right in these questions, which counts
are skewed to: a model below it knows nothing, whatever chance is. Words for made questions are the
most frequent ones of the shipped Moby-Dick.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hlm.data.pipeline import documents
from hlm.data.source import TextFiles
from hlm.evals import cute, words
from hlm.evals.choice import Item, judge
from hlm.evals.measure import Measure, mean
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel

USUAL = 100  # questions of a kind
DIGITS = (1, 2, 3)
TEXT = TextFiles(("corpus:mobydick/train.txt",))


class Characters(Suite):
    """Needs no files; CUTE is left out without eval/cute."""

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        count = setting.most(USUAL) or 1000
        known = words.vocabulary(b"\n".join(text for _, text in documents(TEXT)))
        grids: dict[str, Grid] = {"characters: counting and positions": {}}
        for i, task in enumerate(words.CHARBENCH):
            items = words.charbench(task, known, count, generator(setting, 1, i))
            grids["characters: counting and positions"][task] = answered(lm, items)
        for i, task in enumerate(words.LANGGAME):
            items = words.langgame(task, known, count, generator(setting, 2, i))
            grids.setdefault("characters: LangGame", {})[task] = answered(lm, items)
        for digits in DIGITS:
            items = words.addition(digits, count, generator(setting, 3, digits))
            row = f"{digits} digit{'s' * (digits > 1)}"
            grids.setdefault("characters: reversed addition", {})[row] = answered(lm, items)
        files = [name for name in every_cute() if setting.shelf.has(f"eval/cute/{name}.tsv")]
        for name in files:
            place = every_cute().index(name)
            items = cute.read(
                name, setting.shelf, setting.most(USUAL), generator(setting, 4, place)
            )
            grids.setdefault("characters: CUTE", {})[name] = answered(lm, items)
        return Found(grids, notes=() if files else ("CUTE: no eval/cute/*.tsv",))


def every_cute() -> list[str]:
    return [*cute.ASK, *(f"{name}_rand" for name in cute.ASK if not name.endswith("word"))]


def generator(setting: Setting, *task: int) -> np.random.Generator:
    """Random numbers of one kind of question, whatever other kinds are asked."""
    return np.random.default_rng([setting.seed, *task])


def answered(lm: LanguageModel, items: Sequence[Item]) -> dict[str, Measure]:
    """The measures of `choice`, and the majority's."""
    found = judge(lm, items).measures()
    kinds = [item.kind for item in items]
    if any(kinds):
        (often, _), *_ = Counter(kinds).most_common(1)
        found["majority"] = mean([kind == often for kind in kinds])
    return found
