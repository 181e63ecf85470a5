"""Splitters: where the chunks of a text end, decided on the host.

Every rule here is causal: `level[t]` follows from the bytes up to t alone, so adding bytes on the right never moves an end, and a
generator that splits byte by byte finds the ends that training saw. Rules that speak of characters let a character take effect at
its last UTF-8 byte; the bytes of incomplete, overlong or stray sequences are invisible to them. `Words(eow=True)` is the one rule
that waits for the next byte; there it is the stream of symbols with its EOWs that never changes.

All functions are vectorised over the bytes of one text. Positions are int64 and sorted.
"""

import dataclasses
import functools
import re
import unicodedata

import numpy as np

LETTER, NUMBER, OTHER, SPACE, NEWLINE = 1, 2, 3, 4, 5  # classes of characters; 0 is a byte that ends none
WHITESPACE = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]

# Bytes in the UTF-8 sequence that a byte opens (0: opens none), and what may follow it (Unicode, table 3-7).
SIZE = np.zeros(256, np.uint8)
SIZE[:0x80], SIZE[0xC2:0xE0], SIZE[0xE0:0xF0], SIZE[0xF0:0xF5] = 1, 2, 3, 4
LOWEST, HIGHEST = np.full(256, 0x80, np.uint8), np.full(256, 0xBF, np.uint8)
LOWEST[0xE0], HIGHEST[0xED], LOWEST[0xF0], HIGHEST[0xF4] = 0xA0, 0x9F, 0x90, 0x8F


@functools.cache
def classes() -> np.ndarray:
    """The class of every code point, uint8 [0x110000]."""
    group = {"L": LETTER, "N": NUMBER}
    table = np.fromiter((group.get(unicodedata.category(chr(c))[0], OTHER) for c in range(0x110000)), np.uint8, 0x110000)
    table[WHITESPACE] = SPACE
    table[[0x0A, 0x0D]] = NEWLINE
    return table


