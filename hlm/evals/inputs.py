"""What eval.py is given: checkpoints, ours and published ones, and texts."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from hlm import checkpoint, sharding
from hlm.config import Experiment
from hlm.data import kinds, pipeline
from hlm.data.source import (
    ArrayRecord,
    Arrow,
    Beginning,
    JsonLines,
    Mixture,
    Parquet,
    Source,
    TextFiles,
)
from hlm.infer.api import LanguageModel, load
from hlm.infer.rows import at_once
from hlm.port import FORMATS, from_foreign
from hlm.port.config_file import config_file
from hlm.registry import to_json

Texts = list[tuple[str, bytes]]  # (domain, text)
TRAINING = 10_000_000  # bytes of training text in which words are counted


class Wrong(Exception):
    """What is wrong with what was given, in one line."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A checkpoint: a run or an export at a path, or one of a published format."""

    path: str
    step: int | None = None
    format: str | None = None
    average: bool = False  # of the weights, of a run that has one
    rows: int | None = None  # read at once
    mesh: sharding.Mesh | None = None  # None: one device

    def load(self) -> LanguageModel:
        try:
            mesh = None if self.mesh is None else self.mesh.make()
            if self.format is None:
                return load(self.path, self.step, mesh, self.average, self.rows)
            if self.average:
                raise ValueError("--average: a published checkpoint has none; leave it out")
            lm = from_foreign(self.format, self.path, config_file(self.path, None))
            if mesh is not None:
                lm.params = jax.device_put(lm.params, sharding.shardings(lm.params, mesh))
                lm.mesh = mesh
            lm.rows = at_once(self.rows, lm.experiment, lm.mesh)
            return lm
        except (ValueError, OSError) as error:
            raise Wrong(f"checkpoint {self.path}: {' '.join(str(error).split())}") from error

    def experiment(self) -> Experiment:
        """Its config; that of a published checkpoint is made on import."""
        if self.format is not None:
            return self.load().experiment
        try:
            return checkpoint.experiment_of(self.path, self.step)
        except (ValueError, OSError) as error:
            raise Wrong(f"checkpoint {self.path}: {' '.join(str(error).split())}") from error

    @property
    def label(self) -> str:
        return self.path if self.step is None else f"{self.path}@{self.step}"

    def short(self, others: Iterable["Reference"]) -> str:
        """The folder's name, if it is that of one path only."""
        names = [base(path) for path in dict.fromkeys(other.path for other in others)]
        return base(self.path) if names.count(base(self.path)) == 1 else self.path

    def described(self, lm: LanguageModel) -> dict[str, Any]:
        return {
            "workdir": self.path,
            "format": self.format or "hlm",
            "step": lm.step,
            "parameters": sum(x.size for x in jax.tree.leaves(lm.params)),
            "row": lm.budget.length,
            "context": lm.context,
        }


def base(path: str) -> str:
    return os.path.basename(os.path.normpath(path))


def reference(given: str) -> Reference:
    """WORKDIR, WORKDIR@STEP, or FORMAT:PATH."""
    format, colon, path = given.partition(":")
    if colon and format in FORMATS:
        return Reference(os.path.expanduser(path), format=format)
    path, step = checkpoint.run_and_step(os.path.expanduser(given))
    return Reference(path, step)


def texts(paths: Sequence[str]) -> Texts:
    """The documents of files and folders, each read by what its name says."""
    return [found for path in paths for found in texts_in(path)]


def texts_in(path: str) -> Texts:
    """Raises `Wrong` if a file is not what its name says, or is no text."""
    try:
        return named(pipeline.documents(source(path)))
    except (ValueError, OSError) as error:
        raise Wrong(f"--data: {error}") from None


def source(path: str) -> Source:
    """The source that reads what the name says."""
    readers: dict[kinds.Kind | None, Any] = {
        kinds.JSON_LINES: JsonLines,
        kinds.ARRAY_RECORD: ArrayRecord,
        kinds.PARQUET: Parquet,
        kinds.ARROW: Arrow,
    }
    return readers.get(kinds.of_name(pathlib.Path(path)), TextFiles)((path,))


def context(lm: LanguageModel, asked: int | None) -> int:
    """The model's own, or what is asked for."""
    if asked is None:
        return lm.context
    if not 0 <= asked < lm.budget.length:
        raise Wrong(f"--context: {asked}; give 0 to {lm.budget.length - 1}, less than a row")
    return asked


def named(documents: Iterable[tuple[str, bytes]]) -> Texts:
    """With the name of its file, without folder, endings and number, as the domain of each."""
    return [(domain(name), text) for name, text in documents]


def domain(name: str) -> str:
    file = os.path.basename(re.sub(r"[:#]\d+$", "", name))
    return file.partition(".")[0] or file


def own_test(references: Iterable[Reference]) -> Texts:
    """The test text that all runs' configs agree on."""
    tests = {reference.label: reference.experiment().test for reference in references}
    if any(test != next(iter(tests.values())) for test in tests.values()):
        lines = "\n".join(f"  {label}: {test}" for label, test in tests.items())
        raise Wrong(f"the checkpoints have different test texts, give one with --data:\n{lines}")
    return named(pipeline.documents(next(iter(tests.values()))))


def own_training(references: Sequence[Reference]) -> list[bytes]:
    """The first documents, TRAINING bytes, of the text that all runs' configs train on; none if
    they differ, are of other code or a mixture, or if that text is not on this machine: nobody
    asked for a download.
    """
    if any(reference.format for reference in references):
        return []
    sources = [reference.experiment().data.source for reference in references]
    far = "://" in json.dumps(to_json(sources[0]))
    if far or isinstance(sources[0], Mixture) or any(s != sources[0] for s in sources):
        return []
    try:
        return [text for _, text in pipeline.documents(Beginning(sources[0], TRAINING))]
    except (ValueError, OSError):
        return []
