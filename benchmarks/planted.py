"""Can a model learn it at all? Trains sizes of configs/ on two made-up sources whose best possible
result is known.

    python benchmarks/planted.py runs/planted --only flat:tiny megabyte:tiny hnet:tiny
    python benchmarks/planted.py runs/planted --flops 1e12 --order 1 2 4 --arms 5 --length 4
    python benchmarks/planted.py runs/planted --report

markov-K: a chain of two letters in which each is that of K places before, or with SWITCH the other
one (Rajaraman et al. 2024, 2404.08335). Its entropy is H(SWITCH) bits a letter; a model that has
not found the order says 1 bit. Printed is the share of that gap that is left: 1 nothing found, 0
all found. Transformers on single symbols stay at 1 for a long time where K > 1; do chunks help?

path-star: a start with `arms` arms of `length` nodes, its edges in random order, the end of one arm
as the goal, and the path to be written (Bachmann and Nagarajan 2024, 2403.06963). All nodes but the
first of the arm follow by looking one up, so `first` is the question: chance is 1/arms. A model
that only ever learned the next byte is known to stay at chance; does one with heads for later
bytes, or registers, plan?

Each model gets the same training FLOPs (benchmarks/budgeted.py). A run is resumed where it stopped.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import string
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import numpy as np
from budgeted import folder, recipe, train
from rich.console import Console
from rich.markdown import Markdown

from hlm import LanguageModel, load
from hlm.evals import choice
from hlm.evals.measure import Measure, mean, ratio

BUDGET = 5e11  # FLOPs of training a model
SWITCH = 0.1
PIECE = 256  # letters of a text of the chain
TRAINED, HELD_OUT = 2_000_000, 50_000  # bytes of text
NODES = string.ascii_lowercase + string.ascii_uppercase
FINISHED = "planted.json"


@dataclasses.dataclass(frozen=True)
class Markov:
    """The chain of one order."""

    order: int

    @property
    def name(self) -> str:
        return f"markov-{self.order}"

    def rows(self, rng: np.random.Generator, nbytes: int) -> list[dict[str, str]]:
        rows = []
        for _ in range(nbytes // PIECE):
            other = rng.random(PIECE) < SWITCH
            other[: self.order] = rng.random(self.order) < 0.5  # any beginning
            # each of `order` chains of every order-th letter switches by itself
            letter = np.empty(PIECE, np.int64)
            for first in range(self.order):
                letter[first :: self.order] = np.cumsum(other[first :: self.order]) % 2
            rows.append({"text": "".join("ab"[i] for i in letter)})
        return rows

    def measure(self, lm: LanguageModel, rows: list[dict[str, str]]) -> dict[str, Measure]:
        scores = lm.score([row["text"] for row in rows], complete=False)
        nats = np.array([score.per_byte[self.order :].sum() for score in scores])
        best = -SWITCH * math.log2(SWITCH) - (1 - SWITCH) * math.log2(1 - SWITCH)
        letters = PIECE - self.order
        bits = nats / math.log(2)
        return {"gap left": ratio(bits - best * letters, np.full(len(bits), (1 - best) * letters))}


@dataclasses.dataclass(frozen=True)
class PathStar:
    """Graphs of one shape."""

    arms: int
    length: int  # nodes of an arm, without the start

    def __post_init__(self):
        if 1 + self.arms * self.length > len(NODES):
            raise ValueError(
                f"arms, length: {self.arms} of {self.length} need {1 + self.arms * self.length} "
                f"nodes; there are {len(NODES)}"
            )

    @property
    def name(self) -> str:
        return f"path-{self.arms}x{self.length}"

    def rows(self, rng: np.random.Generator, nbytes: int) -> list[dict[str, str]]:
        rows, left = [], nbytes
        while left > 0:
            chosen = "".join(rng.permutation(list(NODES))[: 1 + self.arms * self.length])
            start, rest = chosen[0], chosen[1:]
            arms = [start + rest[i :: self.arms] for i in range(self.arms)]
            edges = [arm[i : i + 2] for arm in arms for i in range(self.length)]
            prompt = " ".join(rng.permutation(edges)) + f" {start} {arms[0][-1]} ="
            firsts = "".join(arm[1] for arm in arms)
            rows.append({"prompt": prompt, "text": "".join(f" {n}" for n in arms[0][1:])})
            rows[-1]["firsts"] = firsts
            left -= len(prompt) + len(rows[-1]["text"])
        return rows

    def measure(self, lm: LanguageModel, rows: list[dict[str, str]]) -> dict[str, Measure]:
        items = [choice.asked(row["prompt"], list(row["firsts"]), 0) for row in rows]
        texts = [row["prompt"] + row["text"] for row in rows]
        later = []
        for row, score in zip(rows, lm.score(texts, complete=False), strict=True):
            # a blank and a node each; behind the first of them
            later.append(score.hits[len(row["prompt"]) + 3 :: 2].mean())
        return {
            "first": mean(choice.judge(lm, items).right, 1 / self.arms),
            "later": mean(later),
        }


Task = Markov | PathStar


def written(task: Task, out: pathlib.Path) -> dict[str, pathlib.Path]:
    """Files of a task, made by its seed unless they are there."""
    paths = {part: out / "text" / f"{task.name}.{part}.jsonl" for part in ("train", "test")}
    for seed, (part, path) in enumerate(paths.items()):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = task.rows(np.random.default_rng(seed), {"train": TRAINED}.get(part, HELD_OUT))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def learned(task: Task, name: str, budget: float, peak: float, out: pathlib.Path) -> dict[str, Any]:
    """Train one model on one task, and ask it."""
    paths, room = written(task, out), out / task.name
    run = folder(room, name)
    if (run / FINISHED).exists():
        return json.loads((run / FINISHED).read_text())
    prompt = ', prompt="prompt"' if isinstance(task, PathStar) else ""
    source = {part: f"JsonLines(('{path.resolve()}',){prompt})" for part, path in paths.items()}
    given = (
        f"data.source={source['train']}",
        f"valid=Beginning({source['test']}, 10_000)",
        f"test=Beginning({source['test']}, 10_000)",
    )
    how = recipe(name, budget, room, given)
    planned = how.plan(budget, *([f"optim.peak={peak}"] if peak else []))
    train(planned, run)
    rows = [json.loads(line) for line in paths["test"].read_text().splitlines()]
    found = {
        "model": name,
        "task": task.name,
        "budget": budget,
        "steps": planned.steps,
        "text_bytes": planned.nbytes,
        "found": {key: m.report() for key, m in task.measure(load(str(run)), rows).items()},
    }
    (run / FINISHED).write_text(json.dumps(found) + "\n")
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row for each model, a column for each number of each task."""
    columns = list(dict.fromkeys((r["task"], key) for r in results for key in r["found"]))
    lines = [["model", "steps", *(f"{task}: {key}" for task, key in columns)]]
    lines.append(["---"] + ["--:"] * (1 + len(columns)))
    for model in dict.fromkeys(r["model"] for r in results):
        of_it = {r["task"]: r for r in results if r["model"] == model}
        cells = []
        for task, key in columns:
            m = of_it.get(task, {}).get("found", {}).get(key)
            cells.append(f"{m['value']:.3f} ± {m['error']:.3f}" if m else "")
        steps = dict.fromkeys(str(r["steps"]) for r in of_it.values())
        lines.append([model, ", ".join(steps), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=pathlib.Path, help="folder of the texts, the runs and the results")
    add("--only", nargs="+", metavar="NAME:SIZE", default=["flat:tiny", "megabyte:tiny"])
    add("--flops", type=float, default=BUDGET, help="of training a model (%(default)g)")
    add("--peak", type=float, default=0, help="of the learning rate; default: the configs' own")
    add("--order", type=int, nargs="*", default=[1, 2, 4], help="of chains")
    add("--arms", type=int, default=5, help="of a star; 0: no stars (%(default)d)")
    add("--length", type=int, default=4, help="of an arm (%(default)d)")
    add("--report", action="store_true", help="train nothing, report on what is finished")
    given = parser.parse_args()
    tasks: list[Task] = [Markov(order) for order in given.order]
    if given.arms:
        tasks.append(PathStar(given.arms, given.length))
    for name in [] if given.report else given.only:
        for task in tasks:
            found = learned(task, name, given.flops, given.peak, given.out)["found"]
            print(task.name, name, {key: m["value"] for key, m in found.items()}, flush=True)
    results = [json.loads(path.read_text()) for path in sorted(given.out.glob(f"*/*/{FINISHED}"))]
    if results:
        text = table(results)
        Console(width=160).print(Markdown(text))
        (given.out / "results.md").write_text(text)


if __name__ == "__main__":
    main()
