"""Questions about the letters of words, made by code from a seed.

CharBench's four questions (arXiv 2508.02591): how often a letter is in a word, how many different
letters it has, and the first and last index of a letter, from 0; answers are compared over all
numbers 0 to 10. LangGame of StochasTok (arXiv 2506.01687): which of four words has most of a
letter, contains, starts or ends with some letters, is the longest or the shortest; options are
shuffled here, where the published list is a rotation with a fixed order behind the answer.
"""

import collections
import re
from collections.abc import Callable, Sequence

import numpy as np

from hlm.evals.choice import Item

NUMBERS = tuple(str(n) for n in range(11))
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHOTS = 3  # worked examples before a question


def vocabulary(text: bytes, most: int = 2000) -> list[str]:
    """The most frequent words of 3 to 10 small ASCII letters."""
    counts = collections.Counter(re.findall(r"\b[a-z]{3,10}\b", text.decode(errors="ignore")))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]


Made = tuple[str, str]  # a question without its answer, and the answer


def frequency(word: str, rng: np.random.Generator) -> Made:
    letter = str(rng.choice(list(word)))
    return f'How many times is the letter "{letter}" in "{word}"? Answer:', str(word.count(letter))


def different(word: str, rng: np.random.Generator) -> Made:
    return f'How many different letters are in "{word}"? Answer:', str(len(set(word)))


def first(word: str, rng: np.random.Generator) -> Made:
    letter = str(rng.choice(list(word)))
    ask = f'Counting from 0, what is the first index of "{letter}" in "{word}"? Answer:'
    return ask, str(word.index(letter))


def last(word: str, rng: np.random.Generator) -> Made:
    letter = str(rng.choice(list(word)))
    ask = f'Counting from 0, what is the last index of "{letter}" in "{word}"? Answer:'
    return ask, str(word.rindex(letter))


CHARBENCH: dict[str, Callable[[str, np.random.Generator], Made]] = {
    "count of a letter": frequency,
    "count of different letters": different,
    "first index of a letter": first,
    "last index of a letter": last,
}


def charbench(task: str, words: Sequence[str], count: int, rng: np.random.Generator) -> list[Item]:
    """Questions with worked examples before them; every number is an option."""
    items = []
    for _ in range(count):
        chosen = rng.choice(len(words), SHOTS + 1, replace=False)
        *shown, (ask, answer) = (CHARBENCH[task](words[int(i)], rng) for i in chosen)
        context = "".join(f"{q} {a}\n" for q, a in shown) + ask
        options = tuple((context, f" {number}\n") for number in NUMBERS)
        items.append(Item(options, NUMBERS.index(answer), answer))
    return items


# (the words, a random generator) -> the question, the right word, three wrong ones; None: no luck
Game = Callable[[Sequence[str], np.random.Generator], tuple[str, str, list[str]] | None]


def drawn(
    ask: str, right: Sequence[str], wrong: Sequence[str], rng: np.random.Generator
) -> tuple[str, str, list[str]] | None:
    if not right or len(wrong) < 3:
        return None
    return ask, str(rng.choice(right)), [str(w) for w in rng.choice(wrong, 3, replace=False)]


def most(words: Sequence[str], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    letter = str(rng.choice(list(LETTERS)))
    right = [word for word in words if word.count(letter) >= 2]
    wrong = [word for word in words if word.count(letter) <= 1]
    return drawn(f'Which word has the most letters "{letter}"?', right, wrong, rng)


def has(
    verb: str, test: Callable[[str, str], bool]
) -> Callable[[Sequence[str], np.random.Generator], tuple[str, str, list[str]] | None]:
    """A question about one to three letters of a word."""

    def game(words: Sequence[str], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
        word, size = str(rng.choice(words)), int(rng.integers(1, 4))
        start = int(rng.integers(0, len(word) - size + 1))
        if verb != "contains":
            start = 0 if verb == "starts with" else len(word) - size
        part = word[start : start + size]
        wrong = [other for other in words if not test(other, part)]
        return drawn(f'Which word {verb} "{part}"?', [word], wrong, rng)

    return game


def longest(words: Sequence[str], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    long, short = [w for w in words if len(w) >= 7], [w for w in words if len(w) <= 4]
    return drawn("Which word is the longest?", long, short, rng)


def shortest(words: Sequence[str], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    long, short = [w for w in words if len(w) >= 6], [w for w in words if len(w) <= 3]
    return drawn("Which word is the shortest?", short, long, rng)


LANGGAME: dict[str, Game] = {
    "most of a letter": most,
    "contains": has("contains", lambda word, part: part in word),
    "starts with": has("starts with", str.startswith),
    "ends with": has("ends with", str.endswith),
    "longest": longest,
    "shortest": shortest,
}


def langgame(task: str, words: Sequence[str], count: int, rng: np.random.Generator) -> list[Item]:
    """Questions with worked examples before them and four shuffled options each."""
    made = []
    for _ in range(100 * count * (SHOTS + 1)):  # most draws are questions
        if len(made) == count * (SHOTS + 1):
            break
        game = LANGGAME[task](words, rng)
        if game is None:
            continue
        ask, right, wrong = game
        options = [str(o) for o in rng.permutation([right, *wrong])]
        made.append((f"{ask} Options: {', '.join(options)}. Answer:", options, right))
    if len(made) < count * (SHOTS + 1):
        raise ValueError(f"too few words for the questions {task!r}; give more text")
    items = []
    for k in range(0, len(made), SHOTS + 1):
        *shown, (ask, options, right) = made[k : k + SHOTS + 1]
        context = "".join(f"{q} {answer}\n" for q, _, answer in shown) + ask
        tuple_ = tuple((context, f" {option}\n") for option in options)
        items.append(Item(tuple_, options.index(right), str(options.index(right))))
    return items


def addition(digits: int, count: int, rng: np.random.Generator) -> list[Item]:
    """Sums with their digits reversed, units first, so that carries go with the text."""

    def made() -> Made:
        a, b = (int(rng.integers(10 ** (digits - 1), 10**digits)) for _ in range(2))
        return f"{a}+{b}=", str(a + b)[::-1]

    items = []
    for _ in range(count):
        *shown, (ask, answer) = (made() for _ in range(SHOTS + 1))
        context = "".join(f"{q}{a}\n" for q, a in shown) + ask
        items.append(Item(((context, f"{answer}\n"),), 0))
    return items
