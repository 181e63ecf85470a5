"""Codecs: bytes survive, targets add up to the text, prompts are prefixes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm import BPE, Bytes, FIMCodec, Unigram
from hlm.split import Unsplit, Words
from hlm.vocab import BOS, EOS, EOW, EVERY_LEVEL

TEXT = "Call me Ishmaël. Some years ago -- never mind how long\n".encode()
CODECS = [
    Bytes(Unsplit()),
    Bytes(Words()),
    Bytes(Words(longest=3, eow=True)),
    BPE.train([TEXT] * 3, 300),
    Unigram.train([TEXT] * 3, 300),
]
every_codec = pytest.mark.parametrize(
    "codec", CODECS, ids=["unsplit", "words", "eow", "bpe", "unigram"]
)
texts = (
    st.binary(max_size=40)
    | st.text(max_size=20).map(str.encode)
    | st.sampled_from([TEXT, b"a<eos> <bos>"])
)
few = settings(deadline=None, max_examples=60)


@every_codec
@few
@given(text=texts)
def test_encode(codec, text):
    for complete in (True, False):
        e = codec.encode(text, complete)
        assert (e.token.dtype, e.level.dtype, e.nbytes.dtype) == (np.int32, np.uint8, np.uint8)
        assert len(e.token) == len(e.level) == len(e.nbytes)
        assert (e.token[0], e.level[0], e.nbytes[0]) == (codec.bos, EVERY_LEVEL, 0)
        assert e.nbytes.astype(int).sum() == len(text)
        assert codec.decode(e.token) == text
        assert codec.predicted[e.token[1:]].all(), "a target that cannot be predicted"
        assert (e.token[-1] == codec.eos) == complete
        assert (e.token[1:-1] != codec.eos).all()
    assert not codec.predicted[codec.bos]
    assert codec.predicted.shape == (codec.size,)


@every_codec
@few
@given(text=texts)
def test_levels_of_a_stream_are_those_of_encoding(codec, text):
    e = codec.encode(text, complete=False)
    assert np.array_equal(codec.levels(e.token), e.level)


@pytest.mark.parametrize("codec", CODECS[:3], ids=["unsplit", "words", "eow"])
@few
@given(text=texts, more=texts)
def test_a_prompt_is_a_prefix(codec, text, more):
    short, long = codec.encode(text, complete=False), codec.encode(text + more)
    n = len(short.token)
    assert np.array_equal(short.token, long.token[:n])
    assert np.array_equal(short.level, long.level[:n])


def test_end_of_word_carries_the_level():
    e = Bytes(Words(eow=True)).encode(b"ab cd")
    assert [t for t in e.token if t >= 256] == [BOS, EOW, EOW, EOS]
    assert set(e.token[np.flatnonzero(e.level[1:]) + 1]) == {EOW}
    assert not Bytes(Words()).predicted[EOW]


def test_bpe_counts_bytes():
    codec = CODECS[3]
    e = codec.encode(TEXT)
    assert len(e.token) < len(TEXT)
    assert e.nbytes.max() > 1
    assert codec.decode(np.append(e.token, codec.size - 1)).startswith(TEXT)


def test_bpe_sizes_are_checked():
    with pytest.raises(
        ValueError, match=r"BPE.size: 257 is less than the 258 symbols for bytes, BOS and EOS"
    ):
        BPE.train([b""], 257)
    with pytest.raises(ValueError, match=r"BPE.size: 10 is less than the tokenizer's \d+ symbols"):
        BPE(CODECS[3].tokenizer, 10)


def test_bpe_padding_rows_are_never_predicted():
    padded = BPE(CODECS[3].tokenizer, 512)
    assert padded.predicted.sum() == CODECS[3].predicted.sum()
    assert len(padded.predicted) == 512


@few
@given(text=texts)
def test_subwords_without_some_merges(text):
    """BPE-dropout: no merges are those of the tokenizer, all are bytes, and the text stays."""
    plain = CODECS[3]
    rng = np.random.default_rng(len(text))
    same = plain.sample(text, True, rng)
    np.testing.assert_array_equal(same.token, plain.encode(text).token)
    for dropout in (0.1, 0.5, 0.999999):
        codec = dataclasses.replace(plain, dropout=dropout)
        for complete in (True, False):
            e = codec.sample(text, complete, rng)
            assert codec.decode(e.token) == text
            assert e.nbytes.astype(int).sum() == len(text)
            assert (e.token[-1] == codec.eos) == complete
            np.testing.assert_array_equal(e.level, plain.levels(e.token))
    assert len(e.token) == 1 + len(text)
    np.testing.assert_array_equal(codec.encode(text).token, plain.encode(text).token)


def test_the_share_of_merges_that_is_left_out():
    """A word of two bytes with one merge is whole in a share of 1 - dropout."""
    codec = dataclasses.replace(BPE.train([b"ab ab ab"], 260), dropout=0.3)
    text = b"ab"
    rng = np.random.default_rng(0)
    whole = [len(codec.sample(text, False, rng).token) == 2 for _ in range(2000)]
    assert np.mean(whole) == pytest.approx(0.7, abs=0.03)
    one, two = (
        [len(codec.sample(text, False, np.random.default_rng(s)).token) for s in range(30)]
        for _ in range(2)
    )
    assert one == two
    with pytest.raises(ValueError, match=r"BPE\.dropout: 1"):
        dataclasses.replace(codec, dropout=1)
    with pytest.raises(ValueError, match=r"FIMCodec\.codec\.dropout: 0\.3, which gaps do not have"):
        FIMCodec(codec)
