"""Tasks of lm-evaluation-harness (Gao et al., the extra `lm_eval`): the suite `lm_eval`.

    pip install -e '.[lm_eval]'
    python eval.py runs/hat --suite lm_eval --tasks piqa,lambada_openai --items 200
    python eval.py runs/hat --suite lm_eval --tasks mine --task-path my_tasks

Protocol, metrics and chance are the task's. Each metric that is a mean over questions keeps its
questions, so that models are compared pairwise; others are single numbers. Our `choice` gives what
a task of the same prompts gives as `acc` and `acc_bytes`. Published tasks load their data from the
Hugging Face hub.
"""

import importlib.util
from typing import Any

from hlm.evals.measure import Measure, mean, single
from hlm.evals.shelf import Missing
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel

CLOSE = 1e-6  # relative: the mean over questions is what the harness reports


class Harness(Suite):
    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        if importlib.util.find_spec("lm_eval") is None:
            raise Missing("lm-evaluation-harness is not installed; pip install -e '.[lm_eval]'")
        if not setting.tasks:
            raise Missing("no task is asked for; give --tasks, such as --tasks piqa")
        from hlm.evals.harness_model import run

        results = run(lm, setting.tasks, setting.task_path, setting.items or None, setting.seed)
        grid: Grid = {}
        for task, values in results["results"].items():
            row = measures(values, results["samples"].get(task, []))
            if row:
                grid[task] = row
        return Found({"lm_eval": grid}, details={"task_versions": results.get("versions", {})})


def measures(values: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Measure]:
    """By metric; with its filter behind it where that is not `none`."""
    found = {}
    for key, value in values.items():
        metric, _, filtered = key.partition(",")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not filtered or metric.endswith("_stderr") or not number:
            continue
        mine = [s.get(metric) for s in samples if s.get("filter", "none") == filtered]
        name = metric if filtered == "none" else f"{metric} ({filtered})"
        numeric = mine and all(isinstance(v, (int, float)) for v in mine)
        every = mean([float(v) for v in mine]) if numeric else single(float(value))  # type: ignore
        same = every.value is not None and abs(every.value - value) <= CLOSE * max(abs(value), 1)
        found[name] = every if same else single(float(value))
    return found
