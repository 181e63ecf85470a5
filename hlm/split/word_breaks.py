"""Word boundaries of the package `hat_splitter`: which characters start a word.

    Hello,␣it's␣3.14:␣o'Clock
    0000001000110010010010000

The rule is Unicode's word boundaries (UAX 29), further cuts behind punctuation and between a lower
and an upper case letter, and then pieces put together: a single space with what follows it,
punctuation with what it follows. On the host the package itself finds the words. For the device the
rule is written again, and what each character is to it the package tells: every one is tried out
beside others, and is of the kind of the one in KINDS that does as it does.
"""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hlm.split.characters import SIZE, lookup, paged, wide_characters

Array = jax.Array


def word_starts(text: np.ndarray) -> np.ndarray:
    """The last bytes of the first characters of words, but for the first word; sorted int64."""
    valid = text < 0x80
    first, size, _ = wide_characters(text)
    for i in range(4):
        valid[first[size > i] + i] = True
    place = np.flatnonzero(valid)
    known = text[place].tobytes()
    words = _package().split_with_limit(known.decode(), len(known) + 1)
    begins = np.zeros(len(known), bool)
    begins[np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))[:-1]] = True
    begins[[m.start() for m in TAKEN_BACK.finditer(known)]] = True
    start = np.flatnonzero(begins)
    return place[start + SIZE[text[place[start]]] - 1]


# Where the package takes a start of a word back, once it sees what follows; here it stays.
TAKEN_BACK = re.compile(rb"(?<= )(?:\t|\xc2\xa0|\xe2\x80[\x87\xaf])|(?<=[^ ])\xe2\x81\x84")


@functools.cache
def _package():
    from hat_splitter import HATSplitter  # pyright: ignore[reportAttributeAccessIssue]  (its stub has another name)

    return HATSplitter()


# What a character is to the rule: bits.
KNOWN, LETTER, HEBREW, DIGIT, KATAKANA, CONNECTOR, REGION, MARK, JOINER, PICTURE = (
    1 << i for i in range(10)
)
IN_WORD, IN_NUMBER, DOUBLE_QUOTE, PUNCTUATION, LOWER, UPPER = (1 << i for i in range(10, 16))
WHITE, BLANK, SPACES, NEWLINE, CR, LF = (1 << i for i in range(16, 22))
KINDS = {
    "一": 0,
    "©": PICTURE,
    "\u0301": MARK,
    "\u200d": MARK | JOINER,
    "ª": LETTER,
    "a": LETTER | LOWER,
    "A": LETTER | UPPER,
    "א": LETTER | HEBREW,
    "Ⓜ": LETTER | PICTURE,
    "ℹ": LETTER | LOWER | PICTURE,
    "1": DIGIT,
    "カ": KATAKANA,
    "\U0001f1e6": REGION,
    "\u2044": IN_NUMBER,
    "!": PUNCTUATION,
    ".": PUNCTUATION | IN_WORD | IN_NUMBER,
    ":": PUNCTUATION | IN_WORD,
    ",": PUNCTUATION | IN_NUMBER,
    '"': PUNCTUATION | DOUBLE_QUOTE,
    "_": PUNCTUATION | CONNECTOR,
    "՛": PUNCTUATION | LETTER,
    "٫": PUNCTUATION | DIGIT,
    "゠": PUNCTUATION | KATAKANA,
    " ": WHITE | SPACES | BLANK,
    "\u2003": WHITE | SPACES,
    "\t": WHITE,
    "\u202f": WHITE | CONNECTOR,
    "\n": WHITE | NEWLINE | LF,
    "\r": WHITE | NEWLINE | CR,
    "\x0b": WHITE | NEWLINE,
}
# What stands before and after a character that is tried out; together they tell all kinds from each
# other.
TRIALS = (
    (" ", "\u0301a"),
    ("\u202f", "A"),
    ("\u200d", "\u0301:\u0301a"),
    ("a", "!"),
    ("\r", "\n"),
    ("1", "\u03011"),
    ("a", "\u0301a"),
    ('א"\u0301', "©"),
    ("a", "\u0301カ"),
    ("\U0001f1e6", ""),
    ("א", "\u0301א"),
)
BITS = np.array(list(KINDS.values()), np.int32) | KNOWN
# Long runs of characters of one kind, of which only the first is tried out: Han, Hangul, what is no
# character or private, Tangut.
RUNS = (
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xAC00, 0xD7A4),
    (0xD7FF, 0xF900),
    (0x17000, 0x18800),
    (0x20000, 0xE0000),
    (0xE0200, 0x110000),
)


