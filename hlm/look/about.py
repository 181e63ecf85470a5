"""What a model is, in a line and as a small table: where it is from, how large it is, how a row is
cut at each level.
"""

import dataclasses
import html
import os
from collections.abc import Iterator
from typing import Any

import jax
from flax import linen as nn

from hlm.config import fields
from hlm.model.hierarchy import levels_of

DEEPEST = 2  # parts inside of parts that are spelled out
STYLE = """<style>
.hlm-about { border-collapse: collapse; font: 13px/1.5 system-ui, sans-serif; }
.hlm-about caption { text-align: left; font-weight: 600; padding: .2rem 0; }
.hlm-about td, .hlm-about th { padding: .1rem .8rem .1rem 0 !important; vertical-align: top;
  text-align: left !important; overflow-wrap: anywhere; max-width: 40rem; background: none; }
.hlm-about th { font-weight: 400; opacity: .7; white-space: nowrap; }
</style>"""


def name_of(lm: Any) -> str:
    """The last part of where it is from, and the step."""
    base = os.path.basename(os.path.normpath(lm.origin)) if lm.origin else type(lm.model).__name__
    return f"{base}@{lm.step}" if lm.step else base


def line(lm: Any) -> str:
    """For __repr__."""
    levels = "".join(
        f", level {k} {cut} ({most} chunks)"
        for k, (cut, most) in enumerate(
            ((brief(level.segmenter, 0), level.capacity) for level in levels_of(lm.model.trunk)), 1
        )
    )
    origin = f", from {lm.origin}" if lm.origin else ""
    return (
        f"{type(lm).__name__}({lm.name}: {count(lm.params):,} parameters, step {lm.step}, "
        f"rows of {lm.budget.length}{levels}{origin})"
    )


def table(lm: Any) -> str:
    """For _repr_html_."""
    body = "".join(
        f"<tr><th scope=row>{html.escape(what)}</th><td>{html.escape(said)}</td></tr>"
        for what, said in rows(lm)
    )
    return f"{STYLE}<table class=hlm-about><caption>{html.escape(lm.name)}</caption>{body}</table>"


def rows(lm: Any) -> Iterator[tuple[str, str]]:
    model, params = lm.model, lm.params
    if lm.origin:
        yield "from", f"{lm.origin}, step {lm.step}"
    kind = "causal" if model.causal else "looks both ways: no likelihood, no generation"
    yield "model", f"{type(model).__name__}, {kind}"
    yield "parameters", f"{count(params):,}"
    yield "row", f"{lm.budget.length:,} symbols; longer texts are read in windows"
    outside = count({key: part for key, part in params.items() if key != "trunk"})
    yield "symbols", f"{brief(model.codec)}; embedding and heads: {outside:,} parameters"
    tree = params.get("trunk", {})
    for k, level in enumerate(levels_of(model.trunk), 1):
        above = tree.get("backbone", {})
        yield (
            f"level {k}",
            f"chunks by {brief(level.segmenter)}, at most {level.capacity:,} in a row; "
            f"{brief(level.pool, 0)} up, {brief(level.unpool, 0)} down; "
            f"{count(tree) - count(above):,} parameters",
        )
        tree = above
    yield "backbone" if lm.budget.chunks else "trunk", f"{count(tree):,} parameters"
    if getattr(model, "objectives", ()):
        yield "also trained by", ", ".join(brief(o) for o in model.objectives)


def count(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def brief(part: Any, deepest: int = DEEPEST) -> str:
    """A part by its class and the fields that are not as usual: Router(target=4.0)."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return repr(part) if len(repr(part)) < 40 else "..."
    name = type(part).__name__
    if not deepest:
        return name
    spelled = {f.name: f for f in dataclasses.fields(part) if f.repr}
    said = []
    for field in fields(part):
        value = getattr(part, field)
        if field not in spelled or value == spelled[field].default:
            continue
        inner = 0 if isinstance(value, nn.Module) else deepest - 1
        said.append(f"{field}={brief(value, inner)}")
    return f"{name}({', '.join(said)})" if said else name
