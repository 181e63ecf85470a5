"""Scoring: several texts in a row, what long ones read again, and nothing compiled twice."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm import config
from hlm.data.pack import Budget, pieces
from hlm.infer.score import AHEAD, Scorer, scored
from hlm.infer.shared_rows import OPEN, BestFit
from hlm.split import Unsplit, Words
from hlm.vocab import Bytes
from tests.laws.subjects import corpus
from tests.unit.minute_models import LENGTH, TEXT, language_model

CLOSE = 1e-4  # nats; other places in a row mean other orders of summation
WORDS = Bytes(Words())


class Known:
    """Reads rows as a model would, with likelihoods that are known: each symbol costs its number,
    and what it sees of its document besides.
    """

    def __init__(self, budget: Budget, rows: int):
        self.elements = self.batches = 0
        self.scorer = Scorer(self.begin, budget, rows)

    def begin(self, rows):
        assert len(rows) == self.scorer.rows
        self.batches += 1
        out = {"nll": [], "hit": [], "ends": [], "full": np.zeros(len(rows), bool)}
        for row in rows:
            self.elements += np.count_nonzero(row["doc"])
            out["nll"].append(row["target"].astype(float))
            out["hit"].append(row["target"] % 2 == 0)
            out["ends"].append((row["level"] > 0) & (row["doc"] > 0))
        return out


texts_of_words = st.lists(st.text("ab .\n1é", max_size=90).map(str.encode), max_size=40)
budgets = st.sampled_from([Budget(16, (16,)), Budget(32, (6,)), Budget(64, (24, 9)), Budget(40)])


@settings(max_examples=60, deadline=None)
@given(texts_of_words, budgets, st.integers(1, 3), st.integers(0, 15))
def test_every_symbol_is_scored_once(texts, budget, rows, context):
    known = Known(budget, rows)
    encoded = [WORDS.encode(text) for text in texts]
    scores = list(scored(known.scorer, iter(encoded), WORDS.eos, context))
    assert len(scores) == len(texts)
    for text, e, score in zip(texts, encoded, scores, strict=True):
        byte = np.frombuffer(text, np.uint8)
        np.testing.assert_array_equal(score.per_byte, byte)
        np.testing.assert_array_equal(score.hits, byte % 2 == 0)
        assert score.nats == e.token[1:].sum()
        assert score.nats_of_end == WORDS.eos
        assert score.symbols == len(e.token) - 1


@settings(max_examples=60, deadline=None)
@given(texts_of_words, budgets)
def test_rows_hold_whole_pieces_and_keep_to_their_budget(texts, budget):
    fit, closed, given_pieces = BestFit(budget), [], {}
    for i, text in enumerate(texts):
        for piece in pieces(WORDS.encode(text), budget, budget.length // 8):
            given_pieces[i, piece.start] = piece
            closed += fit.add(i, piece)
            assert len(fit.open) <= OPEN
    closed += fit.flush()
    found = {(p.of, p.start): (shared, p) for shared in closed for p in shared.places}
    assert found.keys() == given_pieces.keys()
    assert sum(len(shared.places) for shared in closed) == len(found)
    for key, (shared, place) in found.items():
        for name, values in given_pieces[key].row.items():
            if name != "doc":
                np.testing.assert_array_equal(shared.row[name][place.begin : place.end], values)
    for shared in closed:
        row = shared.row
        for level, most in enumerate(budget.chunks, 1):
            assert np.count_nonzero((row["level"] >= level) & (row["doc"] > 0)) <= most
        sizes = [place.end - place.begin for place in shared.places]
        numbers = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        np.testing.assert_array_equal(row["doc"][: len(numbers)], numbers)
        assert not row["doc"][len(numbers) :].any()


@pytest.mark.parametrize("size", [30, 100, 500, None])
def test_rows_are_nearly_full(size):
    """Of texts of equal and of mixed lengths: what is read is at least 0.9 of what rows hold."""
    rng, text = np.random.default_rng(0), corpus()[:60_000]
    sizes = itertools.repeat(size) if size else (int(x) for x in rng.integers(5, 800, 1000))
    texts, at = [], 0
    for n in sizes:
        if at >= len(text):
            break
        texts.append(text[at : at + n])
        at += n
    known, codec = Known(Budget(512, (128,)), 4), Bytes(Words())
    list(scored(known.scorer, map(codec.encode, texts), codec.eos, 64))
    assert known.elements > 0.9 * known.batches * 4 * 512


def test_a_long_document_reads_little_again():
    """By default at most a quarter more than its symbols, also where chunks are the limit."""
    for chunks in (512, 100):
        known, lm = Known(Budget(512, (chunks,)), 2), language_model("words")
        encoded = WORDS.encode(corpus()[:40_000])
        share = lm.context / lm.budget.length
        list(scored(known.scorer, [encoded], WORDS.eos, int(512 * share)))
        assert len(encoded.token) <= known.elements <= 1.25 * len(encoded.token)


def test_texts_come_and_go():
    """Only as many are held as rows that are open or being read hold: results come while texts are
    still to come.
    """
    known, taken, given_back, most = Known(Budget(64, (64,)), 2), 0, 0, 0

    def texts():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield WORDS.encode(b"some words.")

    for _ in scored(known.scorer, texts(), WORDS.eos, 8):
        given_back += 1
        most = max(most, taken - given_back)
    assert given_back == 1000
    assert most <= 5 * (OPEN + 2 * (AHEAD + 2))  # five to a row


def test_nothing_is_compiled_after_the_first_call():
    lm, compiled = language_model("words"), []

    def listen(event, duration_secs, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    lm.score("a")
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for texts in ("", TEXT, ["a"] * 9, corpus()[:700], [TEXT[:n] for n in range(40)]):
            lm.score(texts)
            lm.score(texts, complete=False, context=7)
        assert not compiled
        jax.jit(lambda x: x + len(compiled))(1)  # it does listen
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def crowded():
    """A learned segmenter with room for few chunks: in a shared row one text takes that of
    another.
    """
    lm = language_model("router")
    trunk = config.replace(lm.model.trunk, capacity=20)
    exp = config.replace(lm.experiment, model=config.replace(lm.model, trunk=trunk))
    return type(lm)(exp, lm.params, lm.mesh)


def test_texts_do_not_take_room_from_each_other():
    lm = crowded()
    texts = [TEXT[:n] for n in (5, 20, 33, 9, 40, 11, 6, 28)] + [corpus()[:200]]
    for text, together in zip(texts, lm.score(texts), strict=True):
        (alone,) = lm.score(text)
        np.testing.assert_allclose(together.per_byte, alone.per_byte, atol=CLOSE)
        assert together.chunks == alone.chunks


class Crowded(Known):
    """Finds an end behind each "a" and as many as there are elements behind each "b", and has room
    for 8; of a row that is full it knows nothing right.
    """

    def begin(self, rows):
        out = super().begin(rows)
        for i, row in enumerate(rows):
            chunks = np.where(row["token"] == ord("b"), 3, row["token"] == ord("a")).cumsum()
            out["full"][i] = chunks[-1] >= 8
            out["ends"][i] = (chunks < 8) & (row["doc"] > 0)
            out["nll"][i] = out["nll"][i] if not out["full"][i] or row["doc"].max() < 2 else -1
        return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab.", max_size=90).map(str.encode), max_size=60), st.integers(1, 3))
def test_texts_that_find_no_room_together_are_read_apart(texts, rows):
    codec, known = Bytes(Unsplit()), Crowded(Budget(32), rows)
    found = list(scored(known.scorer, map(codec.encode, texts), codec.eos, 0))
    for text, score in zip(texts, found, strict=True):
        np.testing.assert_array_equal(score.per_byte, np.frombuffer(text, np.uint8))


def test_after_a_few_full_rows_fewer_texts_share_one():
    """And more again where there is room. Of dense texts one has room in a row of 32, of others
    five.
    """
    for dense, plain, most in ((400, 0, 1.2), (10, 2000, 1.5)):
        known, codec = Crowded(Budget(32), 1), Bytes(Unsplit())
        texts = [b"a" * 5] * dense + [b"." * 5] * plain
        list(scored(known.scorer, map(codec.encode, texts), codec.eos, 0))
        assert known.batches < most * (dense + plain / 5)


def test_more_context_is_more_to_see():
    """What long texts read again is an option; the first window is the same with any."""
    lm, text = language_model("flat"), corpus()[:300]
    (usual,), (stated,) = lm.score(text), lm.score(text, context=LENGTH // 8)
    np.testing.assert_array_equal(usual.per_byte, stated.per_byte)
    none, much = (lm.score(text, context=n)[0].per_byte for n in (0, LENGTH - 1))
    np.testing.assert_allclose(none[: LENGTH - 1], much[: LENGTH - 1], atol=CLOSE)
    assert np.abs(none - much)[LENGTH:].max() > CLOSE
    # without context a window begins anew: its first symbol is predicted from BOS alone
    (begun,) = lm.score(text[LENGTH : 2 * LENGTH], complete=False)
    np.testing.assert_allclose(none[LENGTH : 2 * LENGTH], begun.per_byte, atol=CLOSE)


@pytest.mark.parametrize("context", [-1, LENGTH, 1.5, True, "1"], ids=repr)
def test_context_is_checked(context):
    with pytest.raises(ValueError, match=r"^context: ") as raised:
        language_model("flat").score("a", context=context)
    assert "\n" not in str(raised.value)


def test_unsplit_texts_have_no_levels():
    known, codec = Known(Budget(32), 2), Bytes(Unsplit())
    (score,) = scored(known.scorer, [codec.encode(b"a" * 100)], codec.eos, 4)
    assert score.nats == 100 * ord("a") + codec.eos
