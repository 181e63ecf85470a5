"""Multiple choice under noise: the part of the suite `robustness` that is no running text.

Protocol: HellaSwag and ARC-Easy, zero examples, accuracy per byte, each noise at its usual
severity, in the prompt alone (the options stay as they are) and in everything. `drop` is relative:
(clean - noised) / clean (TokSuite); `retained` is (noised - chance) / (clean - chance), in H-Net's
noised HellaSwag (arXiv 2507.07955, section 3) times 100, and not cut at 0 here; it means nothing
for a model that is at chance on clean text. Three draws of the noise, over which all numbers are.
"""

from collections.abc import Sequence

import numpy as np

from hlm.evals import choice
from hlm.evals.choice import Item, Judged
from hlm.evals.measure import mean, ratio, single
from hlm.evals.misspell import KINDS
from hlm.evals.noise import Noise, perturb
from hlm.evals.suite import Grid, Setting, Severities
from hlm.infer.api import LanguageModel

TASKS = ("hellaswag", "arc_easy")
USUAL = 50  # items of each
WAYS = {"the prompt alone": False, "everything": True}  # whether options are changed too


def noised(
    item: Item, name: str, severity: float, seed: int, noises: dict[str, Noise], everything: bool
) -> Item:
    """The question under noise."""

    def change(text: str) -> str:
        return perturb(text.encode(), name, severity, seed, noises).decode()

    options = tuple(
        (change(context), " " + change(text.lstrip()) if everything else text)
        for context, text in item.options
    )
    return item._replace(options=options)


def tables(
    lm: LanguageModel, setting: Setting, noises: dict[str, Noise], seeds: Sequence[int]
) -> tuple[dict[str, Grid], tuple[str, ...]]:
    """A table for each task and way; notes on what is not there."""
    grids: dict[str, Grid] = {}
    notes = []
    for task in TASKS:
        file = choice.TASKS[task].file
        if not setting.shelf.has(file):
            notes.append(f"{task} under noise: no {file}")
            continue
        items = choice.read(task, setting.shelf, setting.most(USUAL), setting.seed)
        clean = choice.judge(lm, items)
        for way, everything in WAYS.items():
            grid = grids[f"robustness: {task}, noise in {way}"] = {
                "clean": {"accuracy": mean(clean.right_per_byte, clean.chance)}
            }
            for name, severity in usual(setting.severities).items():
                draws, known = [], {}
                for seed in seeds:
                    noisy = tuple(
                        noised(i, name, severity, seed, noises, everything) for i in items
                    )
                    if noisy not in known:
                        known[noisy] = choice.judge(lm, noisy)
                    draws.append(known[noisy])
                grid[f"{name} {severity:g}"] = compared(clean, draws)
    return grids, tuple(notes)


def usual(severities: Severities) -> dict[str, float]:
    """Of each noise the severity nearest to its usual one."""
    return {
        name: min((s for s in levels if s), key=lambda s: abs(s - KINDS[name].severity))
        for name, levels in severities.items()
        if any(levels)
    }


def compared(clean: Judged, draws: Sequence[Judged]) -> dict:
    """A row of the table; units are items, over all draws."""
    right = np.mean([draw.right_per_byte for draw in draws], axis=0)
    own = [draw.right_per_byte.mean() for draw in draws]
    return {
        "accuracy": mean(right, clean.chance),
        "drop": ratio(clean.right_per_byte - right, clean.right_per_byte),
        "retained": ratio(right - clean.chance, clean.right_per_byte - clean.chance),
        "accuracy_spread_over_seeds": single(float(np.std(own, ddof=1)) if len(own) > 1 else None),
    }
