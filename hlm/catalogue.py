"""The catalogue of parts, from the code: what exists, what it is, its fields, which configs use it,
and what one of its kind must know.

    python -m hlm.catalogue               all of it as Markdown; docs/parts.md is this
    python -m hlm.catalogue segmenter     one kind

In a notebook, `hlm.catalogue.catalogue("segmenter")` shows the same.
"""

import argparse
import dataclasses
import functools
import importlib
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
from hlm import config_file
from hlm.config import fields
from hlm.evals.suite import SUITES
from hlm.infer import drafts
from hlm.kinds_of_parts import EVERY_PART, KINDS
from hlm.port import FORMATS
from hlm.registry import KNOWN

COMMAND = "python -m hlm.catalogue"


@dataclasses.dataclass(frozen=True)
class Part:
    """One class, as a reader of the catalogue needs it."""

    name: str
    module: str
    what: str  # the first sentence of its docstring
    fields: tuple[str, ...]  # name, or name=default
    configs: tuple[str, ...]  # files that use it

    def row(self) -> list[str]:
        used = "all" if len(self.configs) == len(files()) else ", ".join(self.configs) or "none"
        return [f"`{self.name}`", f"`{self.module}`", self.what, spelled(self.fields), used]


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The parts of each kind, and the rules for them; as Markdown where it is shown."""

    kinds: Mapping[str, tuple[Part, ...]]

    def __getitem__(self, kind: str) -> tuple[Part, ...]:
        return self.kinds[kind]

    def __str__(self) -> str:
        return "\n\n".join(section(kind, parts) for kind, parts in self.kinds.items())

    __repr__ = _repr_markdown_ = __str__


def catalogue(*kinds: str) -> Catalogue:
    """Of these kinds, or of all; ValueError for one that there is not."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(
            f"kind: there is no {', '.join(map(repr, unknown))}; there are {', '.join(KINDS)}"
        )
    found = sorted_by_kind()
    return Catalogue({kind: found[kind] for kind in kinds or KINDS})


@functools.cache
def sorted_by_kind() -> dict[str, tuple[Part, ...]]:
    """Every public class in the first kind that takes it."""
    found: dict[str, list[Part]] = {kind: [] for kind in KINDS}
    used = users()
    for cls in (*KNOWN, drafts.HeadDrafts, drafts.ChunkDrafts):
        found[kind_of(cls)].append(part_of(cls, used.get(cls, ())))
    for name, place in SUITES.items():
        module, _, kind = place.partition(":")
        cls = getattr(importlib.import_module(module), kind)
        found["suite"].append(Part(name, module, sentence(sys.modules[module]), (), ()))
        assert kind_of(cls) == "suite"
    for name in FORMATS:
        module = f"hlm.port.{name}"
        found["format"].append(
            Part(name, module, sentence(importlib.import_module(module)), (), ())
        )
    return {kind: tuple(parts) for kind, parts in found.items()}


def kind_of(cls: type) -> str:
    return next(kind for kind, spec in KINDS.items() if spec.takes(cls))


def part_of(cls: type, configs: tuple[str, ...]) -> Part:
    defaults = {f.name: f for f in dataclasses.fields(cls)}
    said = []
    for name in fields(cls):
        field = defaults[name]
        if field.default is not dataclasses.MISSING:
            said.append(f"{name}={short(field.default)}")
        elif field.default_factory is not dataclasses.MISSING:
            said.append(f"{name}={short(field.default_factory())}")
        else:
            said.append(name)
    return Part(cls.__name__, cls.__module__, sentence(cls), tuple(said), configs)


def short(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}()"
    return repr(value)


def sentence(thing: Any) -> str:
    """The first sentence of a docstring, in one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    found = re.match(r".+?[.:](?=\s+[A-Z`]|$)(?<!al\.)(?<!\d\.)", text)
    return (found[0] if found else text).rstrip(".:")


def users() -> dict[type, tuple[str, ...]]:
    """Class -> the config files that use it, at any size."""
    found: dict[type, dict[str, None]] = {}
    for path in files():
        module = config_file.run(path)
        for size in module.SIZES:
            for node in nodes(module.config(size)):
                found.setdefault(type(node), {})[path.stem] = None
    return {cls: tuple(files) for cls, files in found.items()}


@functools.cache
def files() -> tuple[pathlib.Path, ...]:
    """The config files that come with hlm; configs/common.py is none."""
    found = sorted((config_file.HOME / "configs").glob("*.py"))
    return tuple(path for path in found if re.search(r"^SIZES\b", path.read_text(), re.M))


def nodes(value: Any) -> Iterator[Any]:
    """An object of a config and all that are inside."""
    if isinstance(value, tuple):
        for item in value:
            yield from nodes(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for name in fields(value):
            yield from nodes(getattr(value, name))


def section(kind: str, parts: tuple[Part, ...]) -> str:
    spec = KINDS[kind]
    head = ["part", "module", "what", "fields", "configs"]
    rows = [part.row() for part in parts]
    columns = [i for i in range(len(head)) if any(row[i] not in ("", "none") for row in rows)]
    lines = [[row[i] for i in columns] for row in (head, ["---"] * len(head), *rows)]
    table = "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)
    return "\n\n".join(text for text in (f"## {spec.title}", spec.rules, table) if text)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def spelled(said: tuple[str, ...]) -> str:
    return f"`{', '.join(said)}`" if said else ""


def document() -> str:
    """docs/parts.md."""
    return f"# Parts\n\nWritten by `{COMMAND} > docs/parts.md`.\n\n{EVERY_PART}\n\n{catalogue()}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(KINDS)}; default: all")
    asked = parser.parse_args().kind
    try:
        sys.stdout.write(f"{catalogue(*asked)}\n" if asked else document())
    except ValueError as error:
        sys.exit(f"{COMMAND}: {error}")


if __name__ == "__main__":
    main()
