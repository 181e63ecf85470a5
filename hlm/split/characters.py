"""UTF-8 decoding and character classes: which class of character each byte ends.

Classes are groups of Unicode's general categories, and whitespace. A byte within a character ends
none, and neither do bytes that are no UTF-8; they are 0. "a é", an em space and a full stop:

    61 20 c3 a9 e2 80 83 2e
     1  4  0  1  0  0  4  3
"""

import functools
import unicodedata
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# classes of characters; 0 is a byte that ends none
LETTER, NUMBER, OTHER, SPACE, NEWLINE = (1, 2, 3, 4, 5)
WHITESPACE = [
    *range(0x09, 0x0E),
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
]

# Bytes in the UTF-8 sequence that a byte opens (0: opens none), and what may follow it (Unicode,
# table 3-7).
SIZE = np.zeros(256, np.uint8)
SIZE[:0x80], SIZE[0xC2:0xE0], SIZE[0xE0:0xF0], SIZE[0xF0:0xF5] = 1, 2, 3, 4
LOWEST, HIGHEST = np.full(256, 0x80, np.uint8), np.full(256, 0xBF, np.uint8)
LOWEST[0xE0], HIGHEST[0xED], LOWEST[0xF0], HIGHEST[0xF4] = 0xA0, 0x9F, 0x90, 0x8F

PAGE = 128  # code points of a page of a table; with it the table of classes is smallest (34 KB)


@functools.cache
def classes() -> np.ndarray:
    """The class of every code point, uint8 [0x110000]."""
    group = {"L": LETTER, "N": NUMBER}
    table = np.fromiter(
        (group.get(unicodedata.category(chr(c))[0], OTHER) for c in range(0x110000)),
        np.uint8,
        0x110000,
    )
    table[WHITESPACE] = SPACE
    table[[0x0A, 0x0D]] = NEWLINE
    return table


def wide_characters(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The UTF-8 characters of two bytes or more: position of the first byte, size, code point."""
    first = np.flatnonzero(text >= 0xC2)
    lead, size = text[first], SIZE[text[first]]
    padded = np.concatenate([text, np.zeros(3, np.uint8)])
    b1, b2, b3 = padded[first + 1], padded[first + 2], padded[first + 3]
    follows2, follows3 = (b2 & 0xC0) == 0x80, (b3 & 0xC0) == 0x80
    valid = (
        (size > 0)
        & (b1 >= LOWEST[lead])
        & (b1 <= HIGHEST[lead])
        & (follows2 | (size < 3))
        & (follows3 | (size < 4))
    )
    if not valid.all():
        first, size, lead, b1, b2, b3 = (a[valid] for a in (first, size, lead, b1, b2, b3))
    code = (lead & (0x7F >> size)).astype(np.int32) << 6 | (b1 & 0x3F)
    code = np.where(size > 2, code << 6 | (b2 & 0x3F), code)
    return first, size, np.where(size > 3, code << 6 | (b3 & 0x3F), code)


def characters(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each byte, the class of the character that it ends, and that of the one before; 0 is
    none.

    Both uint8 [n].
    """
    kind = translate(text, _ascii_classes())
    carried = kind
    if len(text) and text.max() >= 0x80:
        first, size, code = wide_characters(text)
        kind[first + size - 1] = classes()[code]
        carried = kind.copy()  # bytes that end no character stand for the last one that ended
        none = np.flatnonzero(kind == 0)
        opens = np.ones(len(none), bool)
        opens[1:] = none[1:] != none[:-1] + 1
        last = kind[none[opens] - 1]
        last[none[opens] == 0] = 0
        carried[none] = last[np.cumsum(opens) - 1]
    before = np.empty_like(kind)
    before[:1], before[1:] = 0, carried[:-1]
    return kind, before


def translate(text: np.ndarray, table: bytes) -> np.ndarray:
    """table[text], uint8 [n]; several times faster than indexing."""
    return np.frombuffer(bytearray(text.tobytes().translate(table)), np.uint8)


@functools.cache
def _ascii_classes() -> bytes:
    return classes()[:0x80].tobytes() + bytes(0x80)


class Utf8State(NamedTuple):
    """One open character per row, all int32 [B]."""

    code: Array  # bits of the open character, or the code point of the last one that ended
    missing: Array  # bytes that the open character still needs
    lowest: Array  # what its next byte may be
    highest: Array
    before: Array  # class of the last character that ended; 0 is none


def start_utf8(rows: int) -> Utf8State:
    zero_B = jnp.zeros(rows, jnp.int32)
    return Utf8State(zero_B, zero_B, zero_B, zero_B, zero_B)


def read_utf8(state: Utf8State, byte_B: Array) -> tuple[Utf8State, Array, Array]:
    """`characters` for the device, a byte at a time.

    int32 [B] -> state, the class of the character that it ends, and that of the one before.
    """
    size, lowest, highest = (
        jnp.asarray(table, jnp.int32)[byte_B] for table in (SIZE, LOWEST, HIGHEST)
    )
    continues = (state.missing > 0) & (state.lowest <= byte_B) & (byte_B <= state.highest)
    opens = jnp.where(size == 1, byte_B, byte_B & (0x7F >> size))
    code = jnp.where(continues, state.code << 6 | byte_B & 0x3F, opens)
    missing = jnp.where(continues, state.missing - 1, jnp.maximum(size - 1, 0))
    kind = jnp.where((missing == 0) & (continues | (size == 1)), class_of(code), 0)
    before = jnp.where(kind > 0, kind, state.before)
    return Utf8State(code, missing, lowest, highest, before), kind, state.before


def class_of(code: Array) -> Array:
    """The class of each code point, int32; what is no code point has any class."""
    return lookup(_class_pages(), code)


def lookup(pages: tuple[np.ndarray, np.ndarray], code: Array) -> Array:
    """What `paged` holds for each code point, int32."""
    page_of, contents = pages
    page = jnp.asarray(page_of).at[code // PAGE].get(mode="clip").astype(jnp.int32)
    return jnp.asarray(contents)[page * PAGE + code % PAGE].astype(jnp.int32)


def paged(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of all code points, uint8, in little room.

    The number of each page's content, and the different contents end to end.
    """
    contents, page_of = np.unique(table.reshape(-1, PAGE), axis=0, return_inverse=True)
    return page_of.astype(np.uint16).reshape(-1), contents.reshape(-1)


@functools.cache
def _class_pages() -> tuple[np.ndarray, np.ndarray]:
    return paged(classes())
