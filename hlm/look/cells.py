"""Cells: a text as what is drawn of it, one cell for a character or for a byte that is part of
none, as wide as a terminal shows it.

    a\tb\xff    ->    a ⇥ b \\xff

What has no shape of its own or would move others (controls, marks of direction) is shown by its
number, so a text cannot disturb the drawing.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len

SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "\\r"}
GAP = "▢"
HIDDEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # categories of Unicode
LONGEST_WORD = 24  # columns that a line is not broken in


class Cell(NamedTuple):
    """What is drawn and the bytes it stands for, start to stop; a gap stands for none."""

    shown: str
    width: int  # columns
    start: int
    stop: int
    last: str  # its last character; "" for a gap
    sign: bool  # drawn in place of what has no shape

    @property
    def may_break(self) -> bool:
        """Whether a line may be broken behind it."""
        return self.last.isspace() or self.width == 2


def cells(text: bytes, gap: int | None = None) -> list[Cell]:
    if gap is None:
        return _cells(text, 0)
    return [*_cells(text[:gap], 0), Cell(GAP, 1, gap, gap, "", True), *_cells(text[gap:], gap)]


def _cells(text: bytes, start: int) -> list[Cell]:
    found: list[Cell] = []
    for c in text.decode(errors="surrogateescape"):
        stop = start + len(c.encode(errors="surrogateescape"))
        shape = shown(c)
        if shape == c and not cell_len(c):  # it combines with the one before
            if found and not found[-1].sign:
                whole = found[-1].shown + c
                found[-1] = Cell(whole, cell_len(whole), found[-1].start, stop, c, False)
                start = stop
                continue
            shape = "◌" + c
        found.append(Cell(shape, cell_len(shape), start, stop, c, shape != c))
        start = stop
    return found


def shown(c: str) -> str:
    """A character as it is drawn."""
    if c in SIGNS:
        return SIGNS[c]
    if "\udc80" <= c <= "\udcff":  # of surrogateescape: a byte that is part of no character
        return f"\\x{ord(c) - 0xDC00:02x}"
    if ord(c) < 0x80 and not c.isprintable():
        return f"\\x{ord(c):02x}"
    if unicodedata.category(c) in HIDDEN:
        return f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}"
    return c


def words(line: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Runs of cells in which a line is not broken; one that ends with a newline ends its line."""
    word: list[Cell] = []
    for cell in line:
        if word and sum(c.width for c in word) + cell.width > LONGEST_WORD:
            yield word
            word = []
        word.append(cell)
        if cell.may_break:
            yield word
            word = []
    if word:
        yield word


def lines(line: Sequence[Cell], width: int) -> Iterator[list[Cell]]:
    """Lines of at most so many columns, broken between words if they fit."""
    here: list[Cell] = []
    for word in words(line):
        if here and sum(c.width for c in (*here, *word)) > width:
            yield here
            here = []
        for cell in word:
            if here and sum(c.width for c in here) + cell.width > width:
                yield here
                here = []
            here.append(cell)
        if word[-1].last == "\n":
            yield here
            here = []
    if here:
        yield here


def levels_ended(cell: Cell, ends: Sequence[frozenset[int]]) -> list[bool]:
    """For each level, whether a chunk ends behind this cell or inside of it."""
    return [any(s in stops for s in range(cell.start + 1, cell.stop + 1)) for stops in ends]
