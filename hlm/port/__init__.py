"""Import of published checkpoints: hlm.from_foreign(format, weights, config), and python -m
hlm.port FORMAT SOURCE DEST.

`weights` is a mapping of numpy arrays, or the path of a safetensors file, of a folder of them or of
a `torch` file (read without unpickling code).
"""

import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hlm import sharding
from hlm.config import Experiment
from hlm.data.pipeline import Data
from hlm.data.source import TextFiles
from hlm.files import json_object, local_tensors, refuse_pointer
from hlm.infer.api import LanguageModel
from hlm.model.lm import LM, abstract_params
from hlm.port import table, torch_file
from hlm.port.keys import plain, shown
from hlm.train.optim import AdamW

FORMATS = ("aunet", "blt", "dynamic_pooling", "hat", "hnet", "llama", "megabyte", "spacebyte")
BEGIN = 64  # bytes that say what a file is


def from_foreign(
    format: str,
    weights: Mapping[str, np.ndarray] | str | os.PathLike,
    config: Mapping[str, Any] | str | os.PathLike,
) -> LanguageModel:
    """A LanguageModel with the architecture of `config` (a mapping, or the path of its JSON file)
    and the given weights.

    Raises ValueError, in one line, for an unknown format, for keys of the config that are wrong or
    that this format does not know, and for weights that are unknown, missing, misshapen or damaged.
    """
    values: Mapping[str, Any] = (
        json_object(config) if isinstance(config, str | os.PathLike) else config
    )
    arrays = read(weights) if isinstance(weights, str | os.PathLike) else weights
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
    origin = f"{format}:{os.fspath(weights)}" if isinstance(weights, str | os.PathLike) else format
    mesh = sharding.Mesh().make(jax.devices()[:1])
    return LanguageModel(exp, jax.tree.map(jax.numpy.asarray, params), mesh, origin=origin)


def imported(
    format: str, weights: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> tuple[LM, int, Any, list[table.Row]]:
    """(model, row length, parameters as numpy arrays, the table that made them)."""
    if format not in FORMATS:
        raise ValueError(f"format: no {format!r}; there are {', '.join(FORMATS)}")
    if not isinstance(weights, Mapping):
        raise ValueError(f"weights: {shown(weights)} is no mapping of names to arrays, and no path")
    module = importlib.import_module(f"hlm.port.{format}")
    model, length = module.model(config, weights)
    rows = module.rows(config, weights)
    return model, length, table.convert(weights, rows, abstract_params(model, length)), rows


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file, of all safetensors files of a folder, or of a file of
    torch.save.
    """
    source = pathlib.Path(path)
    if not source.exists():
        raise FileNotFoundError(
            f"no weights at '{path}': give a .safetensors file, a folder of them, or a file "
            "of torch.save"
        )
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if not files:
        raise FileNotFoundError(f"no .safetensors files in the folder '{path}'")
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        found = read_file(file)
        if twice := arrays.keys() & found.keys():
            raise ValueError(
                f"{file} and another file beside it both hold {plain(min(twice))}: leave one "
                "of them in the folder"
            )
        arrays |= found
    return arrays


def read_file(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays of one file, by what it begins with."""
    with open(file, "rb") as opened:
        begin = opened.read(BEGIN)
    if not begin:
        raise ValueError(f"{file} is empty; get it again")
    refuse_pointer(file, begin)
    if file.suffix == ".safetensors" or begin[8:9] == b"{":
        return dict(local_tensors(file))
    return torch_file.read(str(file))
