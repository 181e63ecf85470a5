"""How good is each model for the same training FLOPs? Trains sizes called `tiny...` in configs/ and
compares.

    python benchmarks/quality.py runs/quality           # started again, it goes on where it stopped
    python benchmarks/quality.py runs/quality --report       # what is finished so far
    python benchmarks/quality.py runs/short --flops 1e12 --only hat:tiny flat:tiny
    python benchmarks/quality.py runs/books --sweep 4 --seeds 2 --only hat:tiny --with \\
        data.source='JsonLines("train.jsonl.xz")' test='TextFiles("test.txt")' valid=...

Each model is trained by train.py in folders of its own, with as many steps as the budget allows:
matrix products of forward and backward pass, of as many chunks as its text has (hlm/flops.py). All
steps read about the same number of bytes; warm-up and decay fit the steps. Peaks of learning rates
are the configs' own, or with --sweep each model's best of at least so many (budgeted.py).
Subwords are learned from the text that is trained on. A model of entropy gets its judge first, from
its own budget, and a threshold for chunks of JUDGED bytes. How many chunks a learned segmenter
makes, a short run tells beforehand; `of the budget` counts those that training made.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
from budgeted import (
    Peak,
    Plan,
    Recipe,
    best_peak,
    file,
    folder,
    logged,
    made,
    own_peak,
    recipe,
    train,
)
from quality_report import FINISHED, finished, report
from train_speed import discover

from hlm import config, flops, load
from hlm.data.pipeline import documents
from hlm.evals import perplexity, robustness
from hlm.evals.first_look import NOISES, ROBUSTNESS_BYTES, references

BUDGET = 3e12  # FLOPs: a quarter of `make train`
SHARE = 0.2  # of the budget: a run of the sweep


def result(planned: Plan, run: pathlib.Path) -> dict[str, Any]:
    """What one finished run is and gives."""
    lm = load(str(run))
    texts = [text for _, text in documents(lm.experiment.test)]
    lines = logged(run)
    cost = flops.costs(lm.experiment, made(planned.held, lines))
    judge = planned.judge["spent"] if planned.judge else 0.0
    return {
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
        "references": references(lm),
        "perplexity": perplexity.evaluate(lm, texts),
        "robustness": robustness.evaluate(
            lm, robustness.excerpt(texts, ROBUSTNESS_BYTES), robustness.usual(NOISES)
        ),
    }


def finish(recipe: Recipe, peak: Peak, seed: int, budget: float, out: pathlib.Path) -> None:
    """Train and judge one seed, unless that is done."""
    run = folder(out, recipe.name, seed)
    if (run / FINISHED).exists():
        return
    own = own_peak(recipe)
    chosen = [] if peak.value == own else [f"optim.peak={peak.value}"]
    planned = recipe.plan(budget, *chosen, *([f"seed={seed}"] if seed else []))
    print(
        f"{recipe.name}: {planned.steps:,} steps, {planned.nbytes / 1e6:.2f} MB, {run}", flush=True
    )
    train(planned, run)
    about = {
        "name": recipe.name,
        "seed": seed,
        "budget": budget,
        "peak": {"own": own} | dataclasses.asdict(peak),
    }
    found = about | result(planned, run)
    (run / FINISHED).write_text(json.dumps(found) + "\n")
    print(f"{recipe.name}: {found['perplexity']['bits_per_byte']:.3f} bits per byte", flush=True)


def those_that_end(do: Callable[[str], Any], names: Iterable[str]) -> dict[str, Any]:
    """What `do` gives for each name; a run that fails is said, and left for the next start."""
    done = {}
    for name in names:
        try:
            done[name] = do(name)
        except RuntimeError as error:
            print(error, flush=True)
    return done


def all_done(out: pathlib.Path, name: str, seeds: int) -> bool:
    return all((folder(out, name, seed) / FINISHED).exists() for seed in range(seeds))


def causal(name: str) -> bool:
    return config.load(file(name)).model.causal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=pathlib.Path, help="folder of the runs and the results")
    add("--flops", type=float, default=BUDGET, help="of training each model (%(default)g)")
    add("--only", nargs="+", metavar="NAME:SIZE", help="these, for example hat:tiny flat:tiny")
    add("--with", nargs="+", metavar="NAME=VALUE", default=(), help="overrides for all models")
    add("--sweep", type=int, default=0, metavar="N", help="try at least N peaks; 0: the configs'")
    add("--share", type=float, default=SHARE, help="of the FLOPs, for each peak (%(default)g)")
    add("--seeds", type=int, default=1, help="runs of each model (%(default)d)")
    add("--report", action="store_true", help="train nothing, report on what is finished")
    given = parser.parse_args()
    out, overrides = given.out, tuple(getattr(given, "with"))
    others = {r["budget"] for runs in finished(out).values() for r in runs} - {given.flops}
    if others and not given.report:
        parser.error(
            f"--flops: {out} has runs of {others.pop():g} FLOPs; give another folder or that number"
        )
    names = [] if given.report else given.only or [*filter(causal, discover("tiny"))]
    names = [n for n in names if not all_done(out, n, given.seeds)]
    recipes = those_that_end(lambda name: recipe(name, given.flops, out, overrides), names)

    def peak(name: str) -> Peak:
        if not given.sweep:
            return Peak(own_peak(recipes[name]))
        share = recipes[name].shared(given.flops, given.share)
        found = best_peak(recipes[name], share, given.sweep, out)
        print(f"{name}: best peak {found.value:g} of {found.tried}", flush=True)
        return found

    peaks = those_that_end(peak, recipes)
    for seed in range(given.seeds):
        those_that_end(
            lambda name, seed=seed: finish(recipes[name], peaks[name], seed, given.flops, out),
            peaks,
        )
    report(out)


if __name__ == "__main__":
    main()
