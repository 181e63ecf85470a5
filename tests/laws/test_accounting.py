"""Law: likelihoods are those of a distribution over texts, and every symbol of a text is scored
once, however many rows it takes.
"""

import dataclasses
import functools
import itertools
import math
import re

import jax
import numpy as np
import pytest

from hlm import (
    LM,
    AdamW,
    Attention,
    Block,
    Bytes,
    Data,
    Embed,
    Experiment,
    Hierarchy,
    LanguageModel,
    Level,
    Stack,
    SwiGLU,
    TextFiles,
)
from hlm.evals import perplexity
from hlm.model.pool import Select
from hlm.model.unpool import Prefix
from hlm.sharding import Mesh
from hlm.split import Unsplit, Words
from hlm.train.step import init_state
from hlm.vocab import BOS, EOS, EOW, EVERY_LEVEL, Encoded

SUM = 1e-4  # absolute tolerance of probabilities that sum to one
NATS = 1e-4  # relative tolerance of one text's nats from different programs
NEIGHBOURS = 1e-6  # the same of many texts' from one program, beside other texts in their rows
HARD = (
    b"",
    b" ",
    b"a",
    b"\xff\xfe\x80 \xc3 a\xf0\x9f\x92",
    "é 漢字\u2003x".encode(),
    b"\x00\n\n\r\n ",
    b" a" * 70,
    bytes(range(256)),
)


@dataclasses.dataclass(frozen=True)
class Toy(Bytes):
    """Bytes of which only "a" and space are ever predicted."""

    @property
    def predicted(self) -> np.ndarray:
        return np.isin(
            np.arange(self.size), [ord("a"), ord(" "), EOS, *([EOW] if self.split.eow else [])]
        )


@dataclasses.dataclass(frozen=True)
class Spelled(Toy):
    """A text states its own stream of symbols: "|" is EOW, wherever it stands."""

    def encode(self, text: bytes, complete: bool = True) -> Encoded:
        stream = [EOW if b == ord("|") else b for b in text]
        token = np.array([BOS, *stream, *([EOS] if complete else [])], np.int32)
        level = np.where(token == EOW, 1, 0).astype(np.uint8)
        level[0] = EVERY_LEVEL
        return Encoded(token, level, (token < 256).astype(np.uint8))


def language_model(codec: Bytes, length: int, rows: int = 32) -> LanguageModel:
    """A tiny model, flat or HAT, with random parameters: large ones, so that its predictions are
    far from even.
    """
    stack = Stack(1, Block(Attention(2), SwiGLU(16)))
    both, causal = (
        Stack(1, Block(Attention(2, window=8, causal=c), SwiGLU(16)), per_chunk=True)
        for c in (False, True)
    )
    hat = Hierarchy(
        both,
        Level(1),
        Select(16),
        stack,
        Prefix(),
        causal,
        capacity=length * 3 // 4,
        skip_input=True,
    )
    text = TextFiles(("corpus:mobydick/test.txt",))
    model = LM(codec=codec, embed=Embed(width=16), trunk=hat if codec.split.depth else stack)
    exp = Experiment(
        model=model,
        data=Data(text, length),
        valid=text,
        test=text,
        optim=AdamW(1e-3, warmup=0),
        steps=1,
        rows=rows,
    )
    mesh, rng = Mesh().make(jax.devices()[:1]), np.random.default_rng(0)
    shapes = init_state(exp, mesh)[0].params
    params = jax.tree.map(lambda a: jax.numpy.asarray(rng.normal(0, 0.5, a.shape), a.dtype), shapes)
    return LanguageModel(exp, params, mesh)


@functools.cache
def toy(name: str) -> LanguageModel:
    codecs = {
        "flat": Toy(Unsplit()),
        "hat": Toy(Words(longest=4)),
        "eow": Toy(Words(eow=True)),
        "streams": Spelled(Words(eow=True)),
    }
    return language_model(codecs[name], length=8 if name in ("flat", "hat") else 6)


@functools.cache
def full(name: str, length: int) -> LanguageModel:
    codecs = {
        "flat": Bytes(Unsplit()),
        "hat": Bytes(Words(longest=16)),
        "eow": Bytes(Words(longest=16, eow=True)),
    }
    return language_model(codecs[name], length, rows=16)


def strings(alphabet: str, length: int) -> list[str]:
    return ["".join(s) for s in itertools.product(alphabet, repeat=length)]


def total_probability(lm: LanguageModel, alphabet: str, length: int) -> float:
    """Of all texts of less than `length` characters, and of all that begin with `length`
    characters.
    """
    shorter = [s for n in range(length) for s in strings(alphabet, n)]
    closed, begun = lm.score(shorter), lm.score(strings(alphabet, length), complete=False)
    return math.fsum(math.exp(-s.nats) for s in [*closed, *begun])


