"""Experiments: plain Python files build one; dotted overrides change one; JSON keeps one in every
checkpoint.

A linen module is a frozen dataclass, so the model is its own configuration: there is no second tree
of config classes.
"""

import ast
import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from flax import linen as nn

from hlm import config_file
from hlm.sharding import Mesh

EXPRESSION = re.compile(r"\s*([A-Za-z_]\w*\s*\(|[(\[{])")  # Name(...): an object of a public class
HIDDEN = ("parent", "name")  # fields that linen adds to every module of its own


def free(default: Any, why: str) -> Any:
    """A field that changes neither parameters, nor the program, nor the data, and why: the law of
    fields asks nothing of it.
    """
    return dataclasses.field(default=default, metadata={"free": why})


@dataclasses.dataclass(frozen=True)
class Every:
    """Steps, or minutes since the last time, between two of each, whichever comes first; 0 is never
    (the last step always evaluates and saves).

    Minutes are those of the first process. When a run evaluates and saves changes no weight.
    """

    log: int = free(10, "when to report")
    evaluate: int = free(0, "when to report")
    save: int = free(0, "when to save")
    evaluate_minutes: float = free(0.0, "when to report")
    save_minutes: float = free(0.0, "when to save")

    def __post_init__(self):
        check_least(self, 0, "log", "evaluate", "save", "evaluate_minutes", "save_minutes")


@typing.runtime_checkable
class Optimizer(typing.Protocol):
    """What turns gradients into updates: hlm.AdamW, hlm.Muon, or one of your own."""

    def learning_rate(self, step: Any, steps: int) -> Any: ...

    def build(self, steps: int) -> Any: ...  # an optax.GradientTransformation


@typing.runtime_checkable
class Guard(typing.Protocol):
    """What leaves out bad steps: hlm.SpikeGuard."""

    then: Any

    def init(self) -> Any: ...

    def apply(
        self, seen: Any, step: Any, norm: Any, loss: Any, old: Any, new: Any
    ) -> tuple[Any, Any, Any]: ...


