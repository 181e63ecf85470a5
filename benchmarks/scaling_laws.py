"""How do bits per byte fall with training FLOPs? Four budgets of four families of models, each at
the size that suits the budget.

    python benchmarks/scaling_laws.py runs/laws              # started again, it goes on
    python benchmarks/scaling_laws.py runs/laws --report     # what is finished so far
    python benchmarks/scaling_laws.py runs/laws --report --predict 1e19    # commands for a pod
    python benchmarks/scaling_laws.py runs/more --budgets 1e13 1e14 --only hat flat --seeds 3 \\
        --with data.source='JsonLines("train.jsonl.xz")' valid=... test=...

Sizes are rungs of a ladder: all widths and depths of a config of configs/ times eighths. At one
budget all of --sizes are trained (same FLOPs, so small ones read more text); the best ratio of text
to FLOPs a byte is the minimum of a parabola through them, and gives the size of every other budget:
C = ratio * (FLOPs a byte)^2, so text and model grow alike. At every point at least --peaks rates of
learning, each twice the one before; the best, judged by the validation text, counts, and its test
text is reported. At --batches budgets rows a step are halved and doubled as well.

The step, the batches and the schedule are those of train.py, in one process, because most of these
runs take seconds. scaling_fit.py fits, scaling_report.py writes and predicts.
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
import numpy as np
import optax
from budgeted import Recipe, file, followed, learned_codec, own_peak
from scaling_commands import commands
from scaling_ladder import BASES, RUNGS, rung, training
from scaling_report import report
from scaling_runs import Family, Point, Run, families, points, read, write

from hlm import AdamW, config, flops, sharding
from hlm.config import Experiment
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.infer.api import LanguageModel
from hlm.model.hierarchy import capacities
from hlm.seq import Batch
from hlm.train import step
from hlm.train.validation import Validation

BUDGETS = (3e10, 1e11, 3e11, 1e12)  # FLOPs
MIDDLE = 1e11  # where all sizes are trained
SIZES = (1, 2, 3, 4, 6)  # there: eighths of the base
BATCHES = (3e10, 1e11)  # where other batches are tried
ROWS, MOST_ROWS = 2, 16  # a step; one is about 0.5 KB


def shipped(part: str) -> str:
    """All running English text that comes with hlm: 1.9 MB to train on."""
    return f"TextFiles(paths=('corpus:mobydick/{part}.txt','corpus:sotu/{part}.txt'),piece=4096)"


TEXT = (
    f"data.source={shipped('train')}",
    f"valid=Beginning({shipped('valid')},40_000,each=20_000)",
    f"test=Beginning({shipped('test')},80_000,each=40_000)",
)


@dataclasses.dataclass(frozen=True)
class AtRate:
    """An optimizer for one step, at a rate that may be traced: one program for all schedules."""

    optim: AdamW
    rate: jax.Array

    def learning_rate(self, step: Any, steps: int) -> jax.Array:
        return self.rate

    def build(self, steps: int) -> optax.GradientTransformation:
        return self.optim.at(lambda step: self.rate)


class Trainer:
    """A model with so many rows a step, compiled once for all peaks, steps and seeds."""

    def __init__(self, exp: Experiment):
        assert isinstance(exp.optim, AdamW)  # as all bases have
        self.exp, self.optim, self.mesh = exp, exp.optim, exp.mesh.make(jax.devices()[:1])
        self.first: dict[int, Any] = {}  # states to begin with, by seed
        self.valid, self.test = Validation(exp), Validation(config.replace(exp, valid=exp.test))
        params = step.init_state(exp, self.mesh)[0].params
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.scorer = LanguageModel(exp, None, self.mesh, rows=exp.valid_rows)
        self.step = jax.jit(self._step, donate_argnums=0)

    def _step(self, state: step.State, batch: Batch, rate: jax.Array) -> Any:
        exp = config.replace(self.exp, optim=AtRate(self.optim, rate))
        return step.train_step(exp, state, batch)

    def begin(self, seed: int) -> step.State:
        if seed not in self.first:
            make = step.init_state(config.replace(self.exp, seed=seed), self.mesh)[2]
            self.first[seed] = jax.device_get(make())
        return jax.tree.map(jax.numpy.array, self.first[seed])

    def losses(self, peak: float, steps: int, seed: int) -> list[float]:
        """Train from the beginning; nats of each step. The scorer gets the parameters."""
        exp = self.exp
        warmup = round(self.optim.warmup * steps / exp.steps)
        optim = config.replace(self.optim, peak=peak, warmup=warmup)
        rates = np.asarray(optim.learning_rate(np.arange(steps), steps), np.float32)
        budget = Budget(exp.data.length, capacities(exp.model.trunk))
        data = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, seed)
        state, losses = self.begin(seed), []
        with jax.set_mesh(self.mesh):
            for rate in rates:
                batch = sharding.put(Batch(**next(data)), self.mesh)
                state, metrics = self.step(state, batch, rate)
                losses.append(metrics["loss"])
        data.close()
        self.scorer.params = state.params
        return [float(loss.total / loss.weight) for loss in losses]

    def bits(self, text: Validation) -> float:
        """Per byte, of the parameters that were trained last."""
        return text.run(self.scorer)["bits_per_byte"]


class Lab:
    """Runs, each made once: results are kept in OUT/runs.json. `given`: overrides for all models;
    `peaks`: tried at each point, at least.
    """

    def __init__(self, out: pathlib.Path, given: tuple[str, ...] = (), peaks: int = 3):
        self.out, self.given, self.peaks = out, (*TEXT, *given), peaks
        self.runs = read(out)
        self.trainer = functools.lru_cache(maxsize=2)(self._trainer)
        self.model = functools.cache(self._model)

    def _trainer(self, family: str, eighths: int, rows: int) -> Trainer:
        return Trainer(config.replace(self.model(family, eighths)[0], rows=rows))

    def _model(self, family: str, eighths: int) -> tuple[Experiment, flops.Rows, float]:
        """A rung, what its rows hold, and training FLOPs a byte."""
        base, out = BASES[family], self.out / f"{family}-{eighths}"
        overrides = (*self.given, *rung(family, eighths))
        size = config.load(file(base), overrides).model.embed.size
        codec = learned_codec(base, out, overrides, size)
        exp = config.load(file(base), (*overrides, *codec))
        held = flops.measure(exp)
        return exp, held, training(exp, held)

    def run(
        self, family: str, eighths: int, budget: float, peak: float, rows: int = ROWS, seed: int = 0
    ) -> Run:
        """One run, unless it is done. The best one so far of its point reads the test text, too, as
        do other seeds than the first.
        """
        point = (family, eighths, budget, rows)
        there = [r for r in self.runs if (r.family, r.eighths, r.budget, r.rows) == point]
        for done in there:
            if (done.peak, done.seed) == (peak, seed):
                return done
        began, (_, held, cost) = time.monotonic(), self.model(family, eighths)
        steps = max(round(budget / cost / (held.nbytes * rows)), 1)
        trainer, test = self.trainer(family, eighths, rows), None
        losses, valid = trainer.losses(peak, steps, seed), math.inf
        if np.isfinite(losses).all():
            valid = trainer.bits(trainer.valid)
        if seed or valid < min((r.valid for r in there if r.seed == 0), default=math.inf):
            test = trainer.bits(trainer.test)
        setting = (*point, peak, seed, trainer.parameters, cost, held.nbytes * rows, steps)
        self.runs.append(Run(*setting, valid, test, time.monotonic() - began))
        write(self.out, self.runs)
        print(self.runs[-1], flush=True)
        return self.runs[-1]

    def tuned(self, family: str, eighths: int, budget: float, start: float) -> float:
        """The best of several peaks of the learning rate."""
        return followed(
            start, self.peaks, lambda peak: self.run(family, eighths, budget, peak).valid
        ).value

    def profile(self, family: str, budget: float, sizes: Sequence[int]) -> None:
        """All sizes at one budget, the largest first. Peaks begin where the last was best, or at
        the base's, times the ratio of widths.
        """
        peak, last = own_peak(Recipe(BASES[family], ())), 8
        for eighths in sorted(sizes, reverse=True):
            peak = self.tuned(family, eighths, budget, peak * last / eighths)
            last = eighths

    def suited(self, family: str, budget: float, middle: float) -> int:
        """The rung for a budget, by what was best at `middle`."""
        aim = self.family(family, middle).flops(budget)
        costs: dict[int, float] = {}
        for eighths in RUNGS:
            costs[eighths] = self.model(family, eighths)[2]
            if costs[eighths] > aim:
                break
        return min(costs, key=lambda eighths: abs(math.log(costs[eighths] / aim)))

    def family(self, family: str, middle: float) -> Family:
        return Family(family, tuple(r for r in self.runs if r.family == family), ROWS, middle)

    def curve(self, family: str, budget: float, middle: float) -> None:
        """The size that suits a budget; peaks begin at the best of the nearest point."""
        eighths = self.suited(family, budget, middle)
        known = [p.best for p in points(self.runs, family=family, rows=ROWS)]
        near = min(
            known, key=lambda r: (abs(r.eighths - eighths), abs(math.log(r.budget / budget)))
        )
        self.tuned(family, eighths, budget, near.peak)

    def batches(self, family: str, budget: float) -> None:
        """At a budget's best size half and twice the rows a step, and on while more are better; the
        peak stays, or goes along with the rows.
        """
        base = self.best(family, budget).best

        def best(rows: int, last: Run) -> Run:
            peaks = last.peak, float(f"{last.peak * rows / last.rows:.3g}")
            tried = [self.run(family, base.eighths, budget, peak, rows) for peak in peaks]
            return min(tried, key=lambda r: r.valid)

        best(ROWS // 2, base)
        last = base
        while last.rows < MOST_ROWS and (more := best(2 * last.rows, last)).valid < last.valid:
            last = more

    def best(self, family: str, budget: float) -> Point:
        there = points(self.runs, family=family, budget=budget, rows=ROWS)
        return min(there, key=lambda p: p.best.valid)

    def repeat(self, family: str, budget: float, seed: int) -> None:
        """Another seed of a budget's best run."""
        best = self.best(family, budget).best
        self.run(family, best.eighths, budget, best.peak, seed=seed)


