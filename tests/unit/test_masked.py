"""Masked models: what they hide and what they are asked."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import (
    AdamW,
    Attention,
    Bytes,
    Chain,
    Data,
    Embed,
    Experiment,
    Hierarchy,
    LanguageModel,
    Level,
    Mesh,
    PostNormBlock,
    Stack,
    TextFiles,
    WordPositions,
)
from hlm.model.lm import abstract_params
from hlm.model.pool import Attend, Select
from hlm.model.segment import SeenWithin
from hlm.model.unpool import Repeat, Scatter
from hlm.nn.feed_forward import GELU
from hlm.papers.byte2word import PieceHeads
from hlm.papers.masked import MaskedLM, Spell, WholeWords
from hlm.seq import Batch, Seq, boundaries, index_in_document
from hlm.split import SpaceLike, Words
from hlm.subwords import _FROM_ALPHABET, WordPieces
from hlm.train import step
from hlm.vocab import EOW, MASK, utf8
from tests.laws.subjects import corpus, experiment, open_row

LENGTH, WIDTH, LONGEST = 96, 16, 8
TEXT = b"the old whale  swam\nbelow the unfathomable ship, and none saw it"


@functools.cache
def pieces():
    return WordPieces.train([corpus()[:20_000]], 300)


def stack(per_chunk=False):
    block = PostNormBlock(
        Attention(2, window=LONGEST + 1 if per_chunk else None, causal=False), GELU(32)
    )
    return Stack(1, block, per_chunk=per_chunk)


def hlm(**changes):
    inside, behind = stack(per_chunk=True), stack(per_chunk=True)
    trunk = Hierarchy(
        inside,
        SeenWithin(Level(1)),
        Select(WIDTH, project=False),
        stack(),
        Scatter(),
        behind,
        capacity=32,
    )
    return MaskedLM(
        **(
            dict(
                codec=Bytes(Words(LONGEST, eow=True)),
                embed=Embed(WIDTH, positions=WordPositions(LONGEST + 1)),
                trunk=trunk,
                heads=Spell(),
            )
            | changes
        )
    )


def byte2word(**changes):
    pool = Attend(WIDTH, queries=2, heads=2)
    trunk = Hierarchy(
        Chain(()), SeenWithin(Level(1)), pool, stack(), Repeat(), Chain(()), capacity=32
    )
    codec = Bytes(Words(LONGEST, eow=True), labels=pieces())
    heads = PieceHeads(pieces().size, slots=LONGEST, most=24)
    return MaskedLM(
        **(
            dict(
                codec=codec,
                embed=Embed(8, positions=WordPositions(LONGEST + 1)),
                trunk=trunk,
                heads=heads,
            )
            | changes
        )
    )


MODELS = {"hlm": hlm, "byte2word": byte2word}
each_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def language_model(name):
    """With random parameters, large ones, so that its guesses are far from even."""
    model = MODELS[name]()
    text = TextFiles(("corpus:mobydick/test.txt",))
    exp = Experiment(
        model=model,
        data=Data(text, LENGTH),
        valid=text,
        test=text,
        optim=AdamW(1e-3, 0),
        steps=1,
        rows=4,
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype), abstract_params(model, LENGTH)
    )
    return LanguageModel(exp, params, Mesh().make(jax.devices()[:1]))


def words_of(text):
    """Where the letters of each word stand among the symbols of a text: [(start, stop)], BOS being
    0.
    """
    symbol, found = 0, []
    spans = re.finditer(rb"(\S*)(\s*)", text)
    for m in spans:
        for k in range(0, len(m[1]), LONGEST):  # a word that is too long is several
            part = m[1][k : k + LONGEST]
            found.append((symbol + 1, symbol + 1 + len(part)))
            last = k + LONGEST >= len(m[1])
            symbol += len(part) + (1 if not last else 0)
        symbol += len(m[2]) + (1 if m[0] else 0)
    return found


def test_words_are_masked_replaced_or_kept_at_their_rates():
    words = 4000
    text = np.random.default_rng(0).integers(97, 123, (words, 5)).astype(np.int32)
    text[:, 3], text[:, 4] = ord(" "), EOW
    token = jnp.asarray(np.concatenate([[256], text.ravel()]))[None]
    doc = jnp.ones_like(token)
    level = jnp.asarray(np.concatenate([[255], np.tile([0, 0, 0, 0, 1], words)]), jnp.uint8)[None]
    seq = Seq(token, doc, index_in_document(doc), level)
    b, _ = boundaries(level >= 1, seq, words + 1)
    hidden, read = WholeWords(0.3, 0.6, 0.3)(
        jax.random.key(0), seq, b, (token < 256) & (token != 32)
    )
    hidden, read = (np.asarray(a)[0, 1:].reshape(words, 5) for a in (hidden, read))
    assert not hidden[:, 3:].any()
    assert (hidden[:, 0] == hidden[:, 2]).all()
    assert (read[~hidden] == text[~hidden]).all()
    chosen, shown = text[hidden[:, 0], :3], read[hidden[:, 0], :3]
    assert len(chosen) / words == pytest.approx(0.3, abs=0.02)
    is_masked, kept = (shown == MASK).all(axis=1), (shown == chosen).all(axis=1)
    assert is_masked.mean() == pytest.approx(0.6, abs=0.04)
    assert kept.mean() == pytest.approx(0.1, abs=0.03)
    bytes_ = shown[~is_masked & ~kept]
    assert (bytes_ < 256).all()
    assert np.abs(np.histogram(bytes_, 4, (0, 256))[0] / bytes_.size - 0.25).max() < 0.05
    assert abs(np.corrcoef(bytes_[:, 0], bytes_[:, 1])[0, 1]) < 0.15


@each_model
def test_loss_counts_what_is_asked(name):
    """The weights known before the forward pass are those of the forward pass, for a key and
    without one.
    """
    lm = language_model(name)
    rows = [
        open_row(lm.experiment, lm.codec.encode(corpus()[i : i + 90])) for i in range(0, 8000, 1000)
    ]
    batch = Batch(**{field: np.stack([row[field] for row in rows]) for field in rows[0]})
    for rngs in ({}, {"mask": jax.random.key(5)}):
        answer, weight = lm.model.apply({}, batch, method="targets", rngs=rngs)
        out = jax.jit(lambda params, rngs: lm.model.apply({"params": params}, batch, rngs=rngs))(
            lm.params, rngs
        )
        np.testing.assert_array_equal(weight, out.weight_BLN)
        assert weight.sum() > 0
        assert int(out.nbytes_BL.sum()) >= int(weight.sum())
        assert (answer[weight > 0] >= 0).all()


def test_slots_ask_for_so_many_pieces_of_a_row():
    model = byte2word(heads=PieceHeads(pieces().size, slots=2, most=5))
    row = open_row(language_model("byte2word").experiment, model.codec.encode(TEXT))
    batch = Batch(**{field: a[None] for field, a in row.items()})
    _, b = model.words(batch)
    letter = (batch.token < 256) & ~np.isin(batch.token, [32, 10]) & (batch.doc > 0)
    q = model.heads.questions(batch, b, jnp.asarray(letter))
    begins = np.flatnonzero(row["label"])
    assert len(begins) > len(words_of(TEXT))
    assert list(np.flatnonzero(q.asked[0])) == list(begins[:5])
    by = [max((k for k in begins if k <= t), default=-1) for t in np.flatnonzero(letter[0])]
    assert list(np.asarray(q.by)[letter]) == by
    # A row may begin inside a piece, behind another document: nobody answers for its letters then.
    start, stop = words_of(TEXT)[4]
    batch.label[0, start] = 0
    q = model.heads.questions(batch, b, jnp.asarray(letter))
    second = min((k for k in begins if k > start), default=stop)
    assert set(np.asarray(q.by)[0, start : min(second, stop)]) == {-1}


def test_the_letters_of_a_special_symbol_are_letters():
    marks = pieces().marks(b"a<eos>b c", np.array([0, 0, 0, 0, 0, 0, 0, 1, 1], np.uint8))
    assert set(marks[marks > 0] - 1).isdisjoint({0, 1}), "a piece that stands for no text"


def test_pieces_lie_within_words_and_spell_them():
    """Also where a word is too long, and where a text begins or ends with blanks."""
    codec = Bytes(Words(longest=5, eow=True), labels=pieces())
    text = b" \n the unfathomable\twhale \xff\xfe, 12345678 "
    encoded = codec.encode(text)
    vocabulary = {i: piece for piece, i in pieces()._model.get_vocab().items()}
    spelled = {}
    for at in np.flatnonzero(encoded.label):
        piece = bytes(_FROM_ALPHABET[c] for c in vocabulary[encoded.label[at] - 1])
        spelled |= {at + k: byte for k, byte in enumerate(piece)}
    letters = np.flatnonzero((encoded.token < 256) & ~np.isin(encoded.token, [9, 10, 32]))
    assert list(spelled) == list(letters)
    assert list(spelled.values()) == encoded.token[letters].tolist()
    first = np.flatnonzero(encoded.level[:-1]) + 1  # of each word
    first = first[np.isin(first, letters)]
    assert (encoded.label[first] > 0).all()
    assert pieces().size == 300


def test_elements_see_their_own_chunk_and_a_cut_word_sees_none():
    level = jnp.asarray([[255, 0, 1, 0, 0, 1, 0, 0, 0, 0]], jnp.uint8)
    doc = jnp.asarray([[1] * 8 + [0] * 2])
    seq = Seq(jnp.zeros_like(doc), doc, index_in_document(doc), level)
    trunk, none = hlm().trunk, 32
    b, _ = trunk.cut(jnp.zeros((1, 10, 4)), seq)
    b = b.replace(seen=trunk.segmenter.visible(b, seq))
    assert b.seen[0].tolist() == [0, 1, 1, 2, 2, 2, none, none, none, none]
    z = jnp.asarray(np.arange(none, dtype=np.float32) + 1)[None, :, None]
    read = Repeat().apply({}, z, jnp.ones((1, 10, 4)), b)
    assert read[0, :, 0].tolist() == [1, 2, 2, 3, 3, 3, 0, 0, 0, 0]


@each_model
def test_what_a_notebook_may_ask(name):
    lm = language_model(name)
    assert lm.chunks(TEXT)[:3] == [b"the ", b"old ", b"whale  "]
    assert b"".join(lm.chunks(corpus()[:500])) == corpus()[:500]
    (vectors,) = lm.embed(TEXT)
    assert vectors.shape == (len(words_of(TEXT)), WIDTH)
    (other,) = lm.embed(TEXT.replace(b"none saw it", b"some met us"))
    # words before the change know of it too
    assert (np.abs(other - vectors).max(axis=1) > 1e-3).all()
    for ask in (lambda: lm.score("a"), lambda: lm.generate("a", 1)):
        with pytest.raises(ValueError, match=r"looks both ways.*eval\.py --suite masked"):
            ask()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: hlm(codec=utf8(Words())),
            "codec: Renumbered has no symbol MASK beside all bytes; give hlm.Bytes",
        ),
        (
            lambda: hlm(codec=Bytes(SpaceLike())),
            r"codec.split: .* leaves the last word of a text open; give "
            r"hlm.split.Words\(eow=True\)",
        ),
        (
            lambda: byte2word(codec=Bytes(Words(eow=True))),
            "codec.labels: None holds no pieces of words; "
            "hlm.byte2word.PieceHeads needs "
            "hlm.subwords.WordPieces",
        ),
        (
            lambda: byte2word(heads=PieceHeads(299, 8, 8)),
            "heads.size: 299 answers but codec.labels has 300 pieces",
        ),
        (
            lambda: byte2word(heads=PieceHeads(300, 8, 7)),
            r"heads.most: 7 pieces of a row; a word alone may have 8 \(heads.slots\)",
        ),
    ],
)
def test_models_that_cannot_be_asked_are_refused(make, message):
    model, text = make(), TextFiles(("corpus:mobydick/test.txt",))
    exp = Experiment(
        model=model,
        data=Data(text, LENGTH),
        valid=text,
        test=text,
        optim=AdamW(1e-3, 0),
        steps=1,
        rows=1,
    )
    mesh = Mesh().make(jax.devices()[:1])
    with pytest.raises(ValueError, match=message):
        step.check(exp, mesh, step.init_state(exp, mesh)[0])


@pytest.mark.parametrize(
    "shares", [(0.0, 0.8, 0.1), (1.1, 0.8, 0.1), (0.15, 0.8, 0.3), (0.15, -0.1, 0.3)]
)
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match=r"WholeWords\.(share|masked, random): "):
        WholeWords(*shares)


def test_byte2word_embeds_with_a_tenth_of_berts_parameters():
    exp = experiment("configs/byte2word.py:base")
    params = abstract_params(exp.model, exp.data.length)
    reader = (params["embed"], params["trunk"]["pool"])
    bert = (30_522 + 512 + 2) * 768
    assert sum(a.size for a in jax.tree.leaves(reader)) / bert == pytest.approx(0.1, abs=0.005)
