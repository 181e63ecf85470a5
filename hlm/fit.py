"""Whether one tree of arrays fits into another: their paths and shapes, compared without reading a
number.
"""

import contextlib
from typing import Any

import jax

from hlm.sharding import keystr

SHOWN = 4


class Misfit(ValueError):
    """Arrays are sound, but not those of this model or optimizer."""


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{"trunk/encoder/...": shape} of all arrays, abstract ones too."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {keystr(at): tuple(leaf.shape) for at, leaf in leaves if hasattr(leaf, "shape")}


def misfits(given: Any, wanted: Any) -> list[str]:
    """What differs, one path each; none if `given` fits."""
    ours, theirs = shapes(wanted), shapes(given)
    other = [
        f"{p} has shape {theirs[p]}, not {ours[p]}"
        for p in ours
        if p in theirs and theirs[p] != ours[p]
    ]
    missing = [f"{p} is missing" for p in ours if p not in theirs]
    return other + missing + [f"{p} has no place" for p in theirs if p not in ours]


def check(given: Any, wanted: Any, what: str) -> None:
    """Raises Misfit, in one line that names `what` and the first paths."""
    if lines := misfits(given, wanted):
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise Misfit(f"{what} do not fit: {'; '.join(lines[:SHOWN])}{more}")


def place(params: Any, part: str) -> Any:
    """The tree at a path such as "trunk/backbone"; "" is all. Raises ValueError naming what there
    is.
    """
    for name in part.split("/") if part else ():
        if not isinstance(params, dict) or name not in params:
            there = ", ".join(params) if isinstance(params, dict) else "none"
            raise ValueError(f"part {part!r}: the parameters have no {name!r}; there are {there}")
        params = params[name]
    return params


def fitting(given: Any, params: Any, part: str) -> Any:
    """What of `given` belongs at `part` of `params`: all of it, or else what it has at this path
    itself.
    """
    wanted = place(params, part)
    if part and misfits(given, wanted):
        # it has no such part: then all of it is what does not fit
        with contextlib.suppress(ValueError):
            given = place(given, part)
    check(given, wanted, f"the parameters given for {part}" if part else "the given parameters")
    return given
