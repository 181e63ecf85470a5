"""How much worse a model predicts perturbed text, for every noise of hlm/evals/noise.py and as a
curve over its severity.

The whole text is perturbed, not only a prompt. Bits are per byte of the perturbed text; noise that
moves spaces also changes what a chunk holds, so bytes per chunk are reported beside them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hlm.evals import perplexity
from hlm.evals.noise import NOISES, perturb
from hlm.infer.api import LanguageModel

Severities = Mapping[str, Sequence[float]]  # of each noise
COMPARED = ("bits_per_byte", "byte_accuracy", "word_accuracy", "bytes_per_chunk")


def usual(noises: Sequence[str] = tuple(NOISES)) -> Severities:
    """The severity that each noise is usually reported at."""
    return {name: (NOISES[name].severity,) for name in noises}


def curves(noises: Sequence[str] = tuple(NOISES)) -> Severities:
    """All severities of each noise's curve."""
    return {name: NOISES[name].severities for name in noises}


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
            return [*chosen, text[:end]] if end else chosen
        chosen.append(text)
        limit -= len(text)
    return chosen


def evaluate(
    lm: LanguageModel, documents: Sequence[bytes], severities: Severities, seed: int = 0
) -> dict[str, Any]:
    """{"clean": ..., "noises": {name: [{"severity": ..., "change": ...} and what
    perplexity.evaluate gives, ...]}}.

    `change` is relative to clean: 0.1 is 10 % more; None where clean is 0. Severity 0 is the clean
    text. The noise follows from (document, noise, severity, seed) alone, so all models read the
    same bytes.
    """
    clean = perplexity.evaluate(lm, documents, "robustness: clean text")
    points = [(name, severity) for name, levels in severities.items() for severity in levels]
    noises: dict[str, list[dict[str, Any]]] = {name: [] for name in severities}
    for i, (name, severity) in enumerate(points, 1):
        found = clean
        if severity:
            noisy = [perturb(text, name, severity, seed) for text in documents]
            found = perplexity.evaluate(
                lm, noisy, f"robustness {i}/{len(points)}: {name} {severity:g}"
            )
        relative = {key: change(found[key], clean[key]) for key in COMPARED}
        noises[name].append({"severity": severity, "change": relative} | found)
    return {"clean": clean, "noises": noises}


def change(value: float | None, clean: float | None) -> float | None:
    return None if value is None or not clean else value / clean - 1
