"""Continuing a model on another language: what is learned, what it costs, and what is forgotten.

    python eval.py runs/hat runs/bpe --suite adaptation --data eng.txt --flops 1e13 \\
        --adapt-to deu.txt --adapt-test deu.test.txt

Protocol: every model goes on from its checkpoint for the same training FLOPs of matrix products
(those of its step as configured, at the chunks that it makes of the new text), with its own
optimizer begun anew: warm-up for a tenth of the steps, then its own decay. At POINTS moments bits
per byte of a new text that it has not seen and of the text of --data (the excerpt) are measured; a
model that does not change keeps both. HAT (arXiv 2501.10322) claims that word models adapt faster
than models with a tokenizer of the old language. The runs of the models are left as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp

from hlm import config, flops, sharding
from hlm.data import pipeline
from hlm.evals import perplexity
from hlm.evals.measure import change, single
from hlm.evals.perplexity import Units
from hlm.evals.shelf import Missing
from hlm.evals.suite import Found, Setting, Suite
from hlm.infer.api import LanguageModel
from hlm.seq import Batch
from hlm.train import step

POINTS = 6  # with the first and the last


class Adaptation(Suite):
    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        if setting.adapt_to is None or not setting.adapt_test:
            raise Missing("no text to adapt to; give --adapt-to FILE and --adapt-test FILE")
        texts = {"new text": list(setting.adapt_test), "old text": list(setting.excerpt)}
        exp, spent = planned(lm, setting.adapt_to, setting.flops)
        curves: dict[str, list[tuple[float, Units]]] = {name: [] for name in texts}
        for done, scorer in trained(lm, exp):
            for name, documents in texts.items():
                cut = [perplexity.pieces(text) for text in documents]
                title = f"adaptation: {name} after {done} of {exp.steps} steps"
                curves[name].append((done * spent, perplexity.units(scorer, cut, title)))
        grid: dict[str, Any] = {}
        for name, points in curves.items():
            before, after = (points[i][1].measures()["bits_per_byte"] for i in (0, -1))
            grid[name] = {
                "bits_before": before,
                "bits_after": after,
                "change": change(after, before),
            }
        grid["training"] = {"FLOPs": single(exp.steps * spent), "steps_count": single(exp.steps)}
        drawn = {
            f"adaptation: {name}": tuple(
                (spent, units.measures()["bits_per_byte"].value) for spent, units in points
            )
            for name, points in curves.items()
        }
        return Found({"adaptation": grid}, drawn)


def planned(lm: LanguageModel, source: Any, budget: float) -> tuple[config.Experiment, float]:
    """The experiment on the new text that spends `budget`, and training FLOPs of a step."""
    exp = config.replace(lm.experiment, data=config.replace(lm.experiment.data, source=source))
    rows = flops.measure(exp, lm.params)
    spent = flops.costs(exp, rows)["training"] * rows.nbytes * exp.rows
    steps = max(round(budget / spent), 1)
    optim = config.replace(exp.optim, warmup=steps // 10)
    return config.replace(exp, steps=steps, optim=optim), spent


def trained(lm: LanguageModel, exp: config.Experiment) -> Any:
    """(steps done, the model then) at POINTS moments; the same object each time."""
    _, shardings, init = step.init_state(exp, lm.mesh)
    begun = init()
    state = step.State(begun.step, jax.tree.map(jnp.copy, lm.params), begun.optim)
    run = step.compiled_train_step(exp, lm.mesh, shardings)
    scorer = LanguageModel(exp, state.params, lm.mesh, lm.step)
    scorer.context = lm.context
    moments = {round(exp.steps * k / (POINTS - 1)) for k in range(POINTS)}
    data = pipeline.batches(exp.data, exp.model.codec, lm.budget, exp.rows, exp.seed)
    try:
        for done in range(exp.steps + 1):
            if done in moments:
                scorer.params = state.params
                yield done, scorer
            if done < exp.steps:
                with jax.set_mesh(lm.mesh):
                    state, _ = run(state, sharding.put(Batch(**next(data)), lm.mesh))
    finally:
        data.close()
