"""Where the pieces of a long text lie in its line of JSON, so that one can be read without the
others.

The inside of a JSON string may be cut anywhere but within an escape, and each part is a JSON string
again:

    {"id": 3, "text": "one\\ntwo"}     ->     one\\n   two
"""

import json
import re

import numpy as np

ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u.{4}|.)", re.S
)
DECODER = json.JSONDecoder()
LENIENT = "utf-8", "surrogatepass"  # as json decodes bytes: other fields may hold anything
BLANK = re.compile(r"[ \t\n\r]*")


def raw_ends(line: bytes, field: str, text: bytes, ends: list[int]) -> list[int] | None:
    """For the ends of pieces of a field's text: [where the text begins, and each of these ends] in
    the line.

    `ends` are ascending, the last one is len(text). None if the pieces cannot be read so: one ends
    within a character.
    """
    inside = string_of(line.decode(*LENIENT), field)
    if inside is None:
        return None
    begin, raw = inside
    # of each escape: bytes of text before it, and raw bytes beyond those of the text so far
    at, grown = [], []
    extra = 0
    for found in ESCAPE.finditer(raw):
        start, stop = found.span()
        size = len(json.loads(b'"%b"' % raw[start:stop]).encode())
        at.append(start - extra)
        extra += stop - start - size
        grown.append(extra)
    places = np.asarray(ends)
    before = np.searchsorted(np.asarray(at, np.int64), places)
    moved = places + np.concatenate([[0], np.asarray(grown, np.int64)])[before]
    out, last, start = [begin], 0, 0
    for end, stop in zip(ends, moved.tolist(), strict=True):
        try:  # what is read later is compared with what it should be
            same = json.loads(b'"%b"' % raw[start:stop]).encode() == text[last:end]
        except ValueError:
            same = False
        if not same:
            return None
        out.append(begin + stop)
        last, start = end, stop
    return out


def string_of(line: str, field: str) -> tuple[int, bytes] | None:
    """Where the inside of the string of a top-level field begins, in bytes, and its raw bytes.

    The line is a JSON object. Of a field that stands there twice, the last one, as json does.
    """
    found = None
    at = blank(line, blank(line, 0) + 1)  # behind {
    while line[at] != "}":
        key, at = DECODER.raw_decode(line, at)
        at = blank(line, blank(line, at) + 1)  # behind :
        value, stop = DECODER.raw_decode(line, at)
        if key == field:
            found = (at + 1, stop - 1) if isinstance(value, str) else None
        at = blank(line, stop)
        if line[at] == ",":
            at = blank(line, at + 1)
    if found is None:
        return None
    begin, stop = found
    return len(line[:begin].encode(*LENIENT)), line[begin:stop].encode(*LENIENT)


def blank(line: str, at: int) -> int:
    """The next place that is no white space."""
    match = BLANK.match(line, at)
    return match.end() if match else at
