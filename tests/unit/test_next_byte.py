"""The next byte against enumeration: a toy model over a toy tokenizer, all of whose texts can be
listed.
"""

import collections
import functools
import itertools
import zlib

import numpy as np
import pytest

from hlm import BPE, Bytes
from hlm.infer.next_byte import END, covers, extended, next_byte
from hlm.split import Unsplit, Words
from hlm.vocab import EOW, Characters, utf8
from tests.laws.subjects import corpus
from tests.unit.minute_models import TEXT, language_model, tokenizer

CLOSE = 1e-10  # of float64 probabilities
CLOSE_MODEL = 1e-4  # of float32 log-probabilities
SUBWORDS = BPE.train([b"ab aba abab ba aab, bab  abb ab ab aba" * 3], 268)
ALIVE = [
    v
    for v in range(SUBWORDS.size)
    if SUBWORDS.predicted[v] and set(SUBWORDS.decode([v])) <= set(b"ab ")
]
WORDS = Bytes(Words(longest=3, eow=True))
# symbols of a text, with BOS; where a text cannot end there, a few more
MOST = {SUBWORDS: 3, WORDS: 6}


def is_encoding(codec, stream):
    """By definition: what is encoded from its own bytes. With EOWs, also what an encoding begins
    with.
    """
    whole, opened = (
        codec.encode(codec.decode(stream), complete).token for complete in (True, False)
    )
    return np.array_equal(whole[:-1], stream) or np.array_equal(opened[: len(stream)], stream)


@functools.cache
def allowed(codec, stream):
    """Symbols that may come next: EOS where the stream is whole, others where an encoding
    goes on.
    """
    alive = ALIVE if codec is SUBWORDS else [*b"ab ", EOW]
    follow = [v for v in alive if v != codec.eos and is_encoding(codec, (*stream, v))]
    if np.array_equal(codec.encode(codec.decode(stream)).token[:-1], stream):
        follow.append(codec.eos)
    return follow


@functools.cache
def after(codec, stream, strict):
    """The toy model: random after every stream. A strict one knows what an encoding is; texts have
    about MOST symbols.
    """
    rng = np.random.default_rng(zlib.crc32(repr(stream).encode()))
    p, alive = np.zeros(codec.size), ALIVE if codec is SUBWORDS else [*b"ab ", EOW, codec.eos]
    # what no text begins with may be followed by anything
    follow = (strict and allowed(codec, stream)) or alive
    if len(stream) >= MOST[codec] and codec.eos in follow:
        follow = [codec.eos]
    p[follow] = rng.random(len(follow)) ** 3
    return p / p.sum()


def toy(codec, strict):
    calls = []

    def log_p(streams):
        calls.append(len(streams))
        with np.errstate(divide="ignore"):
            return [
                np.log([after(codec, tuple(s[: i + 1].tolist()), strict) for i in range(len(s))])
                for s in streams
            ]

    return log_p, calls


@functools.cache
def encodings(codec, strict):
    """Every encoding that can be or begin a text: {stream: (its probability, that of ending
    there)}.
    """
    out, stack = {}, [((codec.bos,), 1.0)]
    while stack:
        stream, mass = stack.pop()
        p = after(codec, stream, strict)
        out[stream] = mass, mass * p[codec.eos]
        if len(stream) <= MOST[codec] + 3:
            stack += [
                ((*stream, v), mass * p[v])
                for v in allowed(codec, stream)
                if v != codec.eos and p[v] > 0
            ]
    return out


@functools.cache
def texts_of(codec):
    """The probability of each whole text of the strict model."""
    out = collections.Counter()
    for stream, (_, ended) in encodings(codec, True).items():
        out[codec.decode(stream)] += ended
    assert abs(out.total() - 1) < CLOSE
    return out


def by_texts(codec, prefix):
    """The next byte, from all texts that begin so."""
    out = np.zeros(END + 1)
    for text, p in texts_of(codec).items():
        if text.startswith(prefix):
            out[text[len(prefix)] if len(text) > len(prefix) else END] += p
    return out / out.sum()


def by_covers(codec, prefix):
    """The next byte, from the covers of all longer texts, of a model that also gives mass to what
    no encoding has.
    """
    out = np.zeros(END + 1)
    for stream, (mass, ended) in encodings(codec, False).items():
        text, before = codec.decode(stream), codec.decode(stream[:-1])
        if text == prefix:
            out[END] += ended
        elif text.startswith(prefix) and len(before) <= len(prefix):
            out[text[len(prefix)]] += mass
    return out / out.sum()


def prefixes(codec, longest):
    whole = [text for text, p in texts_of(codec).items() if p > 0]
    return sorted({text[:i] for text in whole for i in range(min(len(text), longest) + 1)})


def test_the_toy_has_something_to_find():
    """Symbols overlap, and the model's own answer to a cut text is wrong."""
    assert sum(len(SUBWORDS.decode([v])) > 1 for v in ALIVE) >= 5
    naive = 0.0
    for prefix in prefixes(SUBWORDS, 3):
        p, found = (
            after(SUBWORDS, tuple(SUBWORDS.encode(prefix, False).token.tolist()), True),
            np.zeros(END + 1),
        )
        for v in np.flatnonzero(p):
            found[(*SUBWORDS.decode([v]), END)[0]] += p[v]
        naive = max(naive, np.abs(found - by_texts(SUBWORDS, prefix)).max())
    assert naive > 0.3


