"""Multiple choice and minimal pairs by log-likelihood: which continuation does the model prefer?

Protocol: zero examples. `accuracy` is that of the option with the greatest log-likelihood,
`accuracy_per_byte` with the greatest log-likelihood per byte of the option, its blank not counted
(`acc` and `acc_bytes` of lm-evaluation-harness); options that tie share the point. Minimal pairs
are whole sentences without context. LAMBADA's last word counts if greedy decoding writes it.

Chance is 1 over the number of options (0 for LAMBADA); a number means something if chance is more
than two errors away. `gap_in_bits` is how many bits the answer is ahead of the best other option,
in the mean: it tells small models apart long before accuracy does.

Prompts are those of lm-evaluation-harness: HellaSwag (Zellers et al. 2019) with its activity before
the context, here without a capital in its second half, which the file does not mark; PIQA (Bisk et
al. 2020) and ARC (Clark et al. 2018) as a question and "Answer:" in two lines; OpenBookQA (Mihaylov
et al. 2018) plain; COPA (Roemmele et al. 2011) joined by because or therefore; WinoGrande
(Sakaguchi et al. 2020) by what follows the name, given each name. LAMBADA: Paperno et al. 2016.
Pairs: BLiMP (Warstadt et al. 2020), CLAMS (Mueller et al. 2020), TurBLiMP (Basar et al. 2025).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hlm.evals.continuation import Likelihood, likelihoods
from hlm.evals.measure import Measure, mean, ratio
from hlm.evals.shelf import Missing, Shelf, some
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel

USUAL = 500  # items of a task
ROUNDING = 1e-6  # relative: log-likelihoods are float32 sums in no fixed order


class Item(NamedTuple):
    """A question: (context, continuation) of each option, which one is right, and what kind of
    question it is. With one option, the question is whether the model would write it.
    """

    options: tuple[tuple[str, str], ...]
    answer: int
    kind: str = ""


def asked(context: str, options: Sequence[str], answer: int, kind: str = "") -> Item:
    """One context for all options."""
    return Item(tuple((context, " " + option.strip()) for option in options), int(answer), kind)


def hellaswag(row: dict[str, Any]) -> Item:
    context = plain(f"{row['activity']}: {row['ctx']}")
    return asked(context, [plain(ending) for ending in row["endings"]], row["label"])


def plain(text: str) -> str:
    """WikiHow text without its marks."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()