@pytest.mark.parametrize(
    ("name", "alphabet", "length"),
    [
        ("flat", "a ", 7),
        ("flat", "a ", 11),
        ("hat", "a ", 7),
        ("hat", "a ", 11),
        ("streams", "a |", 5),
        ("streams", "a |", 7),
    ],
)
def test_the_probabilities_of_all_texts_sum_to_one(name, alphabet, length):
    """In one row of 8 or 6 symbols, and in several; with EOW, of all streams of symbols."""
    assert total_probability(toy(name), alphabet, length) == pytest.approx(1, abs=SUM)


def test_with_ends_of_words_a_text_is_one_of_its_streams():
    lm, streams = toy("eow"), toy("streams")
    texts = [s for n in range(6) for s in strings("a ", n)]
    # words with their spaces, and spaces that begin a text
    as_stream = [re.sub(r"\S+\s*|^\s+", r"\g<0>|", text) for text in texts]
    got, expected = lm.score(texts), streams.score(as_stream)
    np.testing.assert_allclose([s.nats for s in got], [s.nats for s in expected], rtol=NATS)
    assert 0.001 < total_probability(lm, "a ", 6) <= 1 + SUM


@pytest.mark.parametrize("name", ["flat", "hat", "eow"])
def test_every_symbol_is_scored_once_in_one_row_or_several(name):
    for text, one, several in zip(
        HARD, *(full(name, length).score(HARD) for length in (512, 64)), strict=True
    ):
        symbols = full(name, 64).codec.encode(text)
        for score in (one, several):
            assert score.nbytes == len(text) == len(score.per_byte) == len(score.hits)
            assert score.symbols == len(symbols.token) - 1
            assert np.isfinite(score.per_byte).all()
            assert (score.per_byte > 0).all()
            assert score.nats_of_end > 0
            assert score.per_byte.sum() + score.nats_of_end == pytest.approx(score.nats, rel=NATS)
        assert one.chunks == several.chunks
        assert one.chunks == (
            len(symbols.token) - 1 if name == "flat" else np.count_nonzero(symbols.level)
        )
        first = 64 // 2 - 8  # bytes that see the same text in rows of either length
        np.testing.assert_allclose(one.per_byte[:first], several.per_byte[:first], rtol=NATS)


@pytest.mark.parametrize("name", ["flat", "hat", "eow"])
def test_the_end_is_charged_to_no_byte(name):
    """Byte by byte, a whole text costs what it costs while it is open; the rest is its end."""
    lm = full(name, 64)
    for text, whole, begun in zip(
        HARD, lm.score(HARD), lm.score(HARD, complete=False), strict=True
    ):
        same = len(text) - (name == "eow")  # the last byte has the end of its word, once closed
        np.testing.assert_allclose(whole.per_byte[:same], begun.per_byte[:same], rtol=NATS)
        if name != "eow":
            assert whole.nats_of_end == pytest.approx(whole.nats - begun.nats, rel=100 * NATS)


@pytest.mark.parametrize("name", ["flat", "hat", "eow"])
def test_a_word_of_100_kilobytes_is_scored(name):
    (score,) = full(name, 512).score(b"a" * 100_000)
    assert score.nbytes == len(score.per_byte) == 100_000
    assert (score.per_byte > 0).all()
    assert score.per_byte.sum() + score.nats_of_end == pytest.approx(score.nats, rel=NATS)


@pytest.mark.parametrize("name", ["flat", "hat", "eow"])
def test_documents_in_one_file_or_two_give_the_same_number(name, monkeypatch):
    lm = full(name, 64)
    one, two = list(HARD[:5]), [b"call me ishmael. " * 12, *HARD[5:]]
    together = perplexity.evaluate(lm, one + two)
    parts = [
        [perplexity.totals(t, s) for t, s in zip(part, lm.score(part), strict=True)]
        for part in (one, two)
    ]
    # Texts share rows: their neighbours matter to the order of summation, and to nothing else.
    expected = pytest.approx(together, rel=NEIGHBOURS)
    assert sum(itertools.chain(*parts), perplexity.Totals()).report() == expected
    monkeypatch.setattr(perplexity, "BATCHES", 0)  # every document alone
    alone = perplexity.evaluate(lm, one + two)
    assert alone == expected
    exact = ("documents", "bytes", "symbols", "chunks", "words", "bytes_right", "words_right")
    assert [alone[name] for name in exact] == [together[name] for name in exact]
