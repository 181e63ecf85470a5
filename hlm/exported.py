"""A model as two plain files that any program can read: FOLDER/model.safetensors and
FOLDER/config.json.

Weights have their parameter paths as names and are exactly those of the model; `hlm.load` reads the
folder like that of a run.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from hlm import sharding
from hlm.config import Experiment
from hlm.files import json_object, said, tensors
from hlm.model.lm import abstract_params
from hlm.registry import from_json, to_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"
DIGEST = "sha256"  # in the metadata of the weights; programs that write other weights leave it out


def is_there(path: str) -> bool:
    return (epath.Path(path) / WEIGHTS).exists()


def write(path: str, step: int, exp: Experiment, params: Any) -> None:
    """Create the folder's two files. Raises FileExistsError rather than write over a model."""
    folder = epath.Path(path)
    if is_there(path):
        raise FileExistsError(f"{folder / WEIGHTS} exists: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(a) for name, a in named(jax.device_get(params)).items()}
    (folder / CONFIG).write_text(
        json.dumps({"step": step, "experiment": to_json(exp)}, indent=1) + "\n"
    )
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(arrays, {DIGEST: digest(arrays)}))


def read(path: str, mesh: jax.sharding.Mesh) -> tuple[int, Experiment, Any]:
    """(step, experiment, parameters on the mesh).

    Raises ValueError for weights that do not fit the config, naming them, and for files that are
    damaged or of another kind.
    """
    folder = epath.Path(path)
    step, exp, abstract = config_of(folder / CONFIG)
    arrays, metadata = tensors(folder / WEIGHTS)
    wanted = {name: (a.shape, a.dtype) for name, a in named(abstract).items()}
    found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    if wrong := sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    ):
        lines = [
            f"{name}: is {found.get(name, 'missing')}, should be "
            f"{wanted.get(name, 'no weight of this model')}"
            for name in wrong
        ]
        raise ValueError(f"{folder}: weights do not fit the config: {'; '.join(lines)}")
    if metadata.get(DIGEST, known := digest(arrays)) != known:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged: its weights are not those that were written; "
            "export the model again"
        )
    shardings = named(sharding.shardings(abstract, mesh))
    on_mesh = {name: jax.device_put(a, shardings[name]) for name, a in arrays.items()}
    return step, exp, jax.tree_util.tree_map_with_path(lambda at, _: on_mesh[keystr(at)], abstract)


def config_of(file: epath.Path) -> tuple[int, Experiment, Any]:
    """(step, experiment, shapes and dtypes of its parameters) of a config's file."""
    config = json_object(file)
    step, kept = config.get("step"), config.get("experiment")
    if not isinstance(kept, dict) or not isinstance(step, int):
        raise ValueError(
            f"{file} is no config of an exported model: it has to have a step and an experiment"
        )
    try:
        exp = from_json(kept)
        return step, exp, abstract_params(exp.model, exp.data.length)
    except Exception as error:  # whatever parts do with fields that they would never be given
        raise ValueError(
            f"{file}: experiment is damaged, or of another version: {said(error)}"
        ) from error


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Of names, shapes and numbers: what says that they are as they were written."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).data)
    return total.hexdigest()


def named(tree: Any) -> dict[str, Any]:
    """{"trunk/encoder/...": leaf}."""
    return {keystr(at): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def keystr(at: tuple) -> str:
    return jax.tree_util.keystr(at, simple=True, separator="/")
