"""The law of dtypes: with `dtype=bfloat16`, matrices are multiplied in bfloat16; sums, exponentials
and gradients of parameters are float32. docs/performance.md lists what departs from this.

The training step of every config is traced, and neither compiled nor run.
"""

import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from hlm import config, sharding
from hlm.config import Experiment
from hlm.model.lm import abstract_params
from hlm.model.objective import Step
from hlm.traced import inner_jaxprs, is_variable, needed
from hlm.train import step
from hlm.train.loss import head_weight, loss_and_metrics
from tests.laws.subjects import ROOT, SHORT, TINY, every_config, shrunk

PAGE = (ROOT / "docs" / "performance.md").read_text().split("\n## ")[1]
SUMS = ("reduce_sum", "scatter-add", "cumsum")
FEW = 16  # terms that may be summed in bfloat16
# files whose layers compute in the dtype of what they are given
GENERIC = ("hlm/nn/basic.py", "hlm/nn/projection.py")
# what hands a number on as it is, or times another one
PASSIVE = {
    *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "copy", "slice", "rev"),
    *("concatenate", "pad", "mul", "neg", "add", "add_any", "sub", "select_n"),
    *("sharding_constraint", "convert_element_type", "dynamic_slice"),
}


def listed(table: str) -> list[str]:
    """What stands in backticks in the second column of the table of this heading."""
    lines = PAGE.split(f"| {table} |")[1].split("\n\n")[0].splitlines()[2:]
    return [name for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[2])]


WIDE_PRODUCTS = listed("products of float32")
NEVER_NARROW = listed("never bfloat16")
ACTIVATIONS = listed("bfloat16 all the same")


class Traced(NamedTuple):
    """An equation of a traced program, and where it comes from."""

    eqn: Any
    files: tuple[str, ...]  # of hlm, from the inside out
    inside: tuple[str, ...]  # names of the jitted functions around it

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def file(self) -> str:
        """The one that decides the dtype."""
        return next((file for file in self.files if file not in GENERIC), "")

    def dtypes(self) -> set[str]:
        return {str(v.aval.dtype) for v in self.eqn.invars if hasattr(v.aval, "dtype")}

    def __str__(self) -> str:
        kinds = ", ".join(str(v.aval) for v in self.eqn.invars)
        return (
            f"{self.name}({kinds}) in {self.file or self.files} ({self.eqn.source_info.name_stack})"
        )


def files_of(eqn: Any) -> tuple[str, ...]:
    found = eqn.source_info.traceback
    names = [pathlib.Path(frame.file_name) for frame in found.frames] if found else []
    own = (path.relative_to(ROOT) for path in names if path.is_relative_to(ROOT / "hlm"))
    return tuple(path.as_posix() for path in own)


def equations(
    jaxpr: Any, files: tuple[str, ...] = (), inside: tuple[str, ...] = ()
) -> Iterator[Traced]:
    for eqn in needed(jaxpr):
        one = Traced(eqn, files_of(eqn) or files, inside)
        yield one
        within = (*inside, str(eqn.params["name"])) if "name" in eqn.params else inside
        for inner in inner_jaxprs(eqn.params):
            yield from equations(inner, one.files, within)


def narrow(node: Any) -> Any:
    """A model whose every `dtype`, also that of models inside of it, is bfloat16."""
    if isinstance(node, tuple):
        return tuple(map(narrow, node))
    if not isinstance(node, nn.Module):
        return node
    changes = {field: narrow(getattr(node, field)) for field in config.fields(node)}
    return config.replace(node, **changes | ({"dtype": "bfloat16"} if "dtype" in changes else {}))


@functools.cache
def experiment(name: str) -> Experiment:
    exp = config.load(str(ROOT / name))
    model = narrow(shrunk(exp.model, SHORT, exp.data.length))
    return config.replace(exp, model=model, data=config.replace(exp.data, length=SHORT), rows=4)


