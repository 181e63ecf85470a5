"""Texts with gaps: their symbols, their place in training, and models that fill them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm import (
    BPE,
    FIM,
    LM,
    AdamW,
    Attention,
    Block,
    Bytes,
    Data,
    Embed,
    Experiment,
    FIMCodec,
    Infill,
    LanguageModel,
    Mesh,
    Stack,
    SwiGLU,
    TextFiles,
    config,
)
from hlm.data.pack import Budget, Packer
from hlm.data.pipeline import batches
from hlm.evals import fill
from hlm.infer.automaton import automaton, read
from hlm.seq import Batch
from hlm.split import HatSplitter, Unsplit, WordGroups, Words
from hlm.train.step import check, init_state, train_step
from hlm.vocab import EOS, EVERY_LEVEL, Characters, utf8
from tests.laws.subjects import experiment, random_params, small, texts

TEXT = "Call me Ishmaël. Some years ago -- never mind how long\n".encode()
CODECS = {
    "flat": Bytes(Unsplit()),
    "words": Bytes(Words()),
    "eow": Bytes(Words(longest=5, eow=True)),
    "groups": Bytes(WordGroups(counts=(1, 2))),
    "hat": Bytes(HatSplitter()),
    "utf8": utf8(Words()),
    "bpe": BPE.train([TEXT] * 3, 300),
}
every_codec = pytest.mark.parametrize(
    "codec", [FIMCodec(codec) for codec in CODECS.values()], ids=CODECS
)
WORDS = FIMCodec(CODECS["words"])
parts = st.text(max_size=20).map(str.encode) | st.sampled_from([TEXT, b"", b"one two", b"  "])
few = settings(deadline=None, max_examples=40)


@every_codec
@few
@given(before=parts, after=parts)
def test_symbols(codec, before, after):
    whole = codec.encode_infill(before, after, complete=True)
    marks = [0, 1, int(np.flatnonzero(whole.token == codec.prefix)[0])]
    assert whole.token[marks].tolist() == [codec.bos, codec.suffix, codec.prefix]
    assert np.flatnonzero(whole.level == EVERY_LEVEL).tolist() == marks
    assert codec.decode(whole.token) == after + before
    np.testing.assert_array_equal(
        whole.token[2 : marks[2]], codec.codec.encode(after, complete=False).token[1:]
    )
    assert whole.nbytes.sum() == len(after + before)
    np.testing.assert_array_equal(
        whole.weight, np.where(np.isin(np.arange(len(whole.token)), marks[1:]), 0, 1)
    )
    assert codec.predicted[whole.token[whole.weight > 0][1:]].all()
    assert not codec.predicted[whole.token[whole.weight == 0]].any()
    open_one = codec.encode_infill(before, after, complete=False)
    np.testing.assert_array_equal(codec.levels(open_one.token), open_one.level)
    assert whole.token[-1] == codec.eos != open_one.token[-1]


@every_codec
@few
@given(before=parts, missing=parts, after=parts)
def test_a_prompt_is_the_beginning_of_what_is_trained(codec, before, missing, after):
    """So that whatever the gap cuts goes on in it. (Subwords may be cut in other ways there.)"""
    prompt, trained = (
        codec.encode_infill(before, after, complete=False),
        codec.encode_infill(before + missing, after, complete=True),
    )
    if not isinstance(codec.codec, BPE):
        for a, b in zip(prompt[:3], trained[:3], strict=True):
            np.testing.assert_array_equal(a, b[: len(a)])


@every_codec
def test_levels_symbol_by_symbol(codec):
    gaps = [
        (b" two", b"one"),
        (b"two ", b" one "),
        (b"", b"123 45"),
        (b"six\n", b"7"),
        (b"of many more", b"a word"),
    ]
    encoded = [codec.encode_infill(*gap, complete=False) for gap in gaps]
    token_BL, live_BL = np.zeros((len(gaps), 40), np.int32), np.zeros((len(gaps), 40), bool)
    for row, e in enumerate(encoded):
        token_BL[row, : len(e.token) - 1], live_BL[row, : len(e.token) - 1] = e.token[1:], True
    machine = automaton(codec)
    _, level_BL = jax.jit(lambda token, live: read(machine, machine.start(len(gaps)), token, live))(
        token_BL, live_BL
    )
    for row, e in enumerate(encoded):
        np.testing.assert_array_equal(np.asarray(level_BL)[row][live_BL[row]], e.level[1:])


@every_codec
def test_texts_without_a_gap_are_as_they_were(codec):
    for a, b in zip(codec.encode(TEXT), codec.codec.encode(TEXT), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not codec.predicted[codec.codec.size :].any()


def test_a_codec_needs_an_end():
    with pytest.raises(ValueError, match=r"FIMCodec\.codec: .* never predicts EOS"):
        FIMCodec(Characters(Unsplit()))


# --- training


def ends_of_gaps(text, count):
    rng = np.random.default_rng(0)
    found = [FIM(rate=1).encode(WORDS, text, True, rng) for _ in range(count)]
    return np.array([e.nbytes[np.flatnonzero(e.token == WORDS.prefix)[0] :].sum() for e in found])


def test_the_end_of_a_gap_is_the_later_of_two_places_between_characters():
    text = "äöü€𝄞ab".encode()
    starts = np.cumsum([0, 2, 2, 2, 3, 4, 1, 1])
    ends = ends_of_gaps(text, 4000)
    assert set(ends) == set(starts)
    share = np.array([np.mean(ends == s) for s in starts])
    np.testing.assert_allclose(share, (2 * np.arange(8) + 1) / 64, atol=0.02)


def test_a_share_of_the_records_has_gaps():
    rng = np.random.default_rng(0)
    found = [FIM(rate=0.25).encode(WORDS, b"one two", False, rng) for _ in range(2000)]
    gaps = [e for e in found if e.whole]
    assert 0.2 < len(gaps) / 2000 < 0.3
    assert all(e.token[-1] == EOS for e in gaps)  # filled, though the record is not complete
    assert all(e.token[-1] != EOS for e in found if not e.whole)
    with pytest.raises(ValueError, match=r"FIM.rate is 0; give a share"):
        FIM(rate=0)


def test_texts_with_gaps_stay_whole():
    gap, plain = WORDS.encode_infill(b"aa " * 5, b"bb " * 5, True), WORDS.encode(b"cc " * 10)
    packer = Packer(Budget(48, (40,)))
    rows = [row for e in (plain, gap, gap, plain, gap) for row in packer.add(e)] + packer.flush()
    pieces = [
        row["target"][row["doc"] == d].tolist()
        for row in rows
        for d in range(1, row["doc"].max() + 1)
    ]
    assert pieces.count(gap.token[1:].tolist()) == 3
    assert sum(p.count(ord("c")) for p in pieces) == 40  # nothing is lost
    assert len([p for p in pieces if ord("c") in p]) == 3, (
        "the second text without a gap fills a row up and goes on in the next"
    )
    longer = WORDS.encode_infill(b"aa " * 20, b"bb " * 20, True)
    assert (
        sum(np.count_nonzero(row["doc"]) for row in [*packer.add(longer), *packer.flush()])
        == len(longer.token) - 1
    )


@pytest.fixture
def data(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"{i} {TEXT.decode()}" for i in range(40)))
    return Data(TextFiles((str(tmp_path / "text.txt"),), piece=60), 64, fim=FIM(0.5))


def batch_iterator(data, codec=WORDS, seed=0):
    return batches(data, codec, Budget(64, (64,)), 2, seed)


def test_gaps_change_from_epoch_to_epoch_and_go_on_bit_for_bit(data):
    iterator = batch_iterator(data)
    first = [next(iterator) for _ in range(40)]
    rows = [row.tobytes() for batch in first for row in batch["token"]]
    assert len(set(rows)) > 0.8 * len(rows), "records are read with other gaps each time"
    for k in (3, 17):
        again = batch_iterator(data)
        for _ in range(k):
            next(again)
        state = json.loads(json.dumps(again.get_state()))
        later = batch_iterator(data)
        later.set_state(state)
        for expected in first[k:]:
            got = next(later)
            for field, values in expected.items():
                np.testing.assert_array_equal(got[field], values)
    other = batch_iterator(dataclasses.replace(data, fim=FIM(0.25)))
    with pytest.raises(ValueError, match=r"gaps was \{'rate': 0.5\} and is \{'rate': 0.25\}"):
        other.set_state(iterator.get_state())


def test_gaps_need_their_symbols(data):
    with pytest.raises(ValueError, match=r"Data\.fim: Bytes has no symbols for gaps"):
        batch_iterator(data, WORDS.codec)
    exp = experiment("configs/hat.py:tiny_gaps")
    wrong = config.replace(exp, model=config.replace(exp.model, embed=Embed(exp.model.embed.width)))
    mesh = Mesh().make(jax.devices()[:1])
    with pytest.raises(ValueError, match=r"model\.embed\.size: 260 vectors for the 262 symbols"):
        check(wrong, mesh, init_state(wrong, mesh)[0])


# --- filling


@pytest.fixture(scope="module")
def lm():
    exp = small("configs/hat.py:tiny_gaps")
    return LanguageModel(
        exp, random_params(exp.model, exp.data.length), Mesh().make(jax.devices()[:1])
    )


PROMPTS = [
    Infill("Call me Ish", "ael. Some"),
    "Call me Ish",
    Infill("", " the end"),
    Infill("漢".encode()[:2], "字 €"),
    Infill("one two ", ""),
]


def greedy(lm, gap, count):
    """Without caches: the whole text is read for every byte."""
    made = b""
    while len(made) < count:
        before, after = (
            part.encode() if isinstance(part, str) else part for part in (gap.prefix, gap.suffix)
        )
        stream = lm.codec.encode_infill(before + made, after, complete=False).token
        symbol = int(np.argmax(lm.log_p([stream])[0][-1]))
        if symbol == lm.codec.eos:
            break
        made += lm.codec.decode([symbol])
    return made


def test_gaps_are_filled_as_read_at_once(lm):
    made = lm.generate(PROMPTS, 12)
    for prompt, got in zip(PROMPTS, made, strict=True):
        assert lm.generate(prompt, 12) == [got], "a row alone"
        if isinstance(prompt, Infill):
            assert got == greedy(lm, prompt, 12)
    assert made[0] != made[1], "what comes after the gap counts"
    sampled = lm.generate(PROMPTS[0], 12, temperature=1.0, seed=3)[0]
    assert "".join(lm.stream(PROMPTS[0], 12, temperature=1.0, seed=3)) == sampled.decode(
        errors="replace"
    )


def test_scores(lm):
    (score,) = lm.score(Infill("Call me", " Ishmael"))
    encoded = lm.codec.encode_infill(b"Call me", b" Ishmael", complete=True)
    log_p = lm.log_p([encoded.token[:-1]])[0]
    nats = np.where(
        encoded.weight[1:] > 0, -log_p[np.arange(len(encoded.token) - 1), encoded.token[1:]], 0
    )
    assert score.nbytes == 15
    assert score.nats == pytest.approx(nats.sum(), rel=1e-4)
    np.testing.assert_allclose(score.per_byte[:8], nats[1:9], rtol=1e-3)
    assert score.chunks == np.count_nonzero(encoded.level)
    long = next(texts(0, 400, 400))  # several rows
    (score,) = lm.score(Infill(long[:300], long[300:]))
    assert score.nbytes == 400
    assert 0 < score.nats < 400 * 10
    assert (score.per_byte > 0).all()


def test_only_models_for_it_fill_gaps(lm):
    exp = small("configs/hat.py:tiny")
    plain = LanguageModel(exp, random_params(exp.model, exp.data.length), lm.mesh)
    with pytest.raises(
        ValueError,
        match=r"an Infill, but the model was not made to fill any: "
        r"its codec is Bytes, not FIMCodec",
    ):
        plain.generate(Infill("a", "b"), 5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of texts of a letter, a digit and another letter, so many further on in the
    alphabet.
    """
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("gaps") / "text.txt"
    path.write_text(
        "\n".join(
            further(a, d)
            for a, d in zip(rng.integers(0, 6, 3000), rng.integers(0, 4, 3000), strict=True)
        )
    )
    source, codec = TextFiles((str(path),), separator="\n"), FIMCodec(Bytes(Unsplit()))
    model = LM(codec, Embed(32, codec.size), Stack(2, Block(Attention(2), SwiGLU(64))))
    optim = AdamW(peak=6e-3, warmup=20)
    exp = Experiment(
        model=model,
        data=Data(source, 64, fim=FIM()),
        valid=source,
        test=source,
        optim=optim,
        steps=250,
        rows=8,
    )
    mesh = Mesh().make(jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = init_state(exp, mesh)[2]()
        step = jax.jit(lambda state, batch: train_step(exp, state, batch)[0], donate_argnums=0)
        data = batches(exp.data, codec, Budget(64), exp.rows, exp.seed)
        for _ in range(exp.steps):
            state = step(state, Batch(**next(data)))
    return LanguageModel(exp, state.params, mesh)


def further(a, d):
    return f"{chr(97 + a)}{d}{chr(97 + a + d)}"


def test_a_model_learns_to_fill_gaps(trained):
    """What belongs into these follows from both sides only."""
    asked = [(a, d) for a in range(6) for d in range(4)]
    made = trained.generate([Infill(further(a, d)[0], further(a, d)[2]) for a, d in asked], 8)
    assert (
        np.mean([text == str(d).encode() for text, (_, d) in zip(made, asked, strict=True)]) > 0.9
    )


# --- evaluation


def test_holes_are_cut_between_characters_and_repeat():
    documents = ["äöü€𝄞ab cd".encode() * 50, b"short", b"x" * 500]
    found = fill.holes(documents, 0)
    assert found == fill.holes(documents, 0) != fill.holes(documents, 1)
    assert len(found) == fill.GAPS
    for hole in found:
        joined = hole.before + hole.middle + hole.after
        assert any(joined in text for text in documents)
        assert 1 <= len(hole.middle.decode()) <= fill.LONGEST
        assert max(len(hole.before.decode()), len(hole.after.decode())) <= fill.AROUND
    with pytest.raises(ValueError, match="no document has more than 120 characters"):
        fill.holes([b"short"], 0)


def test_surprise_is_that_at_what_is_missing(lm, monkeypatch):
    monkeypatch.setattr(fill, "GAPS", 6)
    monkeypatch.setattr(fill, "AROUND", 30)  # so that all fits into a row
    documents, codec = [next(texts(0, 300, 300))], lm.codec
    got, found = fill.evaluate(lm, documents), fill.holes(documents, 0)
    total = sum(len(h.middle) for h in found)
    assert (got["gaps"], got["bytes"]) == (6, total)
    for way, streams in {
        "": [codec.encode_infill(h.before + h.middle, h.after, False).token for h in found],
        "_without_suffix": [codec.encode(h.before + h.middle, False).token for h in found],
    }.items():
        nats = 0.0
        for log_p, stream, h in zip(lm.log_p(streams), streams, found, strict=True):
            missing = np.arange(len(stream) - len(h.middle), len(stream))
            nats -= log_p[missing - 1, stream[missing]].sum()
        assert got[f"bits_per_byte{way}"] == pytest.approx(nats / np.log(2) / total, rel=1e-3)


def test_a_model_that_fills_gaps_is_told_from_one_that_goes_on(trained, monkeypatch):
    monkeypatch.setattr(fill, "LONGEST", 1)
    monkeypatch.setattr(fill, "AROUND", 1)
    found = fill.evaluate(trained, [further(a, d).encode() for a in range(6) for d in range(4)])
    assert (
        found["exact_given_length"]
        >= found["exact"]
        > 1.3 * found["exact_given_length_without_suffix"]
        > 0
    )
    assert found["bits_per_byte"] < 0.85 * found["bits_per_byte_without_suffix"]
