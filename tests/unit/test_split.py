"""Each rule on text where its ends can be seen, and against what was published."""

import re
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

import hlm.data
import hlm.split
from hlm.split import (
    Fixed,
    HatSplitter,
    SpaceLike,
    Unsplit,
    WordGroups,
    Words,
    fixed,
    hat,
    space_like,
    word_groups,
    words,
)
from hlm.split.characters import LETTER, OTHER, SPACE, characters
from hlm.split.rule import overlong
from hlm.vocab import EOW, Bytes

AGREEMENT = 0.999  # share of bytes of ordinary text where WordGroups gives the published level


def corpus():
    return (Path(hlm.data.__file__).parent / "corpus/mobydick/valid.txt").read_bytes()


def shown(splitter, text, complete=True):
    """The text with `|` for every level that ends, and `^` for EOW."""
    encoded = Bytes(splitter).encode(text.encode(), complete)
    parts = []
    for token, level in zip(encoded.token[1:], encoded.level[1:], strict=True):
        parts.append(
            (b"^" if token == EOW else bytes([token]) if token < 256 else b"") + b"|" * level
        )
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("splitter", "text", "expected"),
    [
        (Words(), "The  cat\nsat", "The | cat\n|sat"),
        (Words(), "  a b", "  a |b"),
        (Words(), "a\u3000b\xa0\u2003c d", "a\u3000|b\xa0|\u2003c |d"),
        (Words(longest=4), "abcdefghij k", "abcd|efgh|ij |k"),
        (Words(longest=4), "abcd efgh", "abcd| |efgh|"),
        (Words(eow=True), "The  cat\n sat", "The  ^|cat\n ^|sat^|"),
        (Words(eow=True), "  a ", "  ^|a ^|"),
        (Words(eow=True), "a \xa0 b", "a ^|\xa0 ^|b^|"),
        (Words(longest=3, eow=True), "abcde f", "abc^|de ^|f^|"),
        (SpaceLike(), "Hi, you! 3x é", "Hi,| you!| 3x |é"),
        (SpaceLike(), " a b", " a |b"),
        (WordGroups(), "a b c d", "a |b ||c |d"),
        (WordGroups((1, 2, 4)), "a b c d e", "a |b ||c |d |||e"),
        (WordGroups((2,)), "a b c d ", "a b |c d |"),
        (WordGroups((1, 2)), "a b  c d", "a |b || c |d"),
        (WordGroups((1, 2)), "a  b c d", "a | b |c ||d"),
        (WordGroups(), "1234567 ....", "1||234||567|| |.||...||"),
        (WordGroups(), "a.\n\nb\n\n c", "a.||\n|\nb\n||\n c"),
        (WordGroups(), "don't", "don'||t"),
        (WordGroups((1, 2), longest=3), "abcdefgh", "abc|def||gh"),
        (WordGroups((1, 3), longest=1), "a  b", "a| | |b|"),
        (HatSplitter(), "Hello, world!  x", "Hello, |world! | x|"),
        (HatSplitter(), "東京é", "東京|é|"),
        (Fixed(3), "abcdefg", "abc|def|g"),
        (Unsplit(), "a b c", "a b c"),
    ],
)
def test_ends(splitter, text, expected):
    assert shown(splitter, text) == expected


def test_an_open_word_with_eow_stays_open():
    assert shown(Words(eow=True), "a b ", complete=False) == "a ^|b "


def reference_levels(text, counts):
    """AU-Net's regular expressions: starts of marks end every level, every n-th word ends its
    level.
    """
    start = [
        m.start() for m in regex.finditer(r"\p{N}{1,3}|[^\s\p{L}\p{N}]{1,3}[\r\n]*|\s*[\r\n]", text)
    ]
    last_byte = np.cumsum([len(c.encode()) for c in text]) - 1
    level = np.zeros(len(text.encode()), np.uint8)
    for nth, count in enumerate(counts, 1):
        level[last_byte[[m.end() - 1 for m in regex.finditer(rf"(\S+?\s){{{count}}}", text)]]] = nth
    level[last_byte[start]] = len(counts)
    return level