@functools.cache
def traced(name: str) -> tuple[Any, Any]:
    """(jaxpr, shapes) of the loss with its metrics, and of its gradient."""
    exp = experiment(name)

    def loss(params: Any, batch: Any, now: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.key(0), now)
        here = Step(now, exp.steps, head_weight(exp.model, batch, key))
        return loss_and_metrics(exp.model, params, batch, here, 1.0, key)

    closed, shapes = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True), return_shape=True)(
        abstract_params(exp.model, SHORT),
        step.abstract_batch(exp.rows, SHORT),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    return closed.jaxpr, shapes


def wide_products(name: str) -> list[Traced]:
    """Products that take a float32 factor. `project` casts its weights itself."""
    found = []
    for one in equations(traced(name)[0]):
        if one.name == "projection":
            wide = one.eqn.invars[0].aval.dtype == jnp.float32
        else:
            wide = one.name in ("dot_general", "conv_general_dilated")
            wide = wide and "float32" in one.dtypes()
        if wide:
            found.append(one)
    return found


@every_config
def test_products_take_bfloat16_but_for_those_listed(name):
    wrong = [str(one) for one in wide_products(name) if one.file not in WIDE_PRODUCTS]
    assert not wrong, "\n".join(wrong)
    taken = [one for one in equations(traced(name)[0]) if one.name == "dot_general"]
    assert len(taken) > 10


@every_config
def test_sums_and_exponentials_are_float32(name):
    wrong = []
    for one in equations(traced(name)[0]):
        if one.name not in NEVER_NARROW or "bfloat16" not in one.dtypes():
            continue
        if one.name in SUMS:
            # of a scatter it is not known how many
            terms = one.eqn.invars[0].aval.size / one.eqn.outvars[0].aval.size
            fine = one.name == "reduce_sum" and terms <= FEW
        else:
            fine = not {*one.inside, one.file}.isdisjoint(ACTIVATIONS)
        if not fine:
            wrong.append(str(one))
    assert not wrong, "\n".join(wrong)


@every_config
def test_parameters_gradients_and_the_optimizer_are_float32(name):
    """Gradients also were float32 when they were summed: none is a cast of something narrower."""
    exp = experiment(name)
    jaxpr, ((loss, metrics), grads) = traced(name)
    state = step.init_state(exp, sharding.Mesh().make(jax.devices()[:1]))[0]
    floats = [loss, *jax.tree.leaves((metrics, grads, state.params, state.optim, state.average))]
    kinds = {str(a.dtype) for a in floats if jnp.issubdtype(a.dtype, jnp.floating)}
    assert kinds == {"float32"}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(grads)]
    last = jaxpr.outvars[len(jaxpr.outvars) - len(paths) :]
    assert len({str(p) for p in paths}) == len(last)
    wrong = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, out in zip(paths, last, strict=True)
        if is_variable(out) and is_cast(jaxpr, out)
    ]
    assert not wrong, "summed in bfloat16 and cast: " + ", ".join(wrong)


def is_cast(jaxpr: Any, out: Any) -> bool:
    """Whether an array of a program is bfloat16 that was cast."""
    makers = {v: (eqn, i) for eqn in jaxpr.eqns for i, v in enumerate(eqn.outvars)}
    left, seen = [out], set()
    while left:
        v = left.pop()
        if v in seen or v not in makers:
            continue
        seen.add(v)
        eqn, i = makers[v]
        inner = [j for j in inner_jaxprs(eqn.params) if len(j.outvars) == len(eqn.outvars)]
        if any(is_variable(j.outvars[i]) and is_cast(j, j.outvars[i]) for j in inner):
            return True
        if eqn.primitive.name in PASSIVE:
            if eqn.primitive.name == "convert_element_type" and "bfloat16" in str(
                eqn.invars[0].aval.dtype
            ):
                return True
            left += [v for v in eqn.invars if is_variable(v)]
    return False


@pytest.mark.parametrize("file", WIDE_PRODUCTS)
def test_whatever_is_listed_is_there(file):
    """A config with a part of that file multiplies float32 there."""
    room = file.removesuffix(".py").replace("/", ".")
    having = [
        name
        for name in TINY
        if any(type(p).__module__ == room for _, p in step.modules(experiment(name).model, ""))
    ]
    assert having, f"{file}: no config has a part of it"
    assert any(one.file == file for one in wide_products(having[0]))
