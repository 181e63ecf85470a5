"""Models of configs/ trained by train.py for a budget of FLOPs each: rows, steps and schedule, what
must be learned before, and the best peak of the learning rate.
"""

import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from train_speed import ROOT

from hlm import AdamW, Beginning, config, fit_threshold, flops, load, registry
from hlm.data.pipeline import documents
from hlm.model.hierarchy import levels_of
from hlm.papers.blt import Entropy
from hlm.subwords import Subwords

STEP = 1024  # bytes of text a step, as nearly as whole rows allow
JUDGED = 6.0  # bytes in a chunk by entropy
LEARNED = 2_000_000  # bytes of text that subwords are learned from
JUDGE = 0.1  # share of the budget that trains the judge of entropy
PILOT = 0.1  # of the budget, on top: a run that tells how many chunks a learned segmenter makes
BEYOND = 3  # further peaks at most, where the best of the sweep is at its edge


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one model is trained."""

    name: str  # NAME:SIZE
    overrides: tuple[str, ...]  # arguments of train.py
    options: tuple[str, ...]
    held: flops.Rows  # what its rows hold
    cost: dict[str, Any]  # hlm.flops.costs
    steps: int
    judge: dict[str, Any] | None = None  # what trained its judge of entropy, if it has one

    @property
    def nbytes(self) -> float:
        return self.steps * self.cost["bytes_per_step"]


def file(name: str) -> str:
    stem, _, size = name.partition(":")
    return f"{ROOT / 'configs' / stem}.py:{size}"


def folder(out: pathlib.Path, name: str, seed: int = 0) -> pathlib.Path:
    return out / (name.replace(":", "-") + (f".{seed}" if seed else ""))


def plan(
    name: str,
    budget: float,
    held: flops.Rows | None = None,
    overrides: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> Plan:
    """Rows, steps and schedule of one model for `budget` FLOPs; `held`: what its rows hold, None:
    as hlm.flops measures it.
    """
    exp = config.load(file(name), overrides)
    assert isinstance(exp.optim, AdamW)  # as all sizes called tiny have
    held = held or flops.measure(exp)
    rows = max(round(STEP / held.nbytes), 1)
    cost = flops.costs(config.replace(exp, rows=rows, accumulate=1), held)
    steps = max(round(budget / cost["training"] / cost["bytes_per_step"]), 1)
    settings = {
        "rows": rows,
        "accumulate": 1,
        "steps": steps,
        "optim.warmup": round(exp.optim.warmup * steps / exp.steps),
        "every.log": max(min(20, steps // 10), 1),
        "every.evaluate": 0,
        "every.save": max(steps // 8, 1),
        "keep": 1,
    }
    more = tuple(f"{field}={value}" for field, value in settings.items())
    return Plan(name, (*overrides, *more), options, held, cost, steps)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the runs of one model have in common, whatever their budget, peak and seed."""

    name: str
    overrides: tuple[str, ...]
    options: tuple[str, ...] = ()
    held: flops.Rows | None = None
    judge: dict[str, Any] | None = None

    @property
    def spent(self) -> float:
        """FLOPs that the judge of entropy took from the budget."""
        return self.judge["spent"] if self.judge else 0.0

    def shared(self, budget: float, share: float) -> float:
        """The budget of a run of a share of the steps."""
        return self.spent + share * (budget - self.spent)

    def plan(self, budget: float, *more: str) -> Plan:
        overrides = (*self.overrides, *more)
        planned = plan(self.name, budget - self.spent, self.held, overrides, self.options)
        return dataclasses.replace(planned, judge=self.judge)


