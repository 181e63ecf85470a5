"""The interface of suites, and the table of all of them. A new suite is one file and one line here.

A suite says which models it fits and measures one model at a time. What it finds are grids:

    title of a table -> row -> name of a metric -> Measure

The same data, rows and units for every model, so that eval.py can show models side by side, and
compare them unit by unit. A suite whose data is not there raises `Missing`, and is left out.
"""

import abc
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hlm.evals.measure import Measure
from hlm.evals.shelf import Shelf
from hlm.infer.api import LanguageModel

Grid = dict[str, dict[str, Measure]]
Severities = Mapping[str, Sequence[float]]  # of each noise

# name on the command line -> its file and class
SUITES = {
    "perplexity": "hlm.evals.perplexity:Perplexity",
    "robustness": "hlm.evals.robustness:Robustness",
    "choice": "hlm.evals.choice:Choice",
    "characters": "hlm.evals.characters:Characters",
    "fairness": "hlm.evals.fairness:Fairness",
    "boundaries": "hlm.evals.boundaries:Boundaries",
    "efficiency": "hlm.evals.efficiency:Efficiency",
    "tagging": "hlm.evals.tagging:Tagging",
    "probes": "hlm.evals.probes:Probes",
    "adaptation": "hlm.evals.adaptation:Adaptation",
    "lm_eval": "hlm.evals.harness:Harness",
    "fill": "hlm.evals.fill:Fill",
    "masked": "hlm.evals.masked:Masked",
}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and the domain or language that its numbers are also reported for."""

    text: bytes
    domain: str


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all models are measured on."""

    documents: Sequence[Document]
    excerpt: Sequence[bytes]  # their beginning, for suites that read it many times
    shelf: Shelf  # files of benchmarks
    training: Sequence[bytes] = ()  # text to count words in; none: not counted
    items: int | None = None  # of each task; 0: all; None: as many as is usual for the suite
    severities: Severities = dataclasses.field(default_factory=dict)
    seed: int = 0
    seeds: int = 3  # noise is drawn so often
    adapt_to: Any = None  # a source of text to learn
    adapt_test: Sequence[bytes] = ()
    flops: float = 1e12  # to learn it with
    tasks: Sequence[str] = ()  # of lm-evaluation-harness
    task_path: str | None = None  # folder of further ones

    def most(self, usual: int) -> int | None:
        """Items of a task; None: all."""
        return (usual if self.items is None else self.items) or None


@dataclasses.dataclass
class Found:
    """What a suite found for one model.

    `curves`: {name: ((severity, value), ...)}, to be drawn. `details`: further numbers for the
    JSON file. `notes`: lines under the tables.
    """

    grids: dict[str, Grid]
    curves: dict[str, tuple[tuple[float, float | None], ...]] = dataclasses.field(
        default_factory=dict
    )
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Suite(abc.ABC):
    """Base: a protocol of evaluation."""

    usual: ClassVar[bool] = False  # runs where no suite is asked for

    def fits(self, lm: LanguageModel) -> bool:
        """Whether it can measure such a model."""
        return lm.model.causal

    @abc.abstractmethod
    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        """Raises `Missing` without its data."""


def named(name: str) -> Suite:
    """The suite of that name in the table."""
    module, _, kind = SUITES[name].partition(":")
    return getattr(importlib.import_module(module), kind)()
