"""The law of every splitter: bytes on the right never move an end, whatever the bytes are."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hlm.registry import KNOWN
from hlm.split import Splitter
from hlm.vocab import BOS, EOS, EOW, Bytes

SPLITTERS = [
    sample for cls in KNOWN if issubclass(cls, Splitter) for sample in cls.samples()
]  # a splitter says itself which settings are worth trying
every_splitter = pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)

# Characters of every kind that a rule tells apart, and sequences that are not UTF-8: overlong,
# surrogate, too large, cut, stray.
NASTY = [
    c.encode()
    for c in "aB1٣.,_'\"$⁄· \t\n\r\v\x00\x85\xa0\u1680\u2003\u2007\u2028\u202f\u3000"
    "\u0301\u200d\xad\u200bא日カにกั한ᄀ🇩😀👦🏻"
]
NASTY += [
    b"\x80",
    b"\xff",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc2",
    b"\xe2\x80",
    b"\xf0\x9f\x98",
    b"\xf8",
]
texts = st.lists(st.sampled_from(NASTY) | st.binary(max_size=3), max_size=30).map(b"".join)


def check_prefixes(splitter, text, cuts):
    codec = Bytes(splitter)
    whole = codec.encode(text, complete=False)
    np.testing.assert_array_equal(codec.levels(whole.token), whole.level)
    for n in cuts:
        part = codec.encode(text[:n], complete=False)
        for a, b in (
            (part.token, whole.token),
            (part.level, whole.level),
            (part.nbytes, whole.nbytes),
        ):
            assert np.array_equal(a, b[: len(a)]), (splitter, text[:n], text)


@every_splitter
@settings(max_examples=25, deadline=None)
@given(text=texts)
@example(b" \xc2\xa0\xcc\x81")
@example(b"1\xe2\x81\x842")
@example("a \u202fb".encode())
@example(b"a \xc2\xa0\xc2\xa0 b")
def test_bytes_on_the_right_change_nothing(splitter, text):
    check_prefixes(splitter, text, range(len(text)))


@every_splitter
def test_pairs_of_kinds_after_a_space_and_a_digit(splitter):
    for pair in list(itertools.product(NASTY, NASTY))[::5]:
        text = b"1" + pair[0] + pair[1] + b" " + pair[0] + pair[1]
        check_prefixes(splitter, text, [len(text) - len(pair[1]), len(text) // 2])


def test_every_splitter_is_tried():
    assert {type(sample) for sample in SPLITTERS} == {c for c in KNOWN if issubclass(c, Splitter)}


@every_splitter
def test_a_word_of_a_megabyte(splitter):
    text = b"x" * (1 << 20) + " é\n".encode() + b"y" * 100
    check_prefixes(splitter, text, [1, 31, 32, 33, 1 << 19, len(text) - 101, len(text) - 1])
    longest = getattr(splitter, "longest", len(text)) * getattr(splitter, "counts", (1,))[0]
    ends = np.flatnonzero(splitter.levels(np.frombuffer(text, np.uint8), True))
    assert np.diff(ends, prepend=-1, append=len(text) - 1).max() <= longest


@every_splitter
@settings(max_examples=25, deadline=None)
@given(text=texts)
def test_symbols_are_the_text(splitter, text):
    codec = Bytes(splitter)
    encoded = codec.encode(text)
    assert codec.decode(encoded.token) == text
    assert encoded.token[0] == BOS
    assert encoded.token[-1] == EOS
    assert encoded.nbytes.sum() == len(text)
    assert encoded.level[1:].max(initial=0) <= splitter.depth
    assert (EOW in encoded.token) == (splitter.eow and len(text) > 0)
    assert not splitter.eow or not text or encoded.token[-2] == EOW
