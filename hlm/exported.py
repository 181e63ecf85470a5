"""A model as two plain files that any program can read: FOLDER/model.safetensors and FOLDER/config.json.

Weights have their parameter paths as names and are exactly those of the model; `hlm.load` reads the folder like that of a run.
"""

import json
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from hlm import sharding
from hlm.config import Experiment
from hlm.model.lm import abstract_params
from hlm.registry import from_json, to_json
from hlm.sharding import keystr

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def is_there(path: str) -> bool:
    return (epath.Path(path) / WEIGHTS).exists()


def write(path: str, step: int, exp: Experiment, params: Any) -> None:
    """Create the folder's two files. Raises FileExistsError rather than write over a model."""
    folder = epath.Path(path)
    if is_there(path):
        raise FileExistsError(f"{folder / WEIGHTS} exists: give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(a) for name, a in named(jax.device_get(params)).items()}
    (folder / CONFIG).write_text(json.dumps({"step": step, "experiment": to_json(exp)}, indent=1) + "\n")
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))


def read(path: str, mesh: jax.sharding.Mesh) -> tuple[int, Experiment, Any]:
    """(step, experiment, parameters on the mesh). Raises ValueError, naming them, for weights that do not fit the config."""
    folder = epath.Path(path)
    config = json.loads((folder / CONFIG).read_text())
    exp = from_json(config["experiment"])
    arrays = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
    abstract = abstract_params(exp.model, exp.data.length)
    wanted = {name: (a.shape, a.dtype) for name, a in named(abstract).items()}
    found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        lines = [
            f"{name}: is {found.get(name, 'missing')}, should be {wanted.get(name, 'no weight of this model')}" for name in wrong
        ]
        raise ValueError(f"{folder}: weights do not fit the config:\n  " + "\n  ".join(lines))
    shardings = named(sharding.shardings(abstract, mesh))
    on_mesh = {name: jax.device_put(a, shardings[name]) for name, a in arrays.items()}
    return config["step"], exp, jax.tree_util.tree_map_with_path(lambda at, _: on_mesh[keystr(at)], abstract)


def named(tree: Any) -> dict[str, Any]:
    """{"trunk/encoder/...": leaf}."""
    return {keystr(at): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(tree)}
