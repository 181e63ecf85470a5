"""Noise changes what it says and no more, never breaks a character, and follows from its seed
alone.
"""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.evals.noise import DIACRITICS, NOISES, perturb

SENTENCE = (
    'Call me Ishmael, "whale" straße naïve Привет мир 日本語の文章 '
    "don't \\alpha x1234abcd 3.14 and "
    "all the other words "
)
TEXT = 4 * SENTENCE.encode()
every_noise = pytest.mark.parametrize("name", sorted(NOISES))
IN_WORDS = ["delete", "diacritics", "homoglyph", "insert", "keyboard", "permute", "replace", "swap"]


def changed(name, severity=0.1, seed=0, text=TEXT):
    return perturb(text, name, severity, seed).decode()


@every_noise
def test_severity_zero_is_the_identity_and_more_is_not(name):
    assert perturb(TEXT, name, 0.0, 0) == TEXT
    assert all(perturb(TEXT, name, s, 0) != TEXT for s in NOISES[name].severities if s)
    assert NOISES[name].severity in NOISES[name].severities
    assert NOISES[name].severities[0] == 0


@every_noise
def test_it_follows_from_the_seed(name):
    severity = NOISES[name].severity
    assert perturb(TEXT, name, severity, 1) == perturb(TEXT, name, severity, 1)
    # these choose nothing at their usual severity, or little
    if name not in ("upper", "antspeak", "homoglyph"):
        assert perturb(TEXT, name, severity, 1) != perturb(TEXT, name, severity, 2)


def test_noises_choose_apart_from_each_other():
    text = b"abcdefghij " * 20
    keyboard, replace = (
        np.frombuffer(perturb(text, name, 0.1, 0), np.uint8) for name in ("keyboard", "replace")
    )
    original = np.frombuffer(text, np.uint8)
    assert ((keyboard != original) != (replace != original)).any()


@every_noise
@settings(max_examples=30, deadline=None)
@given(
    text=st.text(max_size=40).map(lambda t: t.encode("utf-8", "ignore")),
    severity=st.sampled_from([0.01, 0.3, 1.0]),
)
def test_characters_stay_whole(name, text, severity):
    perturb(text, name, severity, 0).decode()  # a broken character would raise


@every_noise
@settings(max_examples=30, deadline=None)
@given(
    text=st.lists(
        st.binary(max_size=4) | st.sampled_from([b"word ", "žluť ".encode()]), max_size=12
    ).map(b"".join)
)
def test_bytes_that_are_not_utf8_pass_through(name, text):
    noised = perturb(text, name, 0.5, 0)
    if name not in ("drop", "repeat", "antspeak"):

        def stray(t):
            return [c for c in t.decode("utf-8", "surrogateescape") if "\udc80" <= c <= "\udcff"]

        assert stray(noised) == stray(text)


@pytest.mark.parametrize("name", IN_WORDS)
def test_short_words_numbers_and_commands_stay(name):
    text = b"of it was 1234 x1234abcd \\alpha and the 3.14159"
    assert perturb(text, name, 1.0, 0) == text


@pytest.mark.parametrize(
    ("severity", "edits"), [(0.01, 1), (0.1, 1), (0.2, 2), (0.5, 5), (1.0, 10)]
)
def test_edits_per_word(severity, edits):
    words = " ".join(["abcdefghij"] * 20)
    for new in changed("delete", severity, text=words.encode()).split(" "):
        assert len(new) == 10 - edits
    for new in changed("insert", severity, text=words.encode()).split(" "):
        assert len(new) == 10 + edits
        assert new[0] == "a"
    for new in changed("replace", severity, text=words.encode()).split(" "):
        assert sum(a != b for a, b in zip(new, "abcdefghij", strict=True)) == edits
    for new in changed("permute", severity, text=words.encode()).split(" "):
        assert sum(a != b for a, b in zip(new, "abcdefghij", strict=True)) == max(edits, 2)
        assert sorted(new) == sorted("abcdefghij")


def test_swap_moves_neighbours():
    for new in changed("swap", 0.2, text=b"abcdefghij " * 20).split():
        moved = [i for i, (a, b) in enumerate(zip(new, "abcdefghij", strict=True)) if a != b]
        assert len(moved) in (2, 4)
        assert all(abs("abcdefghij".index(new[i]) - i) == 1 for i in moved)


def test_whole_words():
    assert changed("upper", 1.0, text="déjà vu, ok".encode()) == "DÉJÀ VU, OK"
    assert changed("antspeak", 1.0, text=b"the cat") == "T H E  C A T "
    new = changed("upper", 0.25, text=b"abc " * 40).split()
    assert new.count("ABC") == 10
    assert new.count("abc") == 30


def test_shares_of_characters():
    letters = b"abcdefghij" * 100
    assert len(changed("drop", 0.1, text=letters)) == 900
    assert sum(c.isupper() for c in changed("randomcase", 0.5, text=letters)) == 500
    longer = len(changed("repeat", 0.2, text=letters)) - 1000
    assert 200 <= longer <= 600


def test_spacing_moves_spaces_only():
    text = b"several ordinary words stand here " * 20
    new = changed("spacing", 0.2, text=text)
    assert new.replace(" ", "") == text.decode().replace(" ", "")
    assert 80 < new.count(" ") < 120
    assert set(new.split()) > {"several"}
    assert max(map(len, new.split())) > len("ordinary")  # some spaces went


def test_letters_become_what_they_should():
    new = changed("homoglyph", 1.0, text=b"space")
    assert new.isalpha()
    assert not new.isascii()
    new = changed("diacritics", 1.0, text=b"acne")
    base, marks = zip(*(unicodedata.normalize("NFD", c) for c in new), strict=True)
    assert "".join(base) == "acne"
    assert set(marks) <= set(DIACRITICS)
    assert not new.isascii()
    new = changed("keyboard", 1.0, text=b"QQQQ aaaa")
    assert set(new) <= set("WA qwsz")
    assert len(new) == 9
    assert set(changed("replace", 1.0, text="привет".encode())) <= set("привет")


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="choose one of"):
        perturb(b"a", "typo", 0.1, 0)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        perturb(b"a", "drop", 1.5, 0)


def test_another_generator_is_used_as_given():
    noise = NOISES["drop"]
    assert noise(TEXT, np.random.default_rng(3), 0.1) == noise(TEXT, np.random.default_rng(3), 0.1)