@pytest.mark.parametrize("counts", [(1,), (1, 2), (1, 2, 4)])
def test_word_groups_agree_with_the_published_expressions(counts):
    text = corpus()
    ours = WordGroups(counts, longest=len(text)).levels(np.frombuffer(text, np.uint8), True)
    published = reference_levels(text.decode(), counts)
    same = (ours == published).mean()
    print(f"{counts}: equal level at {same:.4%} of bytes")
    assert same > AGREEMENT


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.sampled_from("aB1.,é日 \t"), max_size=30),
    st.sampled_from([(1,), (1, 2), (2,), (1, 3, 6)]),
)
def test_word_groups_are_the_published_ones_without_newlines(text, counts):
    if text:
        ours = WordGroups(counts, longest=1000).levels(np.frombuffer(text.encode(), np.uint8), True)
        np.testing.assert_array_equal(ours, reference_levels(text, counts))


def test_hat_splitter_gives_the_words_of_the_package():
    from hat_splitter import HATSplitter

    text = corpus()[:20_000].decode(errors="ignore")
    words = HATSplitter().split(text)
    first = [w[0].encode() for w in words]
    starts = np.cumsum([0] + [len(w.encode()) for w in words])[1:-1]
    expected = starts + np.array([len(c) for c in first[1:]]) - 1
    level = HatSplitter(longest=10_000).levels(np.frombuffer(text.encode(), np.uint8), True)
    np.testing.assert_array_equal(np.flatnonzero(level), expected)


EXAMPLES = [
    found
    for module in (words, space_like, word_groups, hat, fixed)
    for found in re.findall(r"^    (\w+\(.*\)) +(\S+)\n +(\d+)$", module.__doc__, re.MULTILINE)
]


@pytest.mark.parametrize(("splitter", "text", "levels"), EXAMPLES)
def test_examples_of_the_docstrings(splitter, text, levels):
    byte = np.frombuffer(text.replace("␣", " ").replace("⏎", "\n").encode(), np.uint8)
    found = eval(splitter, vars(hlm.split)).levels(byte, True)
    assert "".join(map(str, found)) == levels


def test_every_file_of_rules_has_an_example():
    named = {re.match(r"\w+", splitter)[0] for splitter, _, _ in EXAMPLES}
    assert named == set(hlm.split.__all__) - {"Splitter"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from("aéࠀ😀 \u2003").map(str.encode) | st.binary(max_size=3), max_size=20
    ).map(b"".join)
)
def test_characters_are_those_of_the_utf8_decoder(text):
    kind, before = characters(np.frombuffer(text, np.uint8))
    decoded = text.decode("utf-8", "surrogateescape")
    expected, last = [], 0
    for c in decoded:
        size = len(c.encode("utf-8", "surrogateescape"))
        now = (
            0
            if "\ud800" <= c <= "\udfff"
            else characters(np.frombuffer(c.encode(), np.uint8))[0][-1]
        )
        expected += [(0, last)] * (size - 1) + [(now, last)]
        last = now or last
    assert [*zip(kind.tolist(), before.tolist(), strict=True)] == expected
    assert characters(np.frombuffer("é".encode(), np.uint8))[0].tolist() == [0, LETTER]
    assert characters(np.frombuffer("\u0301\u2003".encode(), np.uint8))[0].tolist() == [
        0,
        OTHER,
        0,
        0,
        SPACE,
    ]


@pytest.mark.parametrize(
    ("ends", "n", "longest", "cuts"),
    [([], 7, 3, [2, 5]), ([4], 6, 3, [2]), ([2, 5], 9, 3, [8]), ([], 0, 3, [])],
)
def test_overlong(ends, n, longest, cuts):
    assert overlong(np.array(ends, np.int64), n, longest).tolist() == cuts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Words(longest=0), r"Words.longest=0"),
        (lambda: SpaceLike(longest=-1), r"SpaceLike.longest=-1"),
        (lambda: WordGroups(counts=()), r"WordGroups.counts=\(\)"),
        (lambda: WordGroups(counts=(2, 3)), r"2 does not divide 3"),
        (lambda: WordGroups(counts=(1, 0)), r"WordGroups.counts=0"),
        (lambda: HatSplitter(longest=0), r"HatSplitter.longest=0"),
        (lambda: Fixed(0), r"Fixed.stride=0"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
