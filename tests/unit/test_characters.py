"""Questions about the letters of words have one right answer; misspellings stand in place."""

import re

import numpy as np
import pytest

from hlm.evals import cute, misspell, words
from hlm.evals.noise import Misspell
from hlm.evals.shelf import SAMPLES, Shelf
from tests.laws.subjects import corpus

VOCABULARY = words.vocabulary(
    b"the whale swims in cold water because sailors never sleep " * 2
    + b"a little longer harpooner follows something wonderful an to ax my"
)


@pytest.mark.parametrize("task", words.CHARBENCH)
def test_numbers_are_right(task):
    for item in words.charbench(task, VOCABULARY, 20, np.random.default_rng(0)):
        *_, question = item.options[0][0].split("\n")
        letter, word = re.findall(r'"(\w+)"', question)[0], re.findall(r'"(\w+)"', question)[-1]
        truth = {
            "count of a letter": word.count(letter),
            "count of different letters": len(set(word)),
            "first index of a letter": word.find(letter),
            "last index of a letter": word.rfind(letter),
        }[task]
        assert item.options[item.answer][1] == f" {truth}\n"
        assert len(item.options) == 11


@pytest.mark.parametrize("task", words.LANGGAME)
def test_games_have_one_answer_anywhere(task):
    vocabulary = words.vocabulary(corpus(), 500)
    items = words.langgame(task, vocabulary, 60, np.random.default_rng(0))
    assert {item.answer for item in items} == {0, 1, 2, 3}
    for item in items:
        *_, question = item.options[0][0].split("\n")
        options = [option.strip() for _, option in item.options]
        part = (re.findall(r'"(\w+)"', question) or [""])[0]
        score = {
            "most of a letter": str.count,
            "contains": lambda o, p: p in o,
            "starts with": str.startswith,
            "ends with": str.endswith,
            "longest": lambda o, p: len(o),
            "shortest": lambda o, p: -len(o),
        }[task]
        points = [score(o, part) for o in options]
        best = [i for i, found in enumerate(points) if found == max(points)]
        assert best == [item.answer]


def test_sums_are_reversed():
    for item in words.addition(2, 10, np.random.default_rng(0)):
        ((context, answer),) = item.options
        a, b = context.split("\n")[-1].removesuffix("=").split("+")
        assert answer == str(int(a) + int(b))[::-1] + "\n"


def test_cute_shows_other_rows_and_asks_for_one():
    rng = np.random.default_rng(0)
    for name in ("spell", "contains_char", "orth", "del_char"):
        for item in cute.read(name, Shelf(SAMPLES), None, rng):
            context, answer = item.options[item.answer]
            *shown, question = context.split("\n")
            assert len(shown) == cute.SHOTS
            assert question + answer not in shown
            assert answer.endswith('"')
    assert len(cute.read("orth", Shelf(SAMPLES), None, rng)[0].options) == 2


def test_made_questions_follow_from_the_seed():
    one, two, other = (
        words.langgame("contains", VOCABULARY, 3, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one == two != other


def test_misspellings_stand_in_place(tmp_path):
    known = misspell.read(Shelf(SAMPLES))
    assert known["receive"] == ("recieve",)
    assert known["women"] == ("wimen",)
    assert not {"which", "witch"} & set(known)  # of two meanings nobody knows which
    noise = Misspell(known=known)
    rng = np.random.default_rng(0)
    text = b"Water, because (some) women's cats; naive \xff."
    noisy = noise(text, rng, 1.0)
    assert re.fullmatch(rb"Wa(tt|rt)er, becuase \(som\) women's cats; naive \xff\.", noisy)
    assert noise(text, rng, 0.0) == text
    assert noise(b"nothing here", rng, 1.0) == b"nothing here"
