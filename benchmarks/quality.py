"""How good is each model for the same training FLOPs? Trains every size called `tiny...` in
configs/ on Moby-Dick and compares.

    python benchmarks/quality.py runs/quality           # started again, it goes on where it stopped
    python benchmarks/quality.py runs/quality --report       # what is finished so far
    python benchmarks/quality.py runs/short --flops 1e12 --only hat:tiny flat:tiny

Each model is trained by train.py in a folder of its own, with as many steps as the budget allows:
matrix products of forward and backward pass, of as many chunks as its text has (hlm/flops.py). All
steps read about the same number of bytes; learning rates are the configs' own, warm-up and decay
fit the steps. A model of entropy gets its judge first, from its own budget, and a threshold for
chunks of JUDGED bytes. How many chunks a learned segmenter makes, a short run tells beforehand; `of
the budget` counts those that training made.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from train_speed import ROOT, discover

from hlm import AdamW, config, fit_threshold, flops, load
from hlm.data.pipeline import documents
from hlm.evals import perplexity, robustness
from hlm.evals.first_look import NOISES, REFERENCES, ROBUSTNESS_BYTES
from hlm.model.hierarchy import levels_of
from hlm.papers.blt import Entropy

BUDGET = 3e12  # FLOPs: a quarter of `make train`
STEP = 1024  # bytes of text a step, as nearly as whole rows allow
JUDGED = 6.0  # bytes in a chunk by entropy
JUDGE = 0.1  # share of the budget that trains the judge of entropy
PILOT = 0.1  # of the budget, on top: a run that tells how many chunks a learned segmenter makes
FINISHED = "quality.json"


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


def folder(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / name.replace(":", "-")


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


def trained(name: str, budget: float, out: pathlib.Path) -> Plan:
    """Train one model and what must be trained before it; returns how."""
    trunk, run = config.load(file(name)).model.trunk, folder(out, name)
    if isinstance(getattr(trunk, "segmenter", None), Entropy):
        planned = judged(name, budget, out)
    elif any(hierarchy.segmenter.learned for hierarchy in levels_of(trunk)):
        pilot = plan(name, PILOT * budget)
        train(pilot, run / "pilot")
        lines = logged(run / "pilot")
        planned = plan(name, budget, made(pilot.held, lines[len(lines) // 2 :]))
    else:
        planned = plan(name, budget)
    print(f"{name}: {planned.steps:,} steps, {planned.nbytes / 1e6:.2f} MB, {run}", flush=True)
    train(planned, run)
    return planned


def judged(name: str, budget: float, out: pathlib.Path) -> Plan:
    """The plan of a model of entropy, whose judge, NAME:entropy-SIZE, is trained here and now."""
    stem, _, size = name.partition(":")
    judge = plan(f"{stem}:entropy-{size}", JUDGE * budget)
    run = folder(out, judge.name)
    train(judge, run)
    lm, spent = load(str(run)), judge.cost["training"] * judge.nbytes
    threshold = fit_threshold(lm, [text for _, text in documents(lm.experiment.valid)], JUDGED)
    overrides, source = (
        (f"model.trunk.segmenter.threshold={threshold}",),
        f"trunk/segmenter/frozen={run.resolve()}",
    )
    exp = config.load(file(name), overrides)
    held = flops.measure(exp, flops.given_params(exp, source))
    planned = plan(name, budget - spent, held, overrides, ("--init-from", source))
    about = {"name": judge.name, "steps": judge.steps, "spent": spent, "threshold": threshold}
    return dataclasses.replace(planned, judge=about)


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


def result(planned: Plan, budget: float, run: pathlib.Path) -> dict[str, Any]:
    """What one finished run is and gives."""
    lm = load(str(run))
    texts = [text for _, text in documents(lm.experiment.test)]
    lines = logged(run)
    cost = flops.costs(lm.experiment, made(planned.held, lines))
    judge = planned.judge["spent"] if planned.judge else 0.0
    return {
        "budget": budget,
        "overrides": planned.overrides,
        "judge": planned.judge,
        "planned": planned.cost,
        "made": cost,
        "steps": planned.steps,
        "text_bytes": planned.nbytes,
        "spent": cost["training"] * planned.nbytes + judge,
        "bytes_per_second": statistics.median(line["bytes_per_second"] for line in lines),
        "curve": [
            [
                line["step"] * cost["bytes_per_step"] * cost["training"] + judge,
                line["bits_per_byte"],
            ]
            for line in lines
        ],
        "perplexity": perplexity.evaluate(lm, texts),
        "robustness": robustness.evaluate(
            lm, robustness.excerpt(texts, ROBUSTNESS_BYTES), robustness.usual(NOISES)
        ),
    }


def logged(run: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of training in a run's metrics."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def made(rows: flops.Rows, lines: list[dict[str, Any]]) -> flops.Rows:
    """The rows of a plan with the chunks that training made, as logged."""
    elements = list(rows.elements[:1])
    for level in range(len(rows.elements) - 1):
        sizes = [line["above/" * level + "elements_per_chunk"] for line in lines]
        elements.append(elements[-1] * statistics.fmean(1 / size for size in sizes))
    return flops.Rows(rows.nbytes, tuple(elements), rows.known)


def causal(name: str) -> bool:
    return config.load(file(name)).model.causal


def finished(out: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Results so far, best first."""
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob(f"*/{FINISHED}")}
    return dict(sorted(found.items(), key=lambda item: item[1]["perplexity"]["bits_per_byte"]))


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    head = [
        "model",
        "M parameters",
        "MFLOPs a byte",
        "steps",
        "MB of text",
        "of the budget",
        "bytes a chunk",
    ]
    noises = next(iter(results.values()))["robustness"]["noises"]
    head += [
        "**bits per byte**",
        "byte accuracy",
        "word accuracy",
        *(f"{noise} {noises[noise][0]['severity']:g}" for noise in NOISES),
        "kB/s",
    ]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name, r in results.items():
        clean, noises = r["perplexity"], r["robustness"]["noises"]
        chunks = [
            r["made"]["bytes_per_row"] / level["elements"] for level in r["made"]["levels"][1:]
        ]
        lines.append(
            [
                name,
                f"{r['made']['parameters'] / 1e6:.2f}",
                f"{r['made']['training'] / 1e6:.2f}",
                f"{r['steps']:,}",
                f"{r['text_bytes'] / 1e6:.2f}",
                f"{r['spent'] / r['budget']:.0%}",
                ", ".join(f"{size:.1f}" for size in chunks) or "-",
                f"**{clean['bits_per_byte']:.3f}**",
                f"{clean['byte_accuracy']:.1%}",
                f"{clean['word_accuracy']:.1%}",
                *(f"{noises[noise][0]['change']['bits_per_byte']:+.0%}" for noise in NOISES),
                f"{r['bytes_per_second'] / 1000:.1f}",
            ]
        )
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([*rows, "", "Under a noise: the change of bits per byte.", ""])


