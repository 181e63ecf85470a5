"""Fields of sources: those of records, one of which is the text, and what they may hold."""

import dataclasses
import types
import typing
from typing import Any

from hlm.config import fits
from hlm.data.formats.find import check_bad_lines, check_paths, check_piece, check_prompt


@dataclasses.dataclass(frozen=True)
class FieldFiles:
    """Base of JsonLines, Parquet and Arrow; what the fields mean stands in JsonLines."""

    paths: tuple[str, ...]
    field: str = "text"
    piece: int = 8192
    prompt: str | None = None
    bad_lines: int | None = 0

    def __post_init__(self):
        check_paths(self)
        check_types(self)
        check_piece(self)
        check_prompt(self)
        check_bad_lines(self)


KINDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
}


def check_types(source: Any) -> None:
    """ValueError if a field does not hold what it declares: sources come from command lines."""
    for name, hint in typing.get_type_hints(type(source)).items():
        value = getattr(source, name)
        found = tuple(value) if isinstance(value, list) else value
        if not (fits(found, hint) or fits(with_floats(found), hint)):
            raise ValueError(
                f"{type(source).__name__}.{name} is {value!r}; it must be {kind(hint)}"
            )


def with_floats(value: Any) -> Any:
    """A whole number, or several, where numbers are wanted."""
    if isinstance(value, tuple):
        return tuple(map(with_floats, value))
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def kind(hint: Any) -> str:
    """What a hint means, for people."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(kind, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"several in brackets, such as (a,) or (a, b), each {kind(typing.get_args(hint)[0])}"
    return KINDS.get(hint, "a source" if hint.__name__ == "Source" else hint.__name__)
