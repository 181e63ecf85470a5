"""Import of published checkpoints: hlm.from_foreign(format, weights, config), and python -m hlm.port FORMAT SOURCE DEST.

`weights` is a mapping of numpy arrays, or the path of a safetensors file, of a folder of them or of a `torch` file (read without
unpickling code).
"""

import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors

from hlm import sharding
from hlm.config import Experiment
from hlm.data.pipeline import Data
from hlm.data.source import TextFiles
from hlm.infer.api import LanguageModel
from hlm.model.lm import LM, abstract_params
from hlm.port import table, torch_file
from hlm.train.optim import AdamW

FORMATS = ("aunet", "blt", "dynamic_pooling", "hat", "hnet", "llama", "megabyte", "spacebyte")


def from_foreign(format: str, weights: Mapping[str, np.ndarray] | str, config: Mapping[str, Any] | str) -> LanguageModel:
    """A LanguageModel with the architecture of `config` (a mapping, or the path of its JSON file) and the given weights.

    Raises ValueError for an unknown format and for weights that are unknown, missing or misshapen.
    """
    values: Mapping[str, Any] = json.loads(pathlib.Path(config).read_text()) if isinstance(config, str) else config
    arrays = read(weights) if isinstance(weights, str) else weights
    model, length, params, _ = imported(format, arrays, values)
    corpus = TextFiles(("corpus:mobydick/train.txt",))
    exp = Experiment(
        model=model,
        data=Data(corpus, length=length),
        valid=TextFiles(("corpus:mobydick/valid.txt",)),
        test=TextFiles(("corpus:mobydick/test.txt",)),
        optim=AdamW(peak=1e-4, warmup=0),
        steps=1,
        rows=8,
    )
    return LanguageModel(exp, jax.tree.map(jax.numpy.asarray, params), sharding.Mesh().make(jax.devices()[:1]))


def imported(format: str, weights: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> tuple[LM, int, Any, list[table.Row]]:
    """(model, row length, parameters as numpy arrays, the table that made them)."""
    if format not in FORMATS:
        raise ValueError(f"format: no {format!r}; there are {', '.join(FORMATS)}")
    module = importlib.import_module(f"hlm.port.{format}")
    model, length = module.model(config, weights)
    rows = module.rows(config, weights)
    return model, length, table.convert(weights, rows, abstract_params(model, length)), rows


def read(path: str) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file, of all safetensors files of a folder, or of a file of torch.save."""
    source = pathlib.Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no weights at {path!r}: give a .safetensors file, a folder of them, or a file of torch.save")
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if not files:
        raise FileNotFoundError(f"no .safetensors files in the folder {path!r}")
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        arrays |= safe(file) if file.suffix == ".safetensors" else torch_file.read(str(file))
    return arrays


def safe(file: pathlib.Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(file, framework="numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no dictionary)
