"""Rows hold every symbol once, within their budget, with the meaning of `hlm.seq.Batch`."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.data.pack import FIELDS, Budget, Packer, empty_row, stack, windows
from hlm.seq import Batch
from hlm.split import Fixed, Unsplit, WordGroups, Words
from hlm.vocab import BOS, EVERY_LEVEL, Bytes

texts = st.lists(st.text("ab .\n1é", max_size=60).map(str.encode), max_size=8)
splitters = st.sampled_from(
    [Words(4), Words(4, eow=True), WordGroups((1, 2), 5), Fixed(3), Unsplit()]
)
budgets = st.builds(
    lambda length, shares: Budget(
        length, tuple(np.minimum.accumulate([max(1, length * s // 8) for s in shares]).tolist())
    ),
    st.integers(1, 50),
    st.lists(st.integers(1, 8), max_size=2),
)


def check_row(row, budget):
    """The row is whole and within its budget; returns its pieces as slices."""
    assert {name: (a.dtype, a.shape) for name, a in row.items()} == {
        n: (np.dtype(t), (budget.length,)) for n, t in FIELDS.items()
    }
    doc = row["doc"]
    used = int((doc > 0).sum())
    assert (doc[:used] > 0).all()
    assert (np.diff(doc[:used], prepend=0) <= 1).all()
    assert (np.diff(doc[:used]) >= 0).all()
    for k, chunks in enumerate(budget.chunks, 1):
        assert ((row["level"] >= k) & (doc > 0)).sum() <= chunks
    assert (row["weight"][used:] == 0).all()
    edges = [*np.flatnonzero(np.diff(doc[:used], prepend=0)).tolist(), used]
    pieces = [slice(a, b) for a, b in itertools.pairwise(edges)]
    for piece in pieces:
        assert row["token"][piece][0] == BOS
        assert row["level"][piece][0] == EVERY_LEVEL
        np.testing.assert_array_equal(row["token"][piece][1:], row["target"][piece][:-1])
    return pieces


def pack(budget, encoded):
    packer = Packer(budget)
    return [row for e in encoded for row in packer.add(e)] + packer.flush()


@settings(max_examples=150, deadline=None)
@given(texts, splitters, budgets)
def test_every_symbol_is_a_target_once(texts, splitter, budget):
    codec = Bytes(splitter)
    encoded = [codec.encode(t) for t in texts]
    rows = pack(budget, encoded)
    fields = {name: [] for name in FIELDS}
    inputs = []  # the level of every symbol as an input, where it is one
    for row in rows:
        pieces = check_row(row, budget)
        assert pieces
        for piece in pieces:
            for name in FIELDS:
                fields[name].append(row[name][piece])
            inputs.append(np.append(row["level"][piece][1:], EVERY_LEVEL))
    got = {
        name: np.concatenate([np.zeros(0, FIELDS[name]), *parts]) for name, parts in fields.items()
    }
    np.testing.assert_array_equal(
        got["target"], np.concatenate([[], *(e.token[1:] for e in encoded)])
    )
    np.testing.assert_array_equal(
        got["nbytes"], np.concatenate([[], *(e.nbytes[1:] for e in encoded)])
    )
    level, known = (
        np.concatenate([[], *(e.level[1:] for e in encoded)]),
        np.concatenate([[], *inputs]),
    )
    np.testing.assert_array_equal(known[known < EVERY_LEVEL], level[known < EVERY_LEVEL])
    assert got["weight"].sum() == sum(len(e.token) - 1 for e in encoded)
    assert got["nbytes"][got["weight"] > 0].sum() == sum(map(len, texts))


@settings(max_examples=150, deadline=None)
@given(st.text("ab .\n1é", max_size=150).map(str.encode), splitters, budgets, st.integers(0, 60))
def test_windows_score_every_symbol_once_in_order(text, splitter, budget, context):
    encoded = Bytes(splitter).encode(text)
    context = min(context, budget.length - 1)
    at = 1
    for i, (row, start, stop) in enumerate(windows(encoded, budget, context)):
        (piece,) = check_row(row, budget)
        assert start == at < stop
        scored = row["weight"] > 0
        np.testing.assert_array_equal(row["target"][scored], encoded.token[start:stop])
        np.testing.assert_array_equal(row["nbytes"][scored], encoded.nbytes[start:stop])
        before = piece.stop - (stop - start)
        assert before <= context
        assert not scored[:before].any()
        assert i or not before
        np.testing.assert_array_equal(row["target"][:before], encoded.token[start - before : start])
        at = stop
    assert at == len(encoded.token)


def test_windows_use_the_context_that_they_may():
    encoded = Bytes(Words()).encode(b"abcdefgh " * 40)
    found = windows(encoded, Budget(64, (64,)), 32)
    assert all(
        (w.row["weight"] == 0)[: int((w.row["doc"] > 0).sum())].sum() >= 24 for w in found[1:]
    )
    narrow = windows(encoded, Budget(64, (4,)), 32)
    # half of four chunks are left for what is new
    assert all(w.stop - w.start >= 9 for w in narrow[:-1])


def test_the_last_symbol_of_an_open_text_takes_no_chunk():
    prompt = Bytes(Words()).encode(b"a b ", complete=False)
    rows = pack(Budget(32, (6,)), [prompt] * 3)
    assert [row["doc"].max() for row in rows] == [3]


def test_a_long_text_is_cut_behind_a_word():
    budget = Budget(16, (16,))
    rows = pack(budget, [Bytes(Words()).encode(b"aaaa bbbbbbb cccccccccccccccccccc")])
    cuts = [bytes(row["target"][row["weight"] > 0].astype(np.uint8)) for row in rows[:-1]]
    assert cuts == [b"aaaa bbbbbbb ", b"c" * 16]


def test_a_text_is_not_started_in_a_short_rest():
    codec, budget = Bytes(Unsplit()), Budget(32)
    rows = pack(budget, [codec.encode(b"a" * 25), codec.encode(b"b" * 40)])
    assert rows[0]["doc"].max() == 1
    rows = pack(budget, [codec.encode(b"a" * 25), codec.encode(b"b" * 5)])
    assert len(rows) == 1
    assert rows[0]["doc"].tolist() == [1] * 26 + [2] * 6
    rows = pack(budget, [codec.encode(b"a" * 23), codec.encode(b"b" * 40)])
    assert rows[0]["doc"].tolist() == [1] * 24 + [2] * 8


def test_rows_are_batches():
    batch = Batch(**stack([empty_row(Budget(5))] * 3))
    assert batch.token.shape == (3, 5)
    assert list(FIELDS) == list(Batch.__dataclass_fields__)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(0), "Budget.length=0"),
        (lambda: Budget(8, (0,)), "for BOS"),
        (lambda: Budget(8, (9,)), "below"),
        (lambda: Budget(8, (4, 5)), "below"),
        (lambda: windows(Bytes(Unsplit()).encode(b"a"), Budget(8), 8), "context=8"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
