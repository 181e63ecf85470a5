"""UTF-8 read byte by byte on the device: which class of character each byte ends (`hlm/data/split.py: characters`, one byte at a time)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hlm.data.split import HIGHEST, LOWEST, SIZE, classes

Array = jax.Array

PAGE = 128  # code points of a page; with it the table of classes is smallest (34 KB)


class Utf8State(NamedTuple):
    """One open character per row, all int32 [B]."""

    code: Array  # bits of the open character, or the code point of the last one that ended
    missing: Array  # bytes that the open character still needs
    lowest: Array  # what its next byte may be
    highest: Array
    before: Array  # class of the last character that ended; 0 is none


def start(rows: int) -> Utf8State:
    zero_B = jnp.zeros(rows, jnp.int32)
    return Utf8State(zero_B, zero_B, zero_B, zero_B, zero_B)


def read(state: Utf8State, byte_B: Array) -> tuple[Utf8State, Array, Array]:
    """The next byte, int32 [B] -> state, the class of the character that it ends (0: ends none), and that of the one before."""
    size, lowest, highest = (jnp.asarray(table, jnp.int32)[byte_B] for table in (SIZE, LOWEST, HIGHEST))
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
    """A table of all code points, uint8, in little room: the number of each page's content, and the different contents end to end."""
    contents, page_of = np.unique(table.reshape(-1, PAGE), axis=0, return_inverse=True)
    return page_of.astype(np.uint16).reshape(-1), contents.reshape(-1)


@functools.cache
def _class_pages() -> tuple[np.ndarray, np.ndarray]:
    return paged(classes())
