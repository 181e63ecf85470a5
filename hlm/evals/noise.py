"""Perturbations of text for robustness curves: seeded, never inside a UTF-8 character, and the
identity at severity 0.

Characters are code points; a byte that is not part of valid UTF-8 passes through as a unit of its
own. `severity` is a share in [0, 1], of what is said with each class. Where it counts edits in
words, these are runs of letters, marks and digits of at least 4 letters, without a digit and not
behind a backslash (numbers, identifiers and LaTeX stay as they are), and a word of n characters
gets max(1, round(severity * n)) edits.

Published protocols: HAT (arXiv 2501.10322) permutes, replaces and deletes 10 % of the characters of
each word and writes ALL CAPS; the noised HellaSwag of BLT and H-Net has Drop 10 %, RandomCase 50 %,
Repeat 20 % up to 4 times, AntSpeak and upper case.
"""

import abc
import dataclasses
import functools
import unicodedata
import zlib
from collections.abc import Callable, Mapping

import numpy as np

# Each letter with the keys around it (QWERTY), the letters that look alike in Cyrillic and Greek,
# and the added diacritics.
NEIGHBOURS = (
    "aqwsz bvghn cxdfv dserfcx ewsdr fdrtgvc gftyhbv hgyujnb iujko jhuikmn kjiolm lkop mnjk "
    "nbhjm oiklp pol qwa redft sawedxz trfgy uyhji vcfgb wqase xzsdc ytghu zasx"
)
LOOKALIKES = dict(
    zip("ABCEHIJKMNOPSTXYZacehijopsvxy", "АВСЕНІЈКМΝОРЅТХΥΖасеһіјорѕνху", strict=True)
)
DIACRITICS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c"

# uint32 [n]: code points; U+DC80..U+DCFF stand for the bytes 0x80..0xFF that are not UTF-8
Units = np.ndarray


def _units(text: bytes) -> Units:
    return np.frombuffer(
        text.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), np.uint32
    )


def _text(units: Units) -> bytes:
    return (
        units.astype("<u4")
        .tobytes()
        .decode("utf-32-le", "surrogatepass")
        .encode("utf-8", "surrogateescape")
    )


def _each(units: Units, change: Callable[[str], str]) -> Units:
    """`change` for every character, where it gives one character; computed once per distinct
    character.
    """
    distinct, which = np.unique(units, return_inverse=True)
    changed = [change(chr(c)) for c in distinct]
    return np.array(
        [ord(new) if len(new) == 1 else old for new, old in zip(changed, distinct, strict=True)],
        np.uint32,
    )[which]


def _is(units: Units, test: Callable[[str], bool]) -> np.ndarray:
    """bool [n]: characters that pass `test`, asked once per distinct character."""
    distinct, which = np.unique(units, return_inverse=True)
    return np.array([test(chr(c)) for c in distinct], bool)[which]