@pytest.mark.parametrize("codec", [SUBWORDS, WORDS], ids=["bpe", "eow"])
def test_next_byte_of_every_text(codec):
    log_p, calls = toy(codec, True)
    checked = prefixes(codec, 4)
    assert len(checked) > 20
    for prefix in checked:
        np.testing.assert_allclose(
            np.exp(next_byte(codec, log_p, prefix)),
            by_texts(codec, prefix),
            atol=CLOSE,
            err_msg=repr(prefix),
        )
    assert len(calls) == len(checked)


def test_byte_by_byte():
    """One call for all texts and one stream for each, and the same distributions, also where
    symbols are left out.
    """
    for strict, expected in ((True, by_texts), (False, by_covers)):
        log_p, calls = toy(SUBWORDS, strict)
        whole = [t for t in prefixes(SUBWORDS, 3) if len(t) == 3]
        assert len(whole) > 10
        opened = covers(SUBWORDS, log_p, [b""] * len(whole))
        for i, following in enumerate([*zip(*whole, strict=True), None]):
            for text, cover in zip(whole, opened, strict=True):
                assert cover.text == text[:i]
                np.testing.assert_allclose(
                    np.exp(cover.next_byte()),
                    expected(SUBWORDS, text[:i]),
                    atol=CLOSE,
                    err_msg=repr(text[:i]),
                )
            opened = extended(log_p, opened, following) if following else opened
        assert calls == [len(whole)] * 4


def test_bytes_are_their_own_symbols():
    logits = np.random.default_rng(0).standard_normal(260)
    for codec, size in (
        (Bytes(Unsplit()), 257),
        (utf8(Words()), 255),
        (Characters(Unsplit(), known=27), 27),
    ):
        log_p = logits[: codec.size] - np.log(np.exp(logits[: codec.size]).sum())
        found = next_byte(
            codec,
            lambda streams, log_p=log_p: [np.tile(log_p, (len(s), 1)) for s in streams],
            b"\x05",
        )
        assert np.isfinite(found).sum() == size
        assert abs(np.exp(found).sum() - 1) < CLOSE
        np.testing.assert_allclose(np.diff(found[:27]), np.diff(logits[:27]))
        assert np.isfinite(found[END]) == (size != 27)
    plain = next_byte(Bytes(Unsplit()), lambda streams: [np.tile(logits, (2, 1))], b"a")
    np.testing.assert_allclose(plain[END] - plain[0], logits[257] - logits[0])


@pytest.mark.parametrize("name", ["flat", "words", "eow", "bpe"])
def test_a_model(name):
    """Its own log-probabilities: those of `score` where a byte is a symbol; else a distribution
    that bytes are read from.
    """
    lm = language_model(name)
    prompt = TEXT.encode()[:14]
    log_p = lm.log_p
    found = next_byte(lm.codec, log_p, prompt)
    assert abs(np.exp(found).sum() - 1) < CLOSE
    assert np.isfinite(found).all()
    if name in ("flat", "words"):
        (a,), (b,) = lm.score(prompt, complete=False), lm.score(prompt + b"x", complete=False)
        assert -found[ord("x")] == pytest.approx(b.nats - a.nats, abs=CLOSE_MODEL)


def test_too_long():
    lm = language_model("words")
    with pytest.raises(
        ValueError, match="streams: 65 symbols do not fit into a row of 64; shorten the text"
    ):
        next_byte(lm.codec, lm.log_p, b"x" * 64)
    with pytest.raises(
        ValueError,
        match="streams: more than the 24 chunks of level 1 that a row holds; shorten the text",
    ):
        next_byte(lm.codec, lm.log_p, b"a " * 30)
    with pytest.raises(TypeError, match="int has no distribution of bytes: register one"):
        next_byte(3, lm.log_p, b"")


def test_follows_is_what_encoding_does():
    symbols = np.array([v for v in range(SUBWORDS.size) if SUBWORDS.decode([v])])
    for text in map(
        bytes,
        itertools.chain(
            [b"", b"ab 12", b"a  ", b"a\n", b"123", "é".encode()[:1]],
            itertools.product(b"ab ", repeat=3),
        ),
    ):
        stream = SUBWORDS.encode(text, False).token
        expected = [
            np.array_equal(SUBWORDS.encode(text + SUBWORDS.decode([v]), False).token, [*stream, v])
            for v in symbols
        ]
        np.testing.assert_array_equal(SUBWORDS.follows(text, symbols), expected, repr(text))


@pytest.mark.parametrize(
    "text",
    [corpus()[1000:1060], "a  b\n\n 12345, don't é日\t x ".encode(), b"<eos> \xff\x80"],
    ids=["prose", "kinds", "bytes"],
)
def test_a_learned_tokenizer(text):
    """Byte by byte or at once, and every encoding of the text so far is found."""
    codec = tokenizer()

    def log_p(streams):
        rng = np.random.default_rng(0)
        table = np.log(rng.dirichlet(np.ones(codec.size), codec.size))
        return [table[s] for s in streams]

    (cover,) = covers(codec, log_p, [b""])
    for i in range(len(text)):
        (cover,) = extended(log_p, [cover], [text[i]])
        if i % 5 == 0:
            np.testing.assert_allclose(
                cover.next_byte(), next_byte(codec, log_p, text[: i + 1]), atol=CLOSE
            )
