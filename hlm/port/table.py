"""The machinery of import: a table of rows, foreign name -> our path, applied to a mapping of numpy
arrays. Imports no torch.

Each format is one file of this folder with `model(config, weights) -> (LM, row length)` and
`rows(config, weights) -> list[Row]`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hlm.port.keys import Wrong, listed, plain, shown
from hlm.sharding import keystr

LAYER = "{layer}"  # in a foreign name: the number of a layer; the layers are stacked in order
NUMBER = "(0|[1-9][0-9]{0,5})"  # written in one way, so that no two names are of the same layer


@dataclasses.dataclass(frozen=True)
class Row:
    """One foreign name, or one for each layer, and where it goes: a path, or several with a
    `convert` that returns as many arrays.

    No path: the weight is known and not needed (a buffer). `layers`: only these, numbered from the
    first of them.
    """

    source: str
    path: str | tuple[str, ...] | None
    convert: Callable[[np.ndarray], Any] = lambda array: array
    layers: range | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    def match(self, name: str) -> int | None:
        """The layer's number (0 if there is none) if this row is for `name`."""
        found = re.fullmatch(re.escape(self.source).replace(re.escape(LAYER), NUMBER), name)
        if found is None or LAYER not in self.source:
            return None if found is None else 0
        layer = int(found.group(1))
        if self.layers is None:
            return layer
        return layer - self.layers.start if layer in self.layers else None

    def parts(self, name: str, array: Any) -> tuple[np.ndarray, ...]:
        """What a weight becomes: an array of float32 for each path. Raises Wrong."""
        numbers = floats(name, array)
        try:
            made = self.convert(numbers)
            made = (made,) if isinstance(self.path, str) else tuple(made)
        except (ValueError, IndexError):  # of reshape, transpose, split
            raise Wrong(
                f"weight {plain(name)} of shape {numbers.shape} does not fit the config"
            ) from None
        with np.errstate(over="ignore"):
            parts = tuple(np.asarray(part, np.float32) for part in made)
        if not all(np.isfinite(part).all() for part in parts):
            raise Wrong(
                f"weight {plain(name)} holds numbers that are not finite in float32; the file "
                "is damaged, or of a diverged run"
            )
        return parts


def floats(name: str, array: Any) -> np.ndarray:
    """A weight as numpy's. Raises Wrong for no floating-point numbers, such as those of int8."""
    try:
        numbers = np.asarray(array)
    except (ValueError, TypeError):
        raise Wrong(f"weight {plain(name)} is {type(array).__name__}, not an array") from None
    if not jnp.issubdtype(numbers.dtype, jnp.floating):
        raise Wrong(f"weight {plain(name)} is of {numbers.dtype}, not of floating-point numbers")
    return numbers


def shape(weights: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a weight that says what the config does not.

    Raises ValueError if it is missing or has other axes.
    """
    if name not in weights:
        raise ValueError(f"weights: missing weight {name}")
    found = np.shape(weights[name])
    if len(found) != axes or 0 in found:
        raise ValueError(
            f"weights: {name} has shape {found} (only {axes} axes, none of them empty)"
        )
    return found


def convert(weights: Mapping[str, np.ndarray], rows: Iterable[Row], abstract: Any) -> Any:
    """Foreign weights -> our tree of parameters, of the shapes in `abstract`, float32.

    Raises ValueError, in one line, for weights that are unknown, missing, misshapen or no finite
    numbers.
    """
    rows = list(rows)
    found: dict[str, dict[int, np.ndarray]] = {}
    stacked: set[str] = set()
    problems: list[str] = []
    spoiled: set[str] = set()  # paths whose weights are named already
    for name, array in weights.items():
        matches = [
            (row, layer)
            for row in rows
            if isinstance(name, str) and (layer := row.match(name)) is not None
        ]
        if not matches:
            problems.append(f"unknown weight {plain(name)}")
            continue
        row, layer = matches[0]
        if not row.paths:
            continue
        try:
            parts = row.parts(name, array)
        except Wrong as wrong:
            problems += wrong.problems
            spoiled.update(row.paths)
            continue
        for path, part in zip(row.paths, parts, strict=True):
            if layer in found.setdefault(path, {}):
                problems.append(f"{plain(name)} is the second weight for {path}")
            found[path][layer] = part
            if LAYER in row.source:
                stacked.add(path)
    wanted = {keystr(p): a for p, a in jax.tree_util.tree_leaves_with_path(abstract)}
    names = {path: row.source for row in rows for path in row.paths}
    absent = [path for path in wanted if path not in found and path not in spoiled]
    problems += [
        f"missing weight {names.get(path, '(no row in the table)')} for {path}" for path in absent
    ]
    problems += [
        f"no place in the model for {names[path]} ({path})" for path in found if path not in wanted
    ]
    arrays = {}
    for path, layers in found.items():
        if path not in wanted or path in spoiled:
            continue
        try:
            arrays[path] = _whole(names[path], path, layers, path in stacked, wanted[path].shape)
        except Wrong as wrong:
            problems += wrong.problems
    if problems:
        raise ValueError(f"weights do not fit the config: {listed(problems)}")
    return unflatten(arrays)


def _whole(
    name: str, path: str, layers: dict[int, np.ndarray], stacked: bool, wanted: tuple[int, ...]
) -> np.ndarray:
    """The array at a path, its layers put together. Raises Wrong."""
    if stacked and sorted(layers) != list(range(len(layers))):
        raise Wrong(f"{name}: layers {shown(sorted(layers))} are not 0, 1, 2, ...")
    found = [layers[i].shape for i in sorted(layers)]
    whole = (len(found), *found[0]) if stacked else found[0]
    odd = [shape for shape in found if shape != found[0]]
    if odd or whole != wanted:
        raise Wrong(
            f"{name} has shape {odd[0] if odd else whole} at {path}, the config asks for {wanted}"
        )
    return np.stack([layers[i] for i in sorted(layers)]) if stacked else layers[0]


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


# Conversions of torch's [out, in] matrices.


def matrix(w: np.ndarray) -> np.ndarray:
    """[out, in] -> [in, out]."""
    return w.T


def into_heads(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Query, key or value [H*K, D] -> [D, H, K]."""
    return lambda w: w.reshape(heads, -1, w.shape[1]).transpose(2, 0, 1)


def into_rotated_heads(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """As `into_heads`, from rotary positions on neighbouring pairs to our two halves: only the
    order of each head's entries changes.
    """
    return lambda w: (
        w.reshape(heads, -1, 2, w.shape[1]).transpose(3, 0, 2, 1).reshape(w.shape[1], heads, -1)
    )


def out_of_heads(heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Output [D, H*K] -> [H, K, D]."""
    return lambda w: w.T.reshape(heads, -1, w.shape[0])


def head(w: np.ndarray) -> np.ndarray:
    """Unembedding [V, D] -> [D, 1, V]."""
    return w.T[:, None]
