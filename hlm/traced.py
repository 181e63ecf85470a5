"""What a traced program computes: FLOPs by the names that its parts were traced under, and what it
keeps.

A product of m x k by k x n is 2mkn FLOPs; a scan is its body times its length, a condition its
dearest branch, a choice by platform what it is where no other is meant, and a kernel its body times
its grid, blocks that it skips included.
"""

import collections
import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

# in the names of what a backward pass computes again, by jax.checkpoint or by hand
RECOMPUTED = "rematted_computation"
Counts = collections.Counter[str]


def products(jaxpr: Any, above: str = "") -> tuple[Counts, set[str]]:
    """FLOPs of the matrix products and convolutions of a traced program by the names they were
    traced under, such as `transpose(jvp(LM))/LM.hidden/LM.read/trunk/encoder/...`; and the
    primitives that hide an unknown number of them."""
    total, hidden = Counts(), set()
    for eqn in needed(jaxpr):
        name, path = eqn.primitive.name, f"{above}/{eqn.source_info.name_stack}"
        found = [products(j, path) for j in inner_jaxprs(eqn.params)]
        inner = [counts for counts, _ in found]
        if name in ("dot_general", "projection"):
            x = eqn.invars[0].aval
            contract = (
                range(x.ndim - eqn.params["axes"], x.ndim)
                if name == "projection"
                else eqn.params["dimension_numbers"][0][0]
            )
            total[path] += 2 * eqn.outvars[0].aval.size * math.prod(x.shape[i] for i in contract)
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            out_channels = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            total[path] += 2 * eqn.outvars[0].aval.size * kernel.size // out_channels
        elif name == "scan":
            for counts in inner:
                total.update({where: eqn.params["length"] * n for where, n in counts.items()})
        elif name == "cond" and eqn.params.get("branches_platforms"):
            found = found[-1:]
            total.update(found[0][0])
        elif name == "cond":
            total.update(max(inner, key=Counts.total))
        elif name in ("pallas_call", "shard_map"):
            times = copies(eqn.params)
            for counts in inner:
                total.update({where: times * n for where, n in counts.items()})
        elif name == "while" and any(inner):
            hidden.add(name)
        else:
            for counts in inner:
                total.update(counts)
        hidden.update(*(names for _, names in found))
    return total, hidden


def copies(params: Any) -> int:
    """How often the body of a kernel runs on a device, or what a `shard_map` holds on a mesh."""
    if "grid_mapping" in params:
        return math.prod(params["grid_mapping"].grid)
    return params["mesh"].size


def needed(jaxpr: Any) -> Iterator[Any]:
    """The equations that the results depend on; a compiler drops the others."""
    live = set(filter(is_variable, jaxpr.outvars))
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not live.isdisjoint(eqn.outvars):
            live.update(filter(is_variable, eqn.invars))
            yield eqn


def is_variable(atom: Any) -> bool:
    return not hasattr(atom, "val")  # a literal has a value


def inner_jaxprs(value: Any) -> Iterator[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, dict):
        yield from inner_jaxprs(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from inner_jaxprs(item)


def kept(jaxpr: Any) -> int:
    """Bytes of the arrays that the forward pass of a traced step leaves for its backward pass."""
    made, used = set(), set()
    for eqn in jaxpr.eqns:
        if "transpose(" in str(eqn.source_info.name_stack):
            used.update(filter(is_variable, eqn.invars))
        else:
            made.update(eqn.outvars)
    return sum(v.aval.size * v.aval.dtype.itemsize for v in made & used)