def piqa(row: dict[str, Any]) -> Item:
    return asked(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"])


def arc(row: dict[str, Any]) -> Item:
    options = row["choices"]
    answer = options["label"].index(row["answerKey"])
    return asked(f"Question: {row['question']}\nAnswer:", options["text"], answer)


def openbookqa(row: dict[str, Any]) -> Item:
    options = row["choices"]
    answer = options["label"].index(row["answerKey"])
    return asked(row["question_stem"].strip(), options["text"], answer)


def copa(row: dict[str, Any]) -> Item:
    joint = {"cause": "because", "effect": "therefore"}[row["question"]]
    options = [row[key][:1].lower() + row[key][1:] for key in ("choice1", "choice2")]
    return asked(f"{row['premise'].strip().rstrip('.')} {joint}", options, row["label"])


def winogrande(row: dict[str, Any]) -> Item:
    before, _, after = row["sentence"].partition("_")
    options = [(before + row[key], " " + after.strip()) for key in ("option1", "option2")]
    return Item(tuple(options), int(row["answer"]) - 1)


def lambada(row: dict[str, Any]) -> Item:
    context, _, word = row["text"].rstrip().rpartition(" ")
    return Item(((context, " " + word),), 0)


def pair(row: dict[str, Any]) -> Item:
    kind = str(row.get("phenomenon") or row.get("cond") or "")
    return Item((("", row["good"]), ("", row["bad"])), 0, kind)


@dataclasses.dataclass(frozen=True)
class Task:
    file: str
    item: Callable[[dict[str, Any]], Item]


TASKS = {
    "hellaswag": Task("eval/hellaswag_val.jsonl", hellaswag),
    "piqa": Task("eval/piqa_val.jsonl", piqa),
    "arc_easy": Task("eval/arc_easy_val.jsonl", arc),
    "arc_challenge": Task("eval/arc_challenge_val.jsonl", arc),
    "openbookqa": Task("eval/openbookqa_val.jsonl", openbookqa),
    "winogrande": Task("eval/winogrande_xl_val.jsonl", winogrande),
    "copa": Task("eval/copa_val.jsonl", copa),
    "lambada": Task("eval/lambada_openai_test.jsonl", lambada),
    "blimp": Task("eval/blimp.jsonl", pair),
    **{f"clams_{c}": Task(f"eval/clams_{c}.jsonl", pair) for c in ("en", "de", "fr", "he", "ru")},
    "turblimp": Task("eval/turblimp.jsonl", pair),
}


def read(name: str, shelf: Shelf, most: int | None, seed: int) -> list[Item]:
    """Items of a task; raises `Missing`, or ValueError for a row that lacks a field."""
    task = TASKS[name]
    rows, items = shelf.rows(task.file), []
    for i, row in enumerate(rows, 1):
        try:
            items.append(task.item(row))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{task.file}:{i}: no question of {name} ({error!r})") from None
    return some(items, most, seed)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a model makes of items, float64 [items] each."""

    right: np.ndarray  # 1, or a share of it where options tie
    right_per_byte: np.ndarray
    gap: np.ndarray  # bits between the answer and the best other option
    bits: np.ndarray  # of the answer
    nbytes: np.ndarray  # of the answer
    chance: float

    def measures(self) -> dict[str, Measure]:
        if not self.chance:  # one option each
            return {"accuracy": mean(self.right), "bits_per_byte": ratio(self.bits, self.nbytes)}
        return {
            "accuracy": mean(self.right, self.chance),
            "accuracy_per_byte": mean(self.right_per_byte, self.chance),
            "gap_in_bits": mean(self.gap),
        }

    def of(self, chosen: np.ndarray) -> "Judged":
        """Some of the items."""
        columns = (self.right, self.right_per_byte, self.gap, self.bits, self.nbytes)
        return Judged(*(column[chosen] for column in columns), chance=self.chance)


def judge(lm: LanguageModel, items: Sequence[Item]) -> Judged:
    pairs = [(c.encode(), t.encode()) for item in items for c, t in item.options]
    found = iter(likelihoods(lm, pairs))
    return judged(items, [[next(found) for _ in item.options] for item in items])


def judged(items: Sequence[Item], found: Sequence[Sequence[Likelihood]]) -> Judged:
    """Of the likelihoods of all options."""
    columns: list[tuple[float, ...]] = []
    for item, options in zip(items, found, strict=True):
        answer = options[item.answer]
        bits = -answer.nats / math.log(2)
        if len(options) == 1:
            columns.append((answer.greedy, answer.greedy, 0.0, bits, answer.nbytes))
            continue
        nats = np.array([option.nats for option in options])
        # as the harness counts: without the blank before an option
        sizes = [max(len(text.strip().encode()), 1) for _, text in item.options]
        per_byte = nats / np.array(sizes)
        other = np.delete(nats, item.answer).max()
        gap = (answer.nats - other) / math.log(2)
        columns.append(
            (point(nats, item.answer), point(per_byte, item.answer), gap, bits, answer.nbytes)
        )
    table = np.array(columns, np.float64).reshape(-1, 5)
    chances = [1 / len(item.options) if len(item.options) > 1 else 0.0 for item in items]
    return Judged(*table.T, chance=float(np.mean(chances)) if chances else 0.0)


def point(values: np.ndarray, answer: int) -> float:
    """1 if the answer is the greatest; shared by all that are as great, but for rounding."""
    best = np.flatnonzero(values >= values.max() - ROUNDING * abs(values.max()))
    return float(answer in best) / len(best)


class Choice(Suite):
    """All tasks whose files are there."""

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        rows: Grid = {}
        kinds: Grid = {}
        for name, task in TASKS.items():
            if not setting.shelf.has(task.file):
                continue
            items = read(name, setting.shelf, setting.most(USUAL), setting.seed)
            found = judge(lm, items)
            rows[name] = found.measures()
            every = np.array([item.kind for item in items])
            for kind in sorted(set(every) - {""}):
                kinds[f"{name}: {kind}"] = found.of(every == kind).measures()
        if not rows:
            raise Missing(f"none of {', '.join(task.file for task in TASKS.values())}")
        grids = {"choice": rows} | ({"choice: minimal pairs by kind": kinds} if kinds else {})
        left = [name for name in TASKS if name not in rows]
        return Found(grids, notes=(f"not there: {', '.join(left)}",) if left else ())
