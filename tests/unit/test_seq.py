"""Examples of the convention that a reader can follow; the law in tests/laws/test_boundaries.py
covers the rest.
"""

import jax.numpy as jnp
import numpy as np

import hlm.seq
from hlm import Bytes
from hlm.seq import Batch, boundaries, index_in_document, seq_of, take
from hlm.split import Words


def batch(doc, level):
    a = np.array([doc], np.int32)
    zeros = np.zeros_like(a)
    return Batch(
        zeros,
        a,
        np.array([level], np.uint8),
        zeros,
        zeros.astype(np.float32),
        zeros.astype(np.uint8),
    )


def test_index_in_document():
    doc = jnp.array([[1, 1, 1, 2, 2, 0, 0], [3, 4, 4, 4, 0, 0, 0]], jnp.int32)
    assert index_in_document(doc).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 2, 0, 1, 2]]


def test_take():
    x = jnp.arange(12.0).reshape(1, 6, 2)
    assert take(x, jnp.array([[5, 0]])).tolist() == [[[10.0, 11.0], [0.0, 1.0]]]
    assert take(x[..., 0], jnp.array([[5, 0]])).tolist() == [[10.0, 0.0]]


def by_hand():
    """The row in the docstring of hlm/seq.py: {field: its entries}."""
    lines = [
        line.replace("|", " ").split()
        for line in hlm.seq.__doc__.splitlines()
        if line.startswith("    ")
    ]
    size = {"element": 11, "chunk": 4}
    rows, count = {}, 0
    for name, *entries in filter(None, lines):
        count = size.get(name, count)
        rows[name] = entries[:count]
    return rows


def test_one_row_by_hand():
    hand = by_hand()
    assert hand["element"] == [str(t) for t in range(11)]
    assert hand["token"] == ["BOS", "a", "_", "b", "c", "_", "d", "BOS", "x", ".", "."]
    doc, pos, ends, seen = ([int(n) for n in hand[name]] for name in ("doc", "pos", "ends", "seen"))
    texts = [Bytes(Words()).encode(text, complete=False) for text in (b"a bc d", b"x")]
    level = np.concatenate([*(text.level for text in texts), [0, 0]])
    assert [len(text.token) for text in texts] == [doc.count(1), doc.count(2)]
    assert (level > 0).tolist() == [bool(end) for end in ends]
    seq = seq_of(batch(doc, level))
    assert seq.pos[0].tolist() == pos
    for room in (4, 6):  # just enough, and more
        b, metrics = boundaries(seq.level >= 1, seq, room)
        assert b.ends[0].tolist() == [bool(end) for end in ends]
        assert b.seen[0].tolist() == seen
        assert b.member[0].tolist() == [room if m == "-" else int(m) for m in hand["member"]]
        assert hand["chunk"] == [str(s) for s in range(4)]
        assert b.used[0].tolist() == [True] * 4 + [False] * (room - 4)
        assert b.at[0, :4].tolist() == [int(t) for t in hand["at"]]
        assert b.number[0, :4].tolist() == [int(n) for n in hand["number"]]
        assert b.first[0].tolist() == [True, False, False, True] + [False] * (room - 4)
        assert metrics["overflow"].total == 0
        above = seq.above(b)
        assert above.doc[0].tolist() == [1, 1, 1, 2] + [0] * (room - 4)
        assert above.pos[0, :4].tolist() == b.number[0, :4].tolist()


def test_first_element_is_an_end_unasked():
    seq = seq_of(batch([1, 1, 2, 2], [0, 0, 0, 0]))
    assert boundaries(seq.level >= 1, seq, 2)[0].ends[0].tolist() == [True, False, True, False]