def draw(results: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
    """Bars of bits per byte, best first, beside the reference lines of the text; files of configs
    by colour.
    """
    files = sorted({name.partition("-")[0] for name in results})
    figure = Figure(figsize=(7, 1 + 0.25 * len(results)), layout="constrained")
    axes = figure.subplots()
    bits = [r["perplexity"]["bits_per_byte"] for r in results.values()]
    bars = axes.barh(
        list(results),
        bits,
        color=[f"C{files.index(name.partition('-')[0]) % 10}" for name in results],
    )
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    references = [
        (name, value) for name, value in REFERENCES["corpus:mobydick/"] if value < max(bits)
    ]
    for name, value in references:
        axes.axvline(value, color="black", linewidth=0.8, linestyle=":")
        axes.text(value, -0.8, name, fontsize=8, ha="center", va="bottom")
    lowest = min([*bits, *(value for _, value in references)])
    axes.set_xlim(lowest - 0.1, max(bits) + 0.1 * (max(bits) - lowest) + 0.02)
    axes.invert_yaxis()
    budget = next(iter(results.values()))["budget"]
    axes.set_xlabel(
        f"bits per byte of Moby-Dick's test chapters \nafter {budget:.2g} training FLOPs (the "
        "axis does not start at 0)"
    )
    figure.savefig(path, dpi=120)


def report(out: pathlib.Path) -> None:
    """Print the table; write results.json, results.md and quality.png."""
    results = finished(out)
    if not results:
        return
    text = table(results)
    Console(width=200).print(Markdown(text))
    about = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "models": results,
    }
    (out / "results.json").write_text(json.dumps(about, indent=1) + "\n")
    (out / "results.md").write_text(text)
    draw(results, out / "quality.png")
    print(*(out / name for name in ("results.json", "results.md", "quality.png")))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs and the results")
    parser.add_argument(
        "--flops", type=float, default=BUDGET, help="of training each model (%(default)g)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME:SIZE",
        help="these models, for example hat:tiny flat:tiny",
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing, report on what is finished"
    )
    given = parser.parse_args()
    others = {r["budget"] for r in finished(given.out).values()} - {given.flops}
    if others and not given.report:
        parser.error(
            f"--flops: {given.out} has runs of {others.pop():g} FLOPs; give another folder or "
            "that number"
        )
    for name in [] if given.report else given.only or filter(causal, discover("tiny")):
        run = folder(given.out, name)
        if (run / FINISHED).exists():
            continue
        try:
            planned = trained(name, given.flops, given.out)
        except RuntimeError as error:  # the others go on; started again, this one is tried again
            print(error, flush=True)
            continue
        found = result(planned, given.flops, run)
        (run / FINISHED).write_text(json.dumps(found) + "\n")
        print(f"{name}: {found['perplexity']['bits_per_byte']:.3f} bits per byte", flush=True)
    report(given.out)


if __name__ == "__main__":
    main()