def recipe(name: str, budget: float, out: pathlib.Path, given: tuple[str, ...]) -> Recipe:
    """How one model is trained; what must be trained or learned before is, here and now."""
    given = (*given, *learned_codec(name, out, given))
    trunk, run = config.load(file(name), given).model.trunk, folder(out, name)
    if isinstance(getattr(trunk, "segmenter", None), Entropy):
        return judged(name, budget, out, given)
    if not any(hierarchy.segmenter.learned for hierarchy in levels_of(trunk)):
        return Recipe(name, given)
    pilot = plan(name, PILOT * budget, overrides=given)
    train(pilot, run / "pilot")
    lines = logged(run / "pilot")
    return Recipe(name, given, held=made(pilot.held, lines[len(lines) // 2 :]))


def learned_codec(
    name: str, out: pathlib.Path, given: tuple[str, ...], size: int | None = None
) -> tuple[str, ...]:
    """For subwords: the override that hands over those of the text that is trained on, as many as
    the config has or `size`.
    """
    exp, path = config.load(file(name), given), folder(out, name) / "codec.json"
    if not isinstance(exp.model.codec, Subwords):
        return ()
    if not path.exists():
        texts = [text for _, text in documents(Beginning(exp.data.source, LEARNED))]
        old = exp.model.codec
        learned = type(old).train(texts, size or old.size)
        codec = dataclasses.replace(old, tokenizer=learned.tokenizer, size=learned.size)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(registry.to_json(codec)))
    return (f"model.codec=@{path.resolve()}",)


def judged(name: str, budget: float, out: pathlib.Path, given: tuple[str, ...]) -> Recipe:
    """The recipe of a model of entropy, whose judge, NAME:entropy-SIZE, is trained here and now."""
    stem, _, size = name.partition(":")
    judge = plan(f"{stem}:entropy-{size}", JUDGE * budget, overrides=given)
    run = folder(out, judge.name)
    train(judge, run)
    lm, spent = load(str(run)), judge.cost["training"] * judge.nbytes
    threshold = fit_threshold(lm, [text for _, text in documents(lm.experiment.valid)], JUDGED)
    overrides, source = (
        (*given, f"model.trunk.segmenter.threshold={threshold}"),
        f"trunk/segmenter/frozen={run.resolve()}",
    )
    exp = config.load(file(name), overrides)
    held = flops.measure(exp, flops.given_params(exp, source))
    about = {"name": judge.name, "steps": judge.steps, "spent": spent, "threshold": threshold}
    return Recipe(name, overrides, ("--init-from", source), held, about)


def train(planned: Plan, run: pathlib.Path) -> None:
    """train.py as a user starts it; a finished run ends at once. Its output goes to RUN/train.log.
    Raises RuntimeError if it fails.
    """
    run.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "train.py",
        file(planned.name),
        "--workdir",
        str(run.resolve()),
        *planned.options,
        *planned.overrides,
    ]
    with (run / "train.log").open("a") as log:
        print(*command, file=log, flush=True)
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(
            f"{planned.name}: train.py ended with status {done.returncode}, see {run / 'train.log'}"
        )


def logged(run: pathlib.Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of a kind in a run's metrics."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def made(rows: flops.Rows, lines: list[dict[str, Any]]) -> flops.Rows:
    """The rows of a plan with the chunks that training made, as logged."""
    elements = list(rows.elements[:1])
    for level in range(len(rows.elements) - 1):
        sizes = [line["above/" * level + "elements_per_chunk"] for line in lines]
        elements.append(elements[-1] * statistics.fmean(1 / size for size in sizes))
    return flops.Rows(rows.nbytes, tuple(elements), rows.known)


@dataclasses.dataclass(frozen=True)
class Peak:
    """A peak of the learning rate. `tried`: bits per byte of the validation text by peak, if it was
    looked for; infinite where training did not end well.
    """

    value: float
    tried: dict[float, float] = dataclasses.field(default_factory=dict)


def own_peak(recipe: Recipe) -> float:
    optim = config.load(file(recipe.name), recipe.overrides).optim
    assert isinstance(optim, AdamW)
    return optim.peak


def best_peak(recipe: Recipe, budget: float, at_least: int, out: pathlib.Path) -> Peak:
    """The best of at least so many peaks around the config's own (`followed`), judged by the
    validation text after `budget`.
    """

    def bits(peak: float) -> float:
        run = folder(out, recipe.name) / f"peak-{peak:g}"
        train(recipe.plan(budget, f"optim.peak={peak}"), run)
        return logged(run, "valid")[-1]["bits_per_byte"]

    return followed(own_peak(recipe), at_least, bits)


def followed(start: float, at_least: int, bits: Callable[[float], float]) -> Peak:
    """The peak of the least `bits` of at least so many, each twice the one before, around `start`.

    One at the edge is followed further, up to BEYOND times.
    """
    tried: dict[float, float] = {}

    def of(exponent: int) -> float:
        peak = float(f"{start * 2.0**exponent:.3g}")
        if peak not in tried:
            found = bits(peak)
            tried[peak] = found if math.isfinite(found) else math.inf
        return tried[peak]

    low, high = -(at_least // 2), at_least - at_least // 2 - 1
    for _ in range(1 + BEYOND):
        best = min(range(low, high + 1), key=of)
        if low < best < high:
            break
        low, high = (low - 1, high) if best == low else (low, high + 1)
    return Peak(min(tried, key=tried.__getitem__), dict(sorted(tried.items())))
