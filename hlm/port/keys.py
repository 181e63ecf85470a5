"""Tables of the keys of foreign configs: what is read, with type and range, and what is harmless.

All else is refused by its name. A format states its keys as name -> Key; `checked` is the one way
from a foreign config to values. To be harmless is a key's own property: the numbers that the model
gives do not hang on it, whatever it says.
"""

import dataclasses
import difflib
import numbers
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

REQUIRED: Any = object()
LARGEST = 1 << 20  # of a size, such as a width: more is a mistake and not a model
DEEPEST = 10_000  # layers
LONGEST = 1 << 24  # elements in a row
LISTED = 6  # problems in one message
# (the key's name, its value) -> the value as we use it; raises Wrong
Check = Callable[[str, Any], Any]


class Wrong(Exception):
    """What is wrong with a config, each in some words."""

    def __init__(self, *problems: str):
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a config: how its value is checked, and what it is where it is not there.

    Without a default it has to be there.
    """

    check: Check
    default: Any = REQUIRED


def checked(config: Any, table: Mapping[str, Key]) -> dict[str, Any]:
    """The values of all keys of `table`.

    Raises ValueError, in one line, for every key that is wrong, missing or not in the table.
    """
    try:
        return _section("", config, table)
    except Wrong as wrong:
        raise ValueError(f"config: {listed(wrong.problems)}") from None


def agree(*equal: tuple[str, Any]) -> None:
    """Raise ValueError unless all of these (name, value) that are not None have one value."""
    given = [(name, value) for name, value in equal if value is not None]
    if any(value != given[0][1] for _, value in given):
        raise ValueError(
            f"config: {' and '.join(f'{name} {shown(value)}' for name, value in given)} have "
            "to be the same"
        )


def divides(name: str, part: int, of: str, whole: int) -> int:
    """How often `part` goes into `whole`. Raises ValueError unless it does so without a rest."""
    if whole % part:
        raise ValueError(f"config: {name} {part} does not divide {of} {whole}")
    return whole // part


def _section(name: str, config: Any, table: Mapping[str, Key]) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise Wrong(f"{name} {shown(config)} (only a mapping of names to values)".lstrip())
    values: dict[str, Any] = {}
    problems = [
        unknown(name, key, value, table) for key, value in config.items() if key not in table
    ]
    for key, spec in table.items():
        here = f"{name}.{key}" if name else key
        if key not in config and spec.default is REQUIRED:
            problems.append(f"{here} is missing")
        elif key not in config:
            values[key] = spec.default
        else:
            value = config[key]
            try:
                values[key] = spec.check(
                    here, value.item() if isinstance(value, np.generic) else value
                )
            except Wrong as wrong:
                problems += wrong.problems
    if problems:
        raise Wrong(*problems)
    return values


def unknown(name: str, key: Any, value: Any, table: Mapping[str, Key]) -> str:
    here = f"{name}.{plain(key)}" if name else plain(key)
    near = (
        difflib.get_close_matches(key, table, 1) if isinstance(key, str) and len(key) < 100 else []
    )
    fix = (
        f"did you mean {near[0]}?"
        if near
        else "take it out if the model computes the same without it"
    )
    return f"{here} {shown(value)} is no key that is known here; {fix}"


# What a value may be.


def anything(name: str, value: Any) -> Any:
    """Harmless."""
    return value


def whole(least: int = 1, most: int = LARGEST) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not is_whole or not least <= int(value) <= most:
            raise Wrong(f"{name} {shown(value)} (only whole numbers from {least} to {most})")
        return int(value)

    return check


def real(least: float, most: float) -> Check:
    def check(name: str, value: Any) -> float:
        # NaN is nowhere between
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value <= most
        ):
            raise Wrong(f"{name} {shown(value)} (only numbers from {least:g} to {most:g})")
        return float(value)

    return check


def only(*values: Any) -> Check:
    """One of these; a number of another type is the same, True and 1 are not."""
    said = " or ".join(repr(v) for v in values)

    def check(name: str, value: Any) -> Any:
        for v in values:
            if (
                isinstance(value, bool) == isinstance(v, bool)
                and isinstance(value, type(v) | int | float)
                and value == v
            ):
                return v
        raise Wrong(f"{name} {shown(value)} (only {said})")

    return check


truth = only(False, True)


def maybe(check: Check) -> Check:
    """As `check`, or null."""
    return lambda name, value: None if value is None else check(name, value)


def several(check: Check, least: int = 1, most: int = 64) -> Check:
    """A list, as a tuple."""

    def checks(name: str, value: Any) -> tuple:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            raise Wrong(f"{name} {shown(value)} (only a list of {count} entries)")
        return tuple(check(f"{name}[{i}]", entry) for i, entry in enumerate(value))

    return checks


def section(table: Mapping[str, Key]) -> Check:
    """A config inside the config."""
    return lambda name, value: _section(name, value, table)


def named(check: Check) -> Check:
    """A mapping of any names."""

    def checks(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Wrong(f"{name} {shown(value)} (only a mapping of names to values)")
        return {key: check(f"{name}.{plain(key)}", entry) for key, entry in value.items()}

    return checks


def harmless(names: str) -> dict[str, Key]:
    """Keys, named with blanks in between, that may say anything."""
    return {name: Key(anything, None) for name in names.split()}


# What messages show.


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return (
            super().repr_int(x, level)
            if x.bit_length() < 128
            else f"a number of {x.bit_length()} bits"
        )


def shown(value: Any) -> str:
    """A value in a few words, in one line."""
    short = _Short()
    (
        short.maxlevel,
        short.maxstring,
        short.maxother,
        short.maxdict,
        short.maxlist,
        short.maxtuple,
    ) = 3, 60, 60, 4, 8, 8
    return " ".join(short.repr(value).split())


def plain(name: Any) -> str:
    """A name in one line: as it is where that is possible."""
    return (
        name
        if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200
        else shown(name)
    )


def listed(problems: Iterable[str]) -> str:
    """Problems in one line: the first of them, and how many more there are."""
    problems = list(problems)
    more = len(problems) - LISTED
    return "; ".join(problems[:LISTED]) + (f"; and {more} more" if more > 0 else "")
