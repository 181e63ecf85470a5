"""Real misspellings: what people wrote, in place of the words that they meant.

From the lists of Birkbeck, aspell and Wikipedia in the form of R. Mitton ("$right", then a line for
each misspelling) and from codespell's ("wrong->right"), as far as the files are there. Words with
other characters than letters and apostrophes are left out.
"""

import collections
import re
from collections.abc import Iterable, Mapping

from hlm.evals.noise import NOISES, Misspell, Noise
from hlm.evals.shelf import Shelf

LISTS = ("birkbeck_missp.dat", "wikipedia.dat", "aspell.dat", "codespell_dictionary.txt")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
Known = Mapping[str, tuple[str, ...]]
# With the real ones, which have nothing to write before their lists are read.
KINDS: dict[str, Noise] = NOISES | {"misspell": Misspell()}


def read(shelf: Shelf) -> Known:
    """{word in small letters: its misspellings}; empty if no list is there."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for name in LISTS:
        if shelf.has(f"eval/misspell/{name}"):
            for right, wrong in pairs(shelf.lines(f"eval/misspell/{name}")):
                if WORD.fullmatch(right) and WORD.fullmatch(wrong) and right != wrong:
                    found[right.lower()].add(wrong)
    return {right: tuple(sorted(wrong)) for right, wrong in sorted(found.items())}


def pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """(right, wrong) of one list."""
    right = ""
    for line in lines:
        line = line.strip()
        if "->" in line:
            wrong, _, meant = line.partition("->")
            meant = [word.strip() for word in meant.split(",") if word.strip()]
            if len(meant) == 1:  # of several nobody knows which was meant
                yield meant[0], wrong
        elif line.startswith("$"):
            right = line[1:]
        elif right:
            yield right, line


def noises(shelf: Shelf) -> dict[str, Noise]:
    """All noises, with real misspellings if there are lists of them."""
    known = read(shelf)
    return NOISES | {"misspell": Misspell(known=known)} if known else NOISES
