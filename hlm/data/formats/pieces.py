"""Pieces of text: where the documents of a file begin and end, and where long ones are cut."""

import mmap
import re
from collections.abc import Iterator

MARK = b"\xef\xbb\xbf"  # byte order mark of UTF-8


def line_ends(data: bytes | mmap.mmap, separator: bytes | None) -> bytes | re.Pattern[bytes] | None:
    """The separator as it is in this file, whose lines may end otherwise."""
    if separator is None or b"\n" not in separator or b"\r" in separator or data.find(b"\r") < 0:
        return separator
    if data.find(b"\n") < 0:
        return separator.replace(b"\n", b"\r")
    return re.compile(re.escape(separator).replace(b"\\\n", b"\r?\n"))


def spans(
    data: bytes | mmap.mmap,
    separator: bytes | re.Pattern[bytes] | None,
    start: int = 0,
    empty: bool = False,
) -> Iterator[tuple[int, int]]:
    """(start, stop) of the texts between separators, from `start` on; those without a byte only if
    `empty`.
    """
    for stop, after in places(data, separator, start):
        if empty or stop > start:
            yield start, stop
        start = after
    if len(data) > start:
        yield start, len(data)


def places(
    data: bytes | mmap.mmap, separator: bytes | re.Pattern[bytes] | None, start: int
) -> Iterator[tuple[int, int]]:
    """Where the separators begin and end."""
    if isinstance(separator, re.Pattern):
        yield from (found.span() for found in separator.finditer(data, start))  # pyright: ignore  (a mmap will do)
    elif separator is not None:
        while (at := data.find(separator, start)) >= 0:
            start = at + len(separator)
            yield at, start


def cuts(data: bytes | mmap.mmap, start: int, stop: int, piece: int) -> list[int]:
    """Ends of the pieces of data[start:stop], each of at most `piece` bytes.

    After the last newline in the second half of a piece, else the last blank there, else between
    two UTF-8 characters.
    """
    ends = []
    while stop - start > piece:
        half, limit = start + piece // 2, start + piece
        end = (
            data.rfind(b"\n", half, limit) + 1
            or max(data.rfind(blank, half, limit) for blank in (b" ", b"\t", b"\r")) + 1
        )
        if not end:
            whole = (
                at for at in range(limit, max(limit - 4, start), -1) if data[at] & 0xC0 != 0x80
            )
            end = next(whole, limit)  # four bytes in a row that start no character are not UTF-8
        ends.append(end)
        start = end
    return [*ends, stop]
