"""How much worse a model does on perturbed text, for every noise of hlm/evals/noise.py and for real
misspellings, as a curve over the severity; on running text here, on multiple choice in
hlm/evals/noised_choice.py.

Protocol: all text that is scored is perturbed; bits are per byte of the perturbed text.
Noise that moves spaces also changes what a chunk holds, so bytes per chunk are reported beside
them. Noise is drawn several times, with seeds that are the same for all models: numbers are over
all of them together, the spread is the standard deviation of the seeds' own. Published: HAT (arXiv
2501.10322, robustness), noised HellaSwag of BLT (arXiv 2412.09871, table 3) and H-Net.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hlm.data.source import Prompted, prompt_of
from hlm.evals import misspell, noised_choice, perplexity
from hlm.evals.measure import change, single
from hlm.evals.noise import NOISES, Noise, perturb
from hlm.evals.perplexity import Units
from hlm.evals.suite import Found, Grid, Setting, Severities, Suite
from hlm.infer.api import LanguageModel

COMPARED = ("bits_per_byte", "byte_accuracy", "word_accuracy", "bytes_per_chunk")


def usual(noises: Sequence[str] = tuple(NOISES)) -> Severities:
    """The severity that each noise is usually reported at."""
    return {name: (misspell.KINDS[name].severity,) for name in noises}


def curves(noises: Sequence[str] = tuple(NOISES)) -> Severities:
    """All severities of each noise's curve."""
    return {name: misspell.KINDS[name].severities for name in noises}


SEVERITIES = {"default": usual, "curve": curves}


def excerpt(documents: Sequence[bytes], limit: int) -> list[bytes]:
    """The first documents, up to that end of a line or document which is nearest to `limit` bytes
    in all.
    """
    chosen: list[bytes] = []
    for text in documents:
        if len(text) > limit:
            before = text.rfind(b"\n", 0, limit) + 1
            after = text.find(b"\n", limit) + 1 or len(text)
            end = before if limit - before <= after - limit and (before or any(chosen)) else after
            return [*chosen, Prompted(text[:end], prompt_of(text))] if end else chosen
        chosen.append(text)
        limit -= len(text)
    return chosen


def evaluate(
    lm: LanguageModel, documents: Sequence[bytes], severities: Severities, seed: int = 0
) -> dict[str, Any]:
    """{"clean": ..., "noises": {name: [{"severity": ..., "change": ...} and the measures' values,
    ...]}}, of one draw of the noise.

    `change` is relative to clean: 0.1 is 10 % more; None where clean is 0.
    """
    clean, curves = measured(lm, documents, severities, (seed,), NOISES)
    before = values(clean)
    return {
        "clean": before,
        "noises": {
            name: [
                {"severity": severity, "change": changes(clean, now)} | values(now)
                for severity, (now,) in points.items()
            ]
            for name, points in curves.items()
        },
    }


def values(units: Units) -> dict[str, Any]:
    found = {name: measure.value for name, measure in units.measures().items()}
    return found | {"bytes": int(units.sums["bytes"].sum())}


def changes(clean: Units, now: Units) -> dict[str, float | None]:
    before, after = clean.measures(), now.measures()
    return {key: change(after[key], before[key]).value for key in COMPARED}


def measured(
    lm: LanguageModel,
    documents: Sequence[bytes],
    severities: Severities,
    seeds: Sequence[int],
    noises: dict[str, Noise],
) -> tuple[Units, dict[str, dict[float, list[Units]]]]:
    """(the clean text, {noise: {severity: [one for each seed]}}).

    Severity 0 is the clean text. The noise follows from (piece, noise, severity, seed) alone, so
    all models read the same bytes; draws that came out the same are read once.
    """
    cut = [perplexity.pieces(text) for text in documents]
    clean = perplexity.units(lm, cut, "robustness: clean text")
    points = [(name, severity) for name, levels in severities.items() for severity in levels]
    curves: dict[str, dict[float, list[Units]]] = {name: {} for name in severities}
    for i, (name, severity) in enumerate(points, 1):
        if not severity:
            curves[name][severity] = [clean] * len(seeds)
            continue
        known: dict[tuple, Units] = {}
        for seed in seeds:
            noisy = [
                [p if prompt_of(p) else perturb(p, name, severity, seed, noises) for p in pieces]
                for pieces in cut
            ]
            key = tuple(map(tuple, noisy))
            if key not in known:
                title = f"robustness {i}/{len(points)}: {name} {severity:g}"
                known[key] = perplexity.units(lm, noisy, title)
            curves[name].setdefault(severity, []).append(known[key])
    return clean, curves


class Robustness(Suite):
    """Perturbed text, and perturbed multiple choice where there is some."""

    usual = True

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        noises, notes = misspell.noises(setting.shelf), ()
        severities = {n: levels for n, levels in setting.severities.items() if n in noises}
        if left := [name for name in setting.severities if name not in noises]:
            notes = (f"{', '.join(left)}: no lists eval/misspell/*",)
        seeds = range(setting.seed, setting.seed + setting.seeds)
        clean, curves = measured(lm, setting.excerpt, severities, seeds, noises)
        grids: dict[str, Grid] = {"robustness: clean text": {"": clean.measures()}}
        drawn = {}
        for name, points in curves.items():
            drawn[name] = tuple(
                (severity, sum(now[1:], now[0]).measures()["bits_per_byte"].value)
                for severity, now in {0.0: [clean], **points}.items()
            )
            for severity, now in points.items():
                if severity:
                    for title, row in rows(clean, now).items():
                        grids.setdefault(title, {})[f"{name} {severity:g}"] = row
        fitting = dataclasses.replace(setting, severities=severities)
        more, left = noised_choice.tables(lm, fitting, noises, seeds)
        return Found(grids | more, drawn, notes=(*notes, *left))


def rows(clean: Units, now: list[Units]) -> Grid:
    """{title of a table: its row for a noise}."""
    before, together = clean.measures(), sum(now[1:], now[0]).measures()
    own = [
        change(units.measures()["bits_per_byte"], before["bits_per_byte"]).value for units in now
    ]
    spread = float(np.std([v for v in own if v is not None], ddof=1)) if len(now) > 1 else None
    return {
        "robustness: noise": {
            "bits_per_byte": together["bits_per_byte"],
            "change": change(together["bits_per_byte"], before["bits_per_byte"]),
            "change_spread_over_seeds": single(spread),
            "word_accuracy": together["word_accuracy"],
            "bytes_per_chunk": together["bytes_per_chunk"],
        }
    }