def experiment(lab: Lab, asked: argparse.Namespace) -> None:
    """All that was asked for, small budgets first."""
    for family in asked.only:
        lab.profile(family, asked.middle, asked.sizes)
    for budget in asked.budgets:
        for family in asked.only:
            lab.curve(family, budget, asked.middle)
    for budget in asked.batches:
        for family in asked.only:
            lab.batches(family, budget)
    for seed in range(1, asked.seeds):
        for budget in asked.budgets:
            for family in asked.only:
                lab.repeat(family, budget, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=pathlib.Path, help="folder of the results")
    add("--budgets", type=float, nargs="+", default=BUDGETS, metavar="FLOPS")
    add("--middle", type=float, default=MIDDLE, metavar="FLOPS", help="where all sizes are trained")
    add("--sizes", type=int, nargs="+", default=SIZES, metavar="EIGHTHS", help="there")
    add("--batches", type=float, nargs="*", default=BATCHES, metavar="FLOPS")
    add("--only", nargs="+", choices=BASES, default=tuple(BASES), metavar="FAMILY")
    add("--peaks", type=int, default=3, help="to try at each point, at least (%(default)d)")
    add("--seeds", type=int, default=2, help="of each budget's best run (%(default)d)")
    add("--with", nargs="+", metavar="NAME=VALUE", default=(), help="overrides for all models")
    add("--predict", type=float, nargs="+", metavar="FLOPS", default=(), help="print commands")
    add("--report", action="store_true", help="train nothing, report on what is finished")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    lab = Lab(asked.out, tuple(getattr(asked, "with")), asked.peaks)
    if not asked.report:
        experiment(lab, asked)
    found = families(lab.runs, ROWS, asked.middle)
    report(found, asked.out)
    for budget in asked.predict:
        print(*commands(found, budget), sep="\n")


if __name__ == "__main__":
    main()