def wide_characters(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The valid UTF-8 characters of two bytes or more: position of the first byte, size, code point."""
    first = np.flatnonzero(text >= 0xC2)
    lead, size = text[first], SIZE[text[first]]
    padded = np.concatenate([text, np.zeros(3, np.uint8)])
    b1, b2, b3 = padded[first + 1], padded[first + 2], padded[first + 3]
    follows2, follows3 = (b2 & 0xC0) == 0x80, (b3 & 0xC0) == 0x80
    valid = (size > 0) & (b1 >= LOWEST[lead]) & (b1 <= HIGHEST[lead]) & (follows2 | (size < 3)) & (follows3 | (size < 4))
    if not valid.all():
        first, size, lead, b1, b2, b3 = (a[valid] for a in (first, size, lead, b1, b2, b3))
    code = (lead & (0x7F >> size)).astype(np.int32) << 6 | (b1 & 0x3F)
    code = np.where(size > 2, code << 6 | (b2 & 0x3F), code)
    return first, size, np.where(size > 3, code << 6 | (b3 & 0x3F), code)


def characters(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each byte, the class of the character that it ends, and that of the last character before; 0 is none. Both uint8 [n]."""
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


def overlong(ends: np.ndarray, n: int, longest: int) -> np.ndarray:
    """The further ends that stop every chunk of n bytes cut at `ends` after `longest` bytes."""
    edges = np.concatenate([[-1], ends, [n]])
    gap = edges[1:] - edges[:-1]
    if gap.max() <= longest:  # the usual case, before the slow division
        return np.zeros(0, np.int64)
    extra = (gap - 1) // longest
    nth = np.arange(extra.sum()) - np.repeat(np.cumsum(extra) - extra, extra) + 1
    return np.repeat(edges[:-1], extra) + nth * longest


def _at_least(value: int, least: int, field: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{field}={value!r}: give a whole number of at least {least}")


@dataclasses.dataclass(frozen=True)
class Words:
    """Words between whitespace, with the whitespace on the end of the word (HAT; White_Space of Unicode).

    Without `eow`, the first whitespace character after another character ends the word; more whitespace opens the next one.
    With `eow`, the word owns its whole run of whitespace and EOW follows it. The EOW has to be placed as soon as the next byte is
    seen, so only ASCII whitespace continues a run: a wider space after a space is a word of its own.
    """

    longest: int = 32  # a word without an end is cut after so many bytes, in the middle of a character if need be
    eow: bool = False

    def __post_init__(self) -> None:
        _at_least(self.longest, 1, "Words.longest")

    @property
    def depth(self) -> int:
        return 1

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        kind, before = characters(text)
        if self.eow:
            ends = np.flatnonzero((kind[:-1] >= SPACE) & (kind[1:] < SPACE))  # a wider space follows as a byte of no class
            if complete and len(text):
                ends = np.append(ends, len(text) - 1)
        else:
            ends = np.flatnonzero((kind >= SPACE) & (before < SPACE) & (before > 0))
        level = np.zeros(len(text), np.uint8)
        level[ends] = 1
        level[overlong(ends, len(text), self.longest)] = 1
        return level


@dataclasses.dataclass(frozen=True)
class SpaceLike:
    """SpaceByte: an end is the first space-like byte after one that is not.

    Space-like is whatever is neither an ASCII letter or digit nor the continuation of a UTF-8 character. BOS counts as space-like,
    as byte 255 does in the published code.
    """

    longest: int = 32

    def __post_init__(self) -> None:
        _at_least(self.longest, 1, "SpaceLike.longest")

    @property
    def eow(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return 1

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        like = translate(text, spacelike())
        ends = np.flatnonzero(like[1:] > like[:-1]) + 1
        level = np.zeros(len(text), np.uint8)
        level[ends] = 1
        level[overlong(ends, len(text), self.longest)] = 1
        return level


@functools.cache
def spacelike() -> bytes:
    return bytes(not (chr(b).isascii() and chr(b).isalnum()) and not 0x80 <= b < 0xC0 for b in range(256))


@dataclasses.dataclass(frozen=True)
class WordGroups:
    """AU-Net's levels: level l ends after every `counts[l - 1]`-th word; numbers, punctuation and newlines end every level.

    In terms of characters (L letter, N number, whitespace, and O for all others, marks and emoji included):
    - the first whitespace after another character ends a word. Words are counted from 1, and from 1 again after a second
      whitespace in a row; a word whose count is a multiple of counts[l - 1] ends level l;
    - characters 0, 3, 6, ... of a run of N or of a run of O end every level, at once: what follows is not looked at;
    - a newline (CR or LF) ends every level, unless it follows another newline or an O;
    - `longest` bytes without any of these end a word, which counts.

    The published regular expressions agree but for blanks before a newline: there they make the first blank, ours the newline,
    an end of every level, because at the blank the newline is not known yet.
    """

    counts: tuple[int, ...] = (1, 2)
    longest: int = 32

    def __post_init__(self) -> None:
        _at_least(self.longest, 1, "WordGroups.longest")
        if not self.counts:
            raise ValueError("WordGroups.counts=(): give the words of each level, such as (1, 2)")
        for low, high in zip((1, *self.counts), self.counts, strict=False):
            _at_least(high, 1, "WordGroups.counts")
            if high % low:
                raise ValueError(f"WordGroups.counts={self.counts}: {low} does not divide {high}, so the levels would not nest")

    @property
    def eow(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return len(self.counts)

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        kind, before = characters(text)
        space, more = kind >= SPACE, before >= SPACE
        word = np.flatnonzero(space & ~more & (before > 0))
        blank = np.flatnonzero(space & more)  # starts the count again
        every = _ends_of_every_level(kind, before)
        level = np.zeros(len(text), np.uint8)
        level[word] = level[every] = 1
        cut = overlong(np.flatnonzero(level), len(text), self.longest)
        if len(cut):
            word = np.sort(np.concatenate([word, cut]))
        restart = np.concatenate([[0], word.searchsorted(blank)])[blank.searchsorted(word, side="right")]
        count = np.arange(1, len(word) + 1) - restart  # words since the last blank
        level[word] = 0
        for every_nth in self.counts:
            level[word] += count % every_nth == 0
        level[every] = self.depth
        return level


def _ends_of_every_level(kind: np.ndarray, before: np.ndarray) -> np.ndarray:
    mark = np.flatnonzero((kind == NUMBER) | (kind == OTHER))
    nth = np.arange(len(mark))
    in_run = nth - np.maximum.accumulate(np.where(kind[mark] != before[mark], nth, 0))
    newline = np.flatnonzero((kind == NEWLINE) & (before != NEWLINE) & (before != OTHER))
    return np.concatenate([mark[in_run % 3 == 0], newline])


@dataclasses.dataclass(frozen=True)
class HatSplitter:
    """The words of the package `hat_splitter` (TFree-HAT), one character late.

    Such a word starts with its space, and its end is known only when the first character of the next word is there. The end is
    therefore marked at that character: *the element at an end is the first character of the next word*, and the chunk holds the
    word without its own first character. The first word of a text is not marked: BOS is its end.

    The package takes ends back in two cases, once it sees what follows; here they stay: after a single space, a tab or a no-break
    space (U+00A0, U+2007, U+202F) that a mark joins to the space's word; and a fraction slash (U+2044) before a digit.
    """

    longest: int = 100

    def __post_init__(self) -> None:
        _at_least(self.longest, 1, "HatSplitter.longest")

    @property
    def eow(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return 1

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        level = np.zeros(len(text), np.uint8)
        if not len(text):
            return level
        valid = text < 0x80
        first, size, _ = wide_characters(text)
        for i in range(4):
            valid[first[size > i] + i] = True
        place = np.flatnonzero(valid)
        known = text[place].tobytes()
        words = _hat().split_with_limit(known.decode(), len(known) + 1)
        begins = np.zeros(len(known) + 1, bool)
        begins[np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))[:-1]] = True
        begins[[m.start() for m in _TAKEN_BACK.finditer(known)]] = True
        start = np.flatnonzero(begins)
        ends = place[start + SIZE[text[place[start]]] - 1]
        level[ends] = 1
        level[overlong(ends, len(text), self.longest)] = 1
        return level


_TAKEN_BACK = re.compile(rb"(?<= )(?:\t|\xc2\xa0|\xe2\x80[\x87\xaf])|(?<=[^ ])\xe2\x81\x84")


@functools.cache
def _hat():
    from hat_splitter import HATSplitter  # pyright: ignore[reportAttributeAccessIssue]  (its stub has another name)

    return HATSplitter()


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An end at every `stride`-th byte: after BOS, every chunk is `stride` bytes, but for a `first` one of another size."""

    stride: int
    first: int | None = None

    def __post_init__(self) -> None:
        _at_least(self.stride, 1, "Fixed.stride")
        if self.first is not None:
            _at_least(self.first, 1, "Fixed.first")

    @property
    def eow(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return 1

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        level = np.zeros(len(text), np.uint8)
        level[(self.first or self.stride) - 1 :: self.stride] = 1
        return level


@dataclasses.dataclass(frozen=True)
class After:
    """An end at every one of these bytes, however many stand in a row (dynamic token pooling's whitespace)."""

    symbols: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        if not self.symbols or not all(0 <= b < 256 for b in self.symbols):
            raise ValueError(f"After.symbols={self.symbols}: give the bytes after which a chunk ends")

    @property
    def eow(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return 1

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        return np.isin(text, self.symbols).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Unsplit:
    """No chunks: flat models."""

    @property
    def eow(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return 0

    def levels(self, text: np.ndarray, complete: bool) -> np.ndarray:
        return np.zeros(len(text), np.uint8)