def _runs(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the runs of True start and stop."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    return edges[::2], edges[1::2]


def _within(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions of the runs, and for each the number of its run."""
    run = np.repeat(np.arange(len(start)), stop - start)
    offset = np.arange(len(run)) - np.repeat(np.cumsum(stop - start) - (stop - start), stop - start)
    return start[run] + offset, run


def _words(units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Where the words to edit start and stop."""
    start, stop = _runs(_is(units, lambda c: unicodedata.category(c)[0] in "LMN"))
    letters, digits = (
        np.concatenate([[0], np.cumsum(_is(units, lambda c, g=g: unicodedata.category(c)[0] == g))])
        for g in "LN"
    )
    behind = units[np.maximum(start - 1, 0)] == ord("\\") if len(start) else np.zeros(0, bool)
    keep = (letters[stop] - letters[start] >= 4) & (digits[stop] == digits[start]) & ~behind
    return start[keep], stop[keep]


def _pick(
    start: np.ndarray, stop: np.ndarray, edits: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`edits[w]` random positions of each run w, in random order within the run; and for each the
    number of its run.
    """
    place, run = _within(start, stop)
    order = np.lexsort((rng.random(len(place)), run))
    place, run = place[order], run[order]
    taken = np.arange(len(run)) - (np.cumsum(stop - start) - (stop - start))[run] < edits[run]
    return place[taken], run[taken]


def _edits(start: np.ndarray, stop: np.ndarray, severity: float, least: int = 1) -> np.ndarray:
    return np.clip(np.round(severity * (stop - start)).astype(np.int64), least, stop - start)


def _sites(units: Units, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Random positions in words, a `severity` share of each."""
    start, stop = _words(units)
    return np.sort(_pick(start, stop, _edits(start, stop, severity), rng)[0])


def _some(count: int, severity: float, rng: np.random.Generator) -> np.ndarray:
    """bool [count]: max(1, round(severity * count)) of them True."""
    chosen = np.arange(count) < max(1, round(severity * count))
    return rng.permutation(chosen)


def _some_tokens(units: Units, severity: float, rng: np.random.Generator) -> np.ndarray:
    """bool [n]: the characters of a `severity` share of the runs without whitespace."""
    start, stop = _runs(~_is(units, str.isspace))
    chosen = _some(len(start), severity, rng)
    inside = np.zeros(len(units), bool)
    inside[_within(start[chosen], stop[chosen])[0]] = True
    return inside


def _letters(units: Units, old: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random lower-case letters, drawn from those of the text so that its script stays; other than
    `old` if there is another.
    """
    letters = _each(units[_is(units, str.isalpha)], str.lower)
    new = rng.choice(letters, len(old)) if len(old) else old
    alphabet = np.unique(letters)
    following = alphabet[(np.searchsorted(alphabet, new) + 1) % len(alphabet)] if len(old) else old
    return np.where(new == _each(old, str.lower), following, new)


@dataclasses.dataclass(frozen=True)
class Noise(abc.ABC):
    """Base: a perturbation with its usual severity and the severities of its curve."""

    severity: float = 0.1
    severities: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)

    def __call__(self, text: bytes, rng: np.random.Generator, severity: float) -> bytes:
        if not 0 <= severity <= 1:
            raise ValueError(
                f"severity={severity} of {type(self).__name__}: give a share between 0 and 1"
            )
        units = _units(text)
        return _text(self.apply(units, rng, severity)) if severity and len(units) else text

    @abc.abstractmethod
    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units: ...


class Permute(Noise):
    """A share of the characters of each word (at least 2) change places."""

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        start, stop = _words(units)
        place, run = _pick(start, stop, _edits(start, stop, severity, least=2), rng)
        first, last = _runs_of_equal(run)
        # each takes the character of the next one chosen in its word
        source = np.arange(len(place)) + 1
        source[last] = first
        new = units.copy()
        new[place] = units[place[source]]
        return new


def _runs_of_equal(run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and last index of each run of equal numbers."""
    change = np.flatnonzero(np.diff(run))
    ends = np.concatenate([change, [len(run) - 1]]) if len(run) else change
    return np.concatenate([[0], change + 1])[: len(ends)], ends


class Replace(Noise):
    """A share of the characters of each word become another letter of the text."""

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        place, new = _sites(units, severity, rng), units.copy()
        new[place] = _letters(units, units[place], rng)
        return new


class Delete(Noise):
    """A share of the characters of each word go."""

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        return np.delete(units, _sites(units, severity, rng))


class Insert(Noise):
    """Behind a share of the characters of each word comes a letter of the text."""

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        place = _sites(units, severity, rng)
        return np.insert(units, place + 1, _letters(units, units[place], rng))


class Swap(Noise):
    """A share of the characters of each word change places with the next one; of two that overlap,
    the first.
    """

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        start, stop = _words(units)
        place = np.sort(
            _pick(
                start, stop - 1, np.minimum(_edits(start, stop, severity), stop - 1 - start), rng
            )[0]
        )
        first, last = _runs(np.isin(np.arange(len(units)), place))
        at, run = _within(first, last)
        at = at[(at - first[run]) % 2 == 0]
        new = units.copy()
        new[at], new[at + 1] = units[at + 1], units[at]
        return new


class Keyboard(Noise):
    """A share of the characters of each word become the key beside it (QWERTY); other
    letters stay.
    """

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        place, new = _sites(units, severity, rng), units.copy()
        old = new[place]
        # 12 columns: every letter's keys are near even
        typo = _keys()[np.minimum(old, 0x80), rng.integers(0, 12, len(place))]
        new[place] = np.where(typo > 0, typo, old)
        return new


@functools.cache
def _keys() -> np.ndarray:
    keys = np.zeros((0x81, 12), np.uint32)
    for group in NEIGHBOURS.split():
        for letter, *around in (group, group.upper()):
            keys[ord(letter)] = np.resize([ord(k) for k in around], 12)
    return keys


class Homoglyph(Noise):
    """A share of the characters of each word become a Cyrillic or Greek letter that looks alike,
    where there is one.
    """

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        place, new = _sites(units, severity, rng), units.copy()
        new[place] = _each(new[place], lambda c: LOOKALIKES.get(c, c))
        return new


class Diacritics(Noise):
    """A share of the characters of each word get a diacritic, where Unicode has the two as one
    character.
    """

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        place, new = _sites(units, severity, rng), units.copy()
        old = new[place]
        marked = np.stack(
            [
                _each(old, lambda c, mark=mark: unicodedata.normalize("NFC", c + mark))
                for mark in DIACRITICS
            ]
        )
        able = marked != old  # a random mark among those that the letter can take
        chosen = np.argmax(np.where(able, rng.random(marked.shape), -1), axis=0)
        new[place] = np.take_along_axis(marked, chosen[None], 0)[0]
        return new


@dataclasses.dataclass(frozen=True)
class Upper(Noise):
    """A share of the words, by whitespace, in ALL CAPS; characters without a single upper-case form
    stay.
    """

    severity: float = 1.0
    severities: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        return np.where(_some_tokens(units, severity, rng), _each(units, str.upper), units)


@dataclasses.dataclass(frozen=True)
class AntSpeak(Noise):
    """A share of the words, by whitespace, in capitals with a space behind each character."""

    severity: float = 1.0
    severities: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        inside = _some_tokens(units, severity, rng)
        return np.insert(
            np.where(inside, _each(units, str.upper), units), np.flatnonzero(inside) + 1, ord(" ")
        )


class Drop(Noise):
    """A share of all characters go, whatever they are."""

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        return units[~_some(len(units), severity, rng)]


@dataclasses.dataclass(frozen=True)
class RandomCase(Noise):
    """A share of the letters with case change it."""

    severity: float = 0.5
    severities: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5)

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        swapped = _each(units, str.swapcase)
        cased = np.flatnonzero(swapped != units)
        place, new = cased[_some(len(cased), severity, rng)], units.copy()
        new[place] = swapped[place]
        return new


@dataclasses.dataclass(frozen=True)
class Repeat(Noise):
    """A share of all characters stand 2, 3 or 4 times."""

    severity: float = 0.2
    severities: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        return np.repeat(
            units, np.where(_some(len(units), severity, rng), rng.integers(2, 5, len(units)), 1)
        )


class Spacing(Noise):
    """For a share of the spaces: half of them go, and for the others a space comes somewhere inside
    a word.
    """

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        space = np.flatnonzero(units == ord(" "))
        start, stop = _words(units)
        inside = _within(start + 1, stop)[0]
        chosen = rng.permutation(space)[: max(1, round(severity * len(space)))]
        gone = chosen[rng.random(len(chosen)) < 0.5]
        more = rng.permutation(inside)[: len(chosen) - len(gone)]
        kept = np.ones(len(units), bool)
        kept[gone] = False
        return np.insert(units, more, ord(" "))[np.insert(kept, more, True)]


NOISES: dict[str, Noise] = {
    "permute": Permute(),
    "replace": Replace(),
    "delete": Delete(),
    "insert": Insert(),
    "swap": Swap(),
    "keyboard": Keyboard(),
    "homoglyph": Homoglyph(),
    "diacritics": Diacritics(),
    "upper": Upper(),
    "antspeak": AntSpeak(),
    "drop": Drop(),
    "randomcase": RandomCase(),
    "repeat": Repeat(),
    "spacing": Spacing(),
}


@dataclasses.dataclass(frozen=True)
class Misspell(Noise):
    """A share of the words that people are known to misspell is written as one of them did.

    `known`: {word, in small letters: the misspellings of it}. A capital at the beginning stays.
    """

    severity: float = 1.0
    severities: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    known: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def apply(self, units: Units, rng: np.random.Generator, severity: float) -> Units:
        start, stop = _runs(_is(units, lambda c: c.isalpha() or c == "'"))
        words = ["".join(map(chr, units[a:b])) for a, b in zip(start, stop, strict=True)]
        able = [i for i, word in enumerate(words) if word.lower() in self.known]
        if not able:
            return units
        out, last = [], 0
        for i in np.array(able)[_some(len(able), severity, rng)]:
            ways = self.known[words[i].lower()]
            new = ways[rng.integers(len(ways))]
            new = new[:1].upper() + new[1:] if words[i][:1].isupper() else new
            out += [units[last : start[i]], np.array([ord(c) for c in new], np.uint32)]
            last = stop[i]
        return np.concatenate([*out, units[last:]])


def perturb(
    text: bytes, name: str, severity: float, seed: int, noises: Mapping[str, Noise] = NOISES
) -> bytes:
    """`text` under noises[name]; the random numbers follow from the first four arguments, so the
    order of calls does not matter.
    """
    if name not in noises:
        raise ValueError(f"noise {name!r}: choose one of {sorted(noises)}")
    bits = int(np.float64(severity).view(np.uint64))
    rng = np.random.default_rng(
        [
            seed,
            zlib.crc32(name.encode()),
            bits & 0xFFFFFFFF,
            bits >> 32,
            zlib.crc32(text),
            len(text),
        ]
    )
    return noises[name](text, rng, severity)
