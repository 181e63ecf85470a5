"""Checks of what users give: text is str or bytes, numbers are numbers.

Each returns the plain value, or raises a ValueError of one line that names the argument, its value
and the fix.
"""

import contextlib
import math
import numbers
import operator
import reprlib
from collections.abc import Iterable, Mapping, Set
from io import IOBase
from typing import Any

import numpy as np

from hlm.fim import Infill

Text = str | bytes | bytearray | memoryview
BYTES = (bytes, bytearray, memoryview)
MOST_BYTES = 10**9  # positions are int32, and a row may take two symbols for a byte
MOST_SEED = 2**32 - 1
MOST_INT = 2**31 - 1


def shown(value: Any) -> str:
    """A value in an error: one short line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return " ".join(short.repr(value).split())


def text(given: Any, name: str) -> bytes:
    """The bytes of a text."""
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name}: {shown(given)} holds {given[error.start]!r} at {error.start}, half of a "
                "character; give bytes, such as text.encode(errors='surrogateescape')"
            ) from None
    plain = isinstance(given, BYTES) and (
        not isinstance(given, memoryview) or (given.format in "Bbc" and given.ndim == 1)
    )
    if not plain:
        raise ValueError(
            f"{name}: {shown(given)} is of type {type(given).__name__}, not text; give str or bytes"
        )
    return bytes(given)


def texts(given: Any, name: str, also: tuple[type, ...] = ()) -> list[Any]:
    """One text or several in any iterable with an order, as a list of bytes; objects of the types
    `also` stay as they are.

    A list of no texts is one.
    """
    if isinstance(given, (str, *BYTES, *also)):
        return [given if isinstance(given, also) else text(given, name)]
    return [
        item if isinstance(item, also) else text(item, f"{name}[{i}]")
        for i, item in enumerate(several(given, name, "str or bytes, or a list of them"))
    ]


def prompts(given: Any, name: str) -> list[bytes | Infill]:
    return texts(given, name, (Infill,))


def several(given: Any, name: str, fix: str) -> list[Any]:
    """The items of an iterable that has an order and one dimension."""
    unordered = isinstance(given, (Mapping, Set, IOBase))  # a file would be its lines
    if unordered or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise ValueError(f"{name}: {shown(given)} is of type {type(given).__name__}; give {fix}")
    return list(given)


def whole(given: Any, name: str, least: int = 0, most: int = MOST_INT, fix: str = "") -> int:
    """A whole number from `least` to `most`; `fix` is the end of the error."""
    kind = getattr(getattr(given, "dtype", None), "kind", "i")
    number = None
    if not isinstance(given, bool) and kind in "iu" and not getattr(given, "ndim", 0):
        with contextlib.suppress(TypeError):
            number = operator.index(given)
    if number is None or number < least:
        raise ValueError(f"{name}: {shown(given)} must be a whole number of at least {least}{fix}")
    if number > most:
        raise ValueError(f"{name}: {number} must be at most {most}{fix}")
    return number


def real(given: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number from `least` to `most`; whole ones stay as they are."""
    scalar = given.item() if isinstance(given, np.ndarray) and given.ndim == 0 else given
    if isinstance(scalar, (bool, np.bool_)) or not isinstance(scalar, numbers.Real):
        raise ValueError(f"{name}: {shown(given)} is not a number; give one such as 0.7")
    number = int(scalar) if isinstance(scalar, numbers.Integral) else float(scalar)
    if most == math.inf and not math.isfinite(number):
        raise ValueError(f"{name}: {number} must be finite")
    if not number <= most:
        raise ValueError(f"{name}: {number} must be at most {most}")
    if number < least:
        raise ValueError(f"{name}: {number} must be at least {least}")
    return number


def flag(given: Any, name: str) -> bool:
    if not isinstance(given, (bool, np.bool_)):
        raise ValueError(f"{name}: {shown(given)} is neither True nor False")
    return bool(given)


def seed(given: Any, name: str = "seed") -> int:
    """A whole number of 32 bits."""
    return whole(
        given,
        name,
        0,
        MOST_SEED,
        "; for another one each time give secrets.randbits(32)",
    )


def seeds(given: Any, count: int) -> list[int]:
    """One seed for each of `count` prompts; a single one is that of all."""
    one = isinstance(given, (str, *BYTES)) or not isinstance(given, Iterable)
    if one or getattr(given, "ndim", 1) == 0:
        return [seed(given)] * count
    found = several(given, "seed", "one whole number, or a list of them")
    if len(found) != count:
        raise ValueError(
            f"seed: {len(found)} seeds for {count} prompts; give one number, or one for each prompt"
        )
    return [seed(item, f"seed[{i}]") for i, item in enumerate(found)]


def most_bytes(given: Any) -> int:
    return whole(given, "max_bytes", 0, MOST_BYTES)


def stops(given: Any) -> list[bytes]:
    found = texts(given, "stop")
    if not all(found):
        raise ValueError("stop: an empty text stops nothing; leave it out")
    return found


def streams(given: Any, bos: int, size: int) -> list[np.ndarray]:
    """Symbols, int32 [n] each, that begin with BOS."""
    fix = "a list of arrays of symbols, each from BOS on"
    found = []
    for i, item in enumerate(several(given, "streams", fix)):
        symbols = None if isinstance(item, (str, *BYTES, Mapping, Set)) else np.asarray(item)
        if symbols is None or symbols.ndim != 1 or symbols.dtype.kind not in "iu":
            raise ValueError(
                f"streams[{i}]: {shown(item)} is no array of whole numbers in one dimension; "
                f"give {fix}"
            )
        if not len(symbols) or symbols[0] != bos:
            raise ValueError(f"streams[{i}]: {shown(item)} does not begin with BOS, symbol {bos}")
        if (wrong := symbols[(symbols < 0) | (symbols >= size)]).size:
            raise ValueError(f"streams[{i}]: symbol {wrong[0]} is none of the model's {size}")
        found.append(symbols.astype(np.int32))
    return found
