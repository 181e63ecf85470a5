"""The law of boundaries: the convention of hlm/seq.py against a loop over elements, on random ends,
documents and capacities.
"""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.seq import Seq, boundaries, index_in_document

L, B = 24, 2
CAPACITIES = (1, 3, 8, L)


@st.composite
def rows(draw):
    """(doc, level): documents of random lengths with padding behind them; levels of random
    height.
    """
    doc, level = np.zeros((B, L), np.int32), np.zeros((B, L), np.uint8)
    for row in range(B):
        at = 0
        for number, size in enumerate(draw(st.lists(st.integers(1, L), max_size=5))):
            doc[row, at : at + size] = number + 1
            at += size
        level[row] = draw(
            st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 255]), min_size=L, max_size=L)
        )
    return doc, level


@functools.cache
def compiled(capacity):
    @jax.jit
    def run(doc, level):
        seq = Seq(level.astype(np.int32) * 1000, doc, index_in_document(doc), level)
        b, metrics = boundaries(level >= 1, seq, capacity)
        above = seq.above(b)
        c, _ = boundaries(above.level >= 2, above, capacity)
        return seq, b, metrics, above, c

    return run


def loop(doc, level, capacity):
    """One row by the words of the convention: (at, seen, member, dropped ends)."""
    at, seen, member, dropped = [], np.zeros(L, int), np.full(L, capacity), 0
    open_from = 0  # first element that no chunk holds yet
    for t in range(L):
        if doc[t] and (t == 0 or doc[t] != doc[t - 1]):
            open_from = t
        asked = doc[t] > 0 and (level[t] >= 1 or t == 0 or doc[t] != doc[t - 1])
        if asked and len(at) < capacity:
            member[open_from : t + 1] = len(at)
            at.append(t)
            open_from = t + 1
        elif asked:
            dropped += 1
        seen[t] = max(len(at) - 1, 0)
    return at, seen, member, dropped


@settings(deadline=None, max_examples=60)
@given(rows(), st.sampled_from(CAPACITIES))
def test_boundaries_follow_the_convention(row, capacity):
    doc, level = row
    seq, b, metrics, above, c = jax.device_get(compiled(capacity)(doc, level))
    dropped = 0
    for i in range(B):
        at, seen, member, n = loop(doc[i], level[i], capacity)
        dropped += n
        real = doc[i] > 0
        assert b.used[i].sum() == len(at)
        assert b.used[i, : len(at)].all()
        assert list(b.at[i, : len(at)]) == at
        assert ((b.at[i] >= 0) & (b.at[i] < L)).all()
        assert list(np.flatnonzero(b.ends[i])) == at
        assert np.array_equal(b.member[i][real], member[real])
        assert (b.member[i][~real] == capacity).all(), "padding is pooled"
        assert np.array_equal(b.seen[i], seen)
        # What the loop says in its own words:
        starts = np.flatnonzero(real & (seq.pos[i] == 0))
        assert set(starts[: len(at)]) <= set(at) or dropped, (
            "a document's first element did not end a chunk"
        )
        assert (np.diff(b.seen[i]) >= 0).all()
        for t in np.flatnonzero(real & (b.member[i] < capacity)):
            assert b.at[i, b.member[i, t]] >= t
            assert doc[i, b.at[i, b.member[i, t]]] == doc[i, t], "a chunk holds two documents"
        if not n:
            assert (doc[i][b.at[i][b.seen[i][real]]] == doc[i][real]).all(), (
                "a chunk of another document is seen"
            )
        # One level up: the chunks are a row of documents again.
        assert np.array_equal(above.doc[i, : len(at)], doc[i, at])
        assert (above.doc[i, len(at) :] == 0).all()
        assert np.array_equal(above.level[i, : len(at)], level[i, at])
        assert np.array_equal(above.token[i, : len(at)], level[i, at].astype(int) * 1000)
        position = [sum(doc[i, a] == doc[i, t] for a in at if a < t) for t in at]
        assert list(above.pos[i, : len(at)]) == position
        assert list(np.flatnonzero(b.first[i])) == [
            k for k, index in enumerate(position) if index == 0
        ]
        # Two levels up: ends of level 2 and the documents' first elements, unless level 1 dropped
        # them.
        higher = [t for k, t in enumerate(at) if level[i, t] >= 2 or position[k] == 0]
        assert list(b.at[i][c.at[i][c.used[i]]]) == higher
    asked = ((level >= 1) | (seq.pos == 0)) & (doc > 0)
    assert metrics["overflow"].total == dropped
    assert metrics["overflow"].weight == asked.sum()
    assert metrics["elements_per_chunk"].total == (doc > 0).sum()
    assert metrics["elements_per_chunk"].weight == b.used.sum()


@settings(deadline=None, max_examples=30)
@given(rows(), st.sampled_from(CAPACITIES[:-1]))
def test_overflow_drops_only_the_tail(row, capacity):
    """With room for less, what is left is what there was, up to the last chunk."""
    doc, level = row
    _, full, _, _, _ = jax.device_get(compiled(L)(doc, level))
    _, b, _, _, _ = jax.device_get(compiled(capacity)(doc, level))
    for i in range(B):
        n = min(int(full.used[i].sum()), capacity)
        assert np.array_equal(b.at[i, :n], full.at[i, :n])
        inside = full.member[i] < n
        assert np.array_equal(b.member[i][inside], full.member[i][inside])
        assert np.array_equal(b.seen[i], np.minimum(full.seen[i], max(n - 1, 0)))
