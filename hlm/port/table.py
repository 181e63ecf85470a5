"""The machinery of import: a table of rows, foreign name -> our path, applied to a mapping of numpy arrays. Imports no torch.

Each format is one file of this folder with `model(config, weights) -> (LM, row length)` and `rows(config, weights) -> list[Row]`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

LAYER = "{layer}"  # in a foreign name: the number of a layer; the layers are stacked in order


@dataclasses.dataclass(frozen=True)
class Row:
    """One foreign name, or one for each layer, and where it goes: a path, or several with a `convert` that returns as many arrays.

    No path: the weight is known and not needed (a buffer). `layers`: only these, numbered from the first of them.
    """

    source: str
    path: str | tuple[str, ...] | None
    convert: Callable[[np.ndarray], Any] = lambda array: array
    layers: range | None = None

    def match(self, name: str) -> int | None:
        """The layer's number (0 if there is none) if this row is for `name`."""
        found = re.fullmatch(re.escape(self.source).replace(re.escape(LAYER), r"(\d+)"), name)
        if found is None or LAYER not in self.source:
            return None if found is None else 0
        layer = int(found.group(1))
        if self.layers is None:
            return layer
        return layer - self.layers.start if layer in self.layers else None


def convert(weights: Mapping[str, np.ndarray], rows: Iterable[Row], abstract: Any) -> Any:
    """Foreign weights -> our tree of parameters, of the shapes in `abstract`, float32.

    Raises ValueError naming every weight that is unknown, missing or misshapen.
    """
    rows = list(rows)
    found: dict[str, dict[int, np.ndarray]] = {}
    stacked: set[str] = set()
    unknown = []
    for name, array in weights.items():
        matches = [(row, layer) for row in rows if (layer := row.match(name)) is not None]
        if not matches:
            unknown.append(name)
        for row, layer in matches[:1]:
            if row.path is None:
                continue
            paths = (row.path,) if isinstance(row.path, str) else row.path
            parts = row.convert(np.asarray(array))
            for path, part in zip(paths, (parts,) if isinstance(row.path, str) else parts, strict=True):
                found.setdefault(path, {})[layer] = np.asarray(part, np.float32)
                if LAYER in row.source:
                    stacked.add(path)
    wanted = {jax.tree_util.keystr(p, simple=True, separator="/"): a for p, a in jax.tree_util.tree_leaves_with_path(abstract)}
    names = {path: row.source for row in rows for path in ((row.path,) if isinstance(row.path, str) else row.path or ())}
    problems = [f"unknown weight {name}" for name in unknown]
    problems += [f"missing weight {names.get(path, '(no row in the table)')} for {path}" for path in wanted if path not in found]
    problems += [f"no place in the model for {names[path]} ({path})" for path in found if path not in wanted]
    arrays = {}
    for path, layers in found.items():
        if path not in wanted:
            continue
        if path in stacked and sorted(layers) != list(range(len(layers))):
            problems.append(f"{names[path]}: layers {sorted(layers)} are not 0, 1, 2, ...")
            continue
        array = np.stack([layers[i] for i in sorted(layers)]) if path in stacked else layers[0]
        if array.shape != wanted[path].shape:
            problems.append(f"{names[path]} has shape {array.shape} at {path}, the config asks for {wanted[path].shape}")
        arrays[path] = array
    if problems:
        raise ValueError("weights do not fit the config:\n  " + "\n  ".join(problems))
    return unflatten(arrays)


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *above, last = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[last] = array
    return tree


def refuse(config: Mapping[str, Any], **known: Any) -> None:
    """Raise ValueError, naming them, for config fields with another value than the only one that our parts know."""
    wrong = [f"{name} {config[name]!r} (only {value!r})" for name, value in known.items() if config.get(name, value) != value]
    if wrong:
        raise ValueError(f"config: not supported here: {', '.join(wrong)}")


# Conversions of torch's [out, in] matrices.


def matrix(w: np.ndarray) -> np.ndarray:
    """[out, in] -> [in, out]."""
    return w.T


def into_heads(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Query, key or value [H*K, D] -> [D, H, K]."""
    return lambda w: w.reshape(heads, -1, w.shape[1]).transpose(2, 0, 1)


def into_rotated_heads(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """As `into_heads`, from rotary positions on neighbouring pairs to our two halves: only the order of each head's entries changes."""
    return lambda w: w.reshape(heads, -1, 2, w.shape[1]).transpose(3, 0, 2, 1).reshape(w.shape[1], heads, -1)


def out_of_heads(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Output [D, H*K] -> [H, K, D]."""
    return lambda w: w.T.reshape(heads, -1, w.shape[0])


def head(w: np.ndarray) -> np.ndarray:
    """Unembedding [V, D] -> [D, 1, V]."""
    return w.T[:, None]