@typing.runtime_checkable
class Average(typing.Protocol):
    """What averages the weights over steps: hlm.EMA."""

    def init(self, params: Any) -> Any: ...

    def update(self, average: Any, params: Any, step: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a training run."""

    model: Any  # hlm.LM
    data: Any  # hlm.Data: where training text comes from and how it is packed
    valid: Any  # a source: text for evaluation while training
    test: Any  # a source: text for the report at the end
    optim: Optimizer
    steps: int
    rows: int  # rows of a batch, over all devices and micro-batches
    accumulate: int = 1  # micro-batches of a step
    seed: int = 0
    every: Every = dataclasses.field(default_factory=Every)
    keep: int = free(2, "how many checkpoints to keep")
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    guard: Guard | None = None  # against spikes, such as SpikeGuard(then=Rewind())
    average: Average | None = None  # of the weights, such as EMA(0.999): it is evaluated
    # of a batch of validation; None: see hlm/infer/rows.py
    valid_rows: int | None = free(None, "memory and speed only; tests/unit/test_rows.py")

    def __post_init__(self):
        for name, kind in (("guard", Guard), ("average", Average)):
            if (value := getattr(self, name)) is not None and not isinstance(value, kind):
                raise ValueError(f"{name}: {value!r} is no {name}; see docs/runs.md")
        check_least(self, 1, "steps", "rows", "accumulate", "keep")
        if not isinstance(self.optim, Optimizer):
            raise ValueError(f"optim: {self.optim!r} is no optimizer; give AdamW(...) or Muon(...)")
        if self.rows % self.accumulate:
            below = self.rows // self.accumulate * self.accumulate
            near = [f"rows={n}" for n in (below, below + self.accumulate) if n]
            counts = [k for k in range(1, self.rows + 1) if self.rows % k == 0]
            near += [f"accumulate={min(counts, key=lambda k: abs(k - self.accumulate))}"]
            raise ValueError(
                f"rows: {self.rows} is not a multiple of accumulate {self.accumulate}: give "
                f"{' or '.join(near)}"
            )


def check_least(config: Any, least: float, *names: str) -> None:
    """Every named field is at least `least`, or a ValueError names it."""
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(
                f"{type(config).__name__}.{name}: {getattr(config, name)} must be at least {least}"
            )


def load(reference: str, overrides: typing.Sequence[str] = ()) -> Experiment:
    """`configs/hat.py:tiny` and overrides such as `optim.peak=3e-4` -> Experiment.

    The file defines `config(size)` and `SIZES`.
    """
    path, size = config_file.split(reference)
    module = config_file.run(path)
    if size not in module.SIZES:
        raise ValueError(f"{path} has no size {size!r}; it has {', '.join(module.SIZES)}")
    experiment = module.config(size)
    if {"rows", "accumulate"} <= {item.partition("=")[0] for item in overrides}:
        # in whatever order they come, only both together must divide
        experiment = replace(experiment, accumulate=1)
        overrides = sorted(overrides, key=lambda item: item.startswith("accumulate="))
    for item in overrides:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"override {item!r} is not of the form name=value")
        experiment = override(experiment, name, text)
    return experiment


def fields(node: Any) -> list[str]:
    """Names of the fields that a config decides."""
    cls = node if isinstance(node, type) else type(node)
    hidden = HIDDEN if issubclass(cls, nn.Module) else ()
    return [f.name for f in dataclasses.fields(node) if f.init and f.name not in hidden]


def override(node: Any, name: str, text: str, at: str = "") -> Any:
    """`node` with the field at a dotted path replaced by `text`, read as the type that the field
    declares.
    """
    head, _, rest = name.partition(".")
    here = f"{at}.{head}" if at else head
    if isinstance(node, tuple):
        if not head.isdecimal() or int(head) >= len(node):
            raise ValueError(
                f"{here}: {at} is a list of {len(node)}; give an index from 0 to {len(node) - 1}"
            )
        i = int(head)
        changed = override(node[i], rest, text, here) if rest else parse(text, type(node[i]), here)
        return (*node[:i], changed, *node[i + 1 :])
    if not dataclasses.is_dataclass(node):
        raise ValueError(f"{here}: {at} is {node!r} and has no fields")
    if head not in fields(node):
        raise ValueError(
            f"{here}: {type(node).__name__} has no field {head!r}; it has {', '.join(fields(node))}"
        )
    old = getattr(node, head)
    new = (
        override(old, rest, text, here)
        if rest
        else parse(text, typing.get_type_hints(type(node))[head], here, old)
    )
    return replace(node, **{head: new})


def replace(node: Any, **changes: Any) -> Any:
    """dataclasses.replace, for linen modules too."""
    return (
        node.clone(parent=None, **changes)
        if isinstance(node, nn.Module)
        else dataclasses.replace(node, **changes)
    )


def parse(text: str, hint: Any, where: str, old: Any = None) -> Any:
    """Read `text` as a value of type `hint`, also `Name(...)`: see registry.expression; `@FILE`:
    what `registry.to_json` made of an object. The error names what was expected.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"none": None, "true": True, "false": False}.get(text.lower(), text)
    if isinstance(value, list):
        value = tuple(value)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and fits(float(value), hint)
        and not fits(value, hint)
    ):
        value = float(value)
    if (
        isinstance(value, float)
        and value.is_integer()
        and fits(int(value), hint)
        and not fits(value, hint)
    ):
        value = int(value)  # 1e6 steps
    if isinstance(value, str) and not fits(value, hint):
        from hlm import registry  # here: it knows all classes, whose files import this one

        if text.startswith("@"):
            value = registry.from_file(text[1:], where)
        elif EXPRESSION.match(text):
            value = registry.expression(text, where)
    if not fits(value, hint):
        if dataclasses.is_dataclass(old):
            kind, names = type(old).__name__, ", ".join(fields(old))
            raise ValueError(
                f"{where}: {text!r} is no other {kind}; give one as {kind}(...), or override "
                f"a field: {names}"
            )
        raise ValueError(f"{where}: {text!r} is not {getattr(hint, '__name__', hint)}")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a field of the declared type `hint` may hold `value`."""
    if hint is Any:
        return not isinstance(value, (int, float, str)) or value is None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(value, h) for h in typing.get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        each = typing.get_args(hint)[:1]
        return isinstance(value, tuple) and all(fits(v, each[0]) for v in value if each)
    return (
        inspect.isclass(origin)
        and isinstance(value, origin)
        and not (isinstance(value, bool) and origin is not bool)
    )
