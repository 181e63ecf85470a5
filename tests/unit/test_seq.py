"""AuxiliaryLabels of the convention that a reader can follow; the law in tests/laws/test_boundaries.py covers the rest."""

import jax.numpy as jnp
import numpy as np

from hlm.seq import Batch, boundaries, index_in_document, seq_of, take


def batch(doc, level):
    a = np.array([doc], np.int32)
    zeros = np.zeros_like(a)
    return Batch(zeros, a, np.array([level], np.uint8), zeros, zeros.astype(np.float32), zeros.astype(np.uint8))


def test_index_in_document():
    doc = jnp.array([[1, 1, 1, 2, 2, 0, 0], [3, 4, 4, 4, 0, 0, 0]], jnp.int32)
    assert index_in_document(doc).tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 2, 0, 1, 2]]


def test_take():
    x = jnp.arange(12.0).reshape(1, 6, 2)
    assert take(x, jnp.array([[5, 0]])).tolist() == [[[10.0, 11.0], [0.0, 1.0]]]
    assert take(x[..., 0], jnp.array([[5, 0]])).tolist() == [[10.0, 0.0]]


def test_one_row_by_hand():
    """BOS a b_ c | BOS d_ padding, with room for four chunks."""
    seq = seq_of(batch([1, 1, 1, 1, 2, 2, 0], [255, 0, 1, 0, 255, 1, 1]))
    b, metrics = boundaries(seq.level >= 1, seq, 4)
    assert b.ends[0].tolist() == [True, False, True, False, True, True, False]
    assert b.at[0].tolist() == [0, 2, 4, 5]
    assert b.used[0].tolist() == [True] * 4
    assert b.seen[0].tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert b.member[0].tolist() == [0, 1, 1, 4, 2, 3, 4]  # "c" is the tail of its document: in no chunk
    assert metrics["overflow"].total == 0
    above = seq.above(b)
    assert above.doc[0].tolist() == [1, 1, 2, 2]
    assert above.pos[0].tolist() == [0, 1, 0, 1]


def test_first_element_is_an_end_unasked():
    seq = seq_of(batch([1, 1, 2, 2], [0, 0, 0, 0]))
    assert boundaries(seq.level >= 1, seq, 2)[0].ends[0].tolist() == [True, False, True, False]
