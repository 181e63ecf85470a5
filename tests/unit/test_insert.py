"""Lengthened rows, against a loop over elements."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hlm.model.insert
from hlm.model.insert import insert_before, insert_each
from hlm.seq import Decoding, Seq, index_in_document

L, ROOM = 6, 10
few = settings(deadline=None, max_examples=60)
before_each = jax.jit(insert_before, static_argnames="room")


def by_hand(before, behind=0):
    """What stands at each place of the longer row: [(the element that it belongs to, places from
    that element)].
    """
    return [(t, i) for t, n in enumerate(before) for i in range(-n, 1 + behind)]


def check(longer, row, expected, L):
    """One row of `longer` holds exactly the places `expected`, and nothing behind them."""
    owner, offset = np.asarray(longer.owner_BM[row]), np.asarray(longer.offset_BM[row])
    assert longer.owner_BM.dtype == longer.offset_BM.dtype == longer.place_BL.dtype == jnp.int32
    n = len(expected)
    assert list(zip(owner[:n].tolist(), offset[:n].tolist(), strict=True)) == expected
    assert (owner[n:] == L).all()
    assert longer.used_BM[row].tolist() == [m < n for m in range(len(owner))]
    assert longer.own_BM[row, :n].tolist() == [i == 0 for _, i in expected]
    assert longer.added_BM[row, :n].tolist() == [i != 0 for _, i in expected]
    assert not (longer.own_BM[row, n:] | longer.added_BM[row, n:]).any()
    assert longer.place_BL[row].tolist() == [expected.index((t, 0)) for t in range(L)]


def test_the_row_of_the_docstring():
    """Two before elements 1 and 3, in a row of four with room for eight."""
    lines = [
        line.split() for line in hlm.model.insert.__doc__.splitlines() if line.startswith("    ")
    ]
    row, longer_row, owner, offset, place = lines
    assert (row[0], row[5], longer_row[:2], owner[0], offset[0], place[0]) == (
        "row",
        "before",
        ["longer", "row"],
        "owner",
        "offset",
        "place",
    )
    longer = insert_before(np.array([[int(n) for n in row[6:]]], np.int32), 4)
    assert longer.owner_BM[0].tolist() == [int(t) for t in owner[1:9]]
    assert longer.offset_BM[0].tolist() == [int(i) for i in offset[1:9]]
    assert longer.place_BL[0].tolist() == [int(m) for m in place[1:5]]
    letters = np.array([[ord(c) for c in row[1:5]]])
    shown = np.where(longer.own_BM, longer.spread(letters), ord("+"))[0]
    assert [chr(c) for c in shown] == longer_row[2:]
    assert longer.used_BM.all()


@few
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=L, max_size=L), min_size=2, max_size=2).filter(
        lambda b: max(map(sum, b)) <= ROOM
    )
)
def test_elements_before_each(before):
    longer = before_each(np.array(before, np.int32), room=ROOM)
    assert longer.owner_BM.shape == (2, L + ROOM)
    value_BL2 = np.arange(2 * L * 2).reshape(2, L, 2)
    there = np.asarray(longer.spread(value_BL2))
    for row in range(2):
        expected = by_hand(before[row])
        check(longer, row, expected, L)
        assert there[row, : len(expected)].tolist() == [
            value_BL2[row, t].tolist() for t, _ in expected
        ]
    assert np.array_equal(longer.own(longer.spread(value_BL2)), value_BL2)


@few
@given(
    doc=st.lists(st.integers(1, 2), min_size=L, max_size=L).map(sorted),
    padding=st.integers(0, L),
    before=st.lists(st.integers(0, 2), min_size=L, max_size=L).filter(lambda b: sum(b) <= ROOM),
)
def test_the_longer_sequence(doc, padding, before):
    """What was added is its owner's in every field but the position, which counts on; behind the
    row is padding.
    """
    doc_BL = np.array([[d if t < L - padding else 0 for t, d in enumerate(doc)]], np.int32)
    token_BL, level_BL = 7 + np.arange(L, dtype=np.int32)[None], np.arange(L, dtype=np.uint8)[None]
    shared = types.SimpleNamespace()
    seq = insert_before(np.array([before], np.int32), ROOM).seq(
        Seq(token_BL, doc_BL, index_in_document(jnp.asarray(doc_BL)), level_BL, shared)
    )
    assert seq.shared is shared
    assert seq.decoding is None
    count, places = {}, by_hand(before)
    for m, (t, _) in enumerate(places):
        d = int(doc_BL[0, t])
        assert (int(seq.token[0, m]), int(seq.doc[0, m]), int(seq.level[0, m])) == (7 + t, d, t)
        if d:
            assert int(seq.pos[0, m]) == count.get(d, 0)
            count[d] = count.get(d, 0) + 1
    assert not seq.doc[0, len(places) :].any()


@pytest.mark.parametrize(("before", "behind"), [(0, 0), (0, 1), (2, 0), (1, 2)])
def test_the_same_number_at_every_element(before, behind):
    longer = insert_each(3, L, before=before, behind=behind)
    assert longer.owner_BM.shape == (3, (1 + before + behind) * L)
    for row in range(3):
        check(longer, row, by_hand([before] * L, behind), L)
    if not behind:
        other = insert_before(np.full((3, L), before, np.int32), before * L)
        assert all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(longer), jax.tree.leaves(other), strict=True)
        )


def test_positions_in_decoding_are_given():
    """Elements 5 and 6 of a document in which one element stands behind each: they are at 10 and 12
    of the longer one.
    """
    decoding = Decoding(False, rewind=2, ends=1, capacity=(8, 4), longest=None)
    pos = np.array([[5, 6]], np.int32)
    seq = Seq(pos, np.ones_like(pos), pos, pos.astype(np.uint8), None, decoding)
    longer = insert_each(1, 2, behind=1).seq(seq, 2 * seq.pos, 2, 16)
    assert longer.pos[0].tolist() == [10, 11, 12, 13]
    assert (longer.decoding.rewind, longer.decoding.capacity) == (4, (16, 4))