class BreakState(NamedTuple):
    """What one row's characters so far leave for the next; bits of KINDS, 0 where there is no
    character.
    """

    last: Array
    one: Array  # the last character but for marks, which belong to what they follow
    two: Array  # the one before it
    odd: Array  # bool: an odd number of regional indicators in a row; two make a flag
    piece: Array  # BLANK, WHITE or, for any other, 0: the piece that the last character is part of


def start_breaks(rows: int) -> BreakState:
    zero_B = jnp.zeros(rows, jnp.int32)
    return BreakState(zero_B, zero_B, zero_B, jnp.zeros(rows, bool), zero_B)


def read_breaks(state: BreakState, code_B: Array) -> tuple[BreakState, Array]:
    """`word_starts` for the device: the next character -> state, bool [B]: it starts a word."""
    this = jnp.asarray(BITS)[lookup(_pages(), code_B)]
    last, one, two, odd, piece = state
    letter_or_digit = LETTER | DIGIT
    mark, pictures = has(this, MARK), has(last, JOINER) & has(this, PICTURE)
    joined = (
        pictures
        | (has(last, SPACES) & has(this, SPACES))
        | mark
        | (has(one, letter_or_digit) & has(this, letter_or_digit))
        | (has(two, LETTER) & has(one, IN_WORD) & has(this, LETTER))
        | (has(two, DIGIT) & has(one, IN_NUMBER) & has(this, DIGIT))
        | (has(two, HEBREW) & has(one, DOUBLE_QUOTE) & has(this, HEBREW))
        | (has(one, KATAKANA) & has(this, KATAKANA))
        | (has(one, letter_or_digit | KATAKANA | CONNECTOR) & has(this, CONNECTOR))
        | (has(one, CONNECTOR) & has(this, letter_or_digit | KATAKANA))
        | (has(one, REGION) & has(this, REGION) & odd)
    )
    joined = (joined & ~has(last | this, NEWLINE)) | (has(last, CR) & has(this, LF))
    cut = ~joined | has(last, PUNCTUATION) | (has(last, LOWER) & has(this, UPPER))
    put_together = ((piece == BLANK) & ~has(this, WHITE)) | ((piece == 0) & has(this, PUNCTUATION))
    starts = cut & ~put_together & (last > 0)

    white = has(this, WHITE) & (cut | (piece > 0))
    piece = jnp.where(
        cut & has(this, BLANK), jnp.int32(BLANK), jnp.where(white, jnp.int32(WHITE), jnp.int32(0))
    )
    odd = jnp.where(mark, odd, has(this, REGION) & ~(has(one, REGION) & odd))
    # a letter that is drawn, such as Ⓜ, is none behind a joiner
    new = jnp.where(pictures, jnp.int32(KNOWN), this)
    return BreakState(
        this, jnp.where(mark, one, new), jnp.where(mark, two, one), odd, piece
    ), starts


def has(bits: Array, some: int) -> Array:
    return (bits & some) > 0


@functools.cache
def _pages() -> tuple[np.ndarray, np.ndarray]:
    return paged(kinds())


@functools.cache
def kinds() -> np.ndarray:
    """The place in KINDS of every code point, uint8 [0x110000].

    Asks the package, which takes about two seconds.
    """
    tried = np.ones(0x110000, bool)
    for first, after in RUNS:
        tried[first + 1 : after] = False
    known = {what: i for i, what in enumerate(behaviour(list(KINDS)))}
    if len(known) < len(KINDS):
        raise ValueError(
            "hat_splitter: this version has other rules, by which some of the characters "
            f"{list(KINDS)} do not differ"
        )
    table, code = np.zeros(0x110000, np.uint8), np.flatnonzero(tried)
    did = behaviour(list(map(chr, code)))
    if strange := set(did) - set(known):
        example = chr(code[next(i for i, what in enumerate(did) if what in strange)])
        raise ValueError(
            f"hat_splitter: this version has other rules; {example!r} does as none of "
            f"{list(KINDS)} does"
        )
    table[code] = [known[what] for what in did]
    for first, after in RUNS:
        table[first:after] = table[first]
    return table


def behaviour(characters: list[str]) -> list[bytes]:
    """What each character does in TRIALS: where words start."""
    out = []
    for before, after in TRIALS:
        text = "".join("\n" + before + c + after for c in characters)
        raw = np.frombuffer(text.encode(), np.uint8)
        starts = np.zeros(len(raw), np.uint8)
        starts[word_starts(raw)] = 1
        ends = np.flatnonzero(np.append(raw[1:] & 0xC0 != 0x80, True))  # last bytes of characters
        out.append(starts[ends].reshape(len(characters), -1)[:, 1:])
    return [row.tobytes() for row in np.concatenate(out, axis=1)]
