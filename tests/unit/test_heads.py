"""Heads and their targets."""

import jax
import numpy as np
import pytest

from hlm import Heads
from hlm.model.heads import targets_ahead
from hlm.seq import Batch

B, L, D, V = 2, 12, 6, 10
PREDICTED = np.arange(V) != 4


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(heads, y, target=None):
    params = {"head": values(D, heads.ahead, V, seed=9)}
    return jax.jit(lambda p: heads.apply({"params": p}, y, PREDICTED, target))(params), params[
        "head"
    ]


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_likelihoods():
    """A symbol that cannot be a target takes no probability; `hit` is head 1's."""
    y, target = (
        values(B, L, D),
        np.random.default_rng(0).choice(np.flatnonzero(PREDICTED), (B, L, 3)).astype(np.int32),
    )
    (nll, hit), head = run(Heads(ahead=3), y, target)
    logits = np.einsum("bld,dnv->blnv", y, head)
    logits[..., 4] = -1e30
    want = -np.take_along_axis(log_softmax(logits), target[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, want, atol=1e-5)
    assert np.array_equal(hit, logits[:, :, 0].argmax(-1) == target[:, :, 0])
    np.testing.assert_allclose(run(Heads(ahead=3), y)[0], logits, atol=1e-5)


def test_blocks_change_nothing():
    y, target = values(B, L, D), np.zeros((B, L, 2), np.int32)
    whole, blocks = (run(Heads(ahead=2, block=block), y, target)[0] for block in (None, 4))
    np.testing.assert_allclose(whole[0], blocks[0], atol=1e-6)
    assert np.array_equal(whole[1], blocks[1])
    with pytest.raises(ValueError, match="block: 5 does not divide the row length 12"):
        run(Heads(block=5), y, target[..., :1])


def test_targets_never_cross_documents_or_wrap():
    doc = np.array([[1, 1, 1, 2, 2, 0]], np.int32)
    target = np.array([[11, 12, 13, 21, 22, 99]], np.int32)
    weight = np.array([[1, 1, 0.5, 1, 1, 1]], np.float32)
    batch = Batch(target, doc, doc.astype(np.uint8), target, weight, doc.astype(np.uint8))
    ahead, weights = targets_ahead(batch, 3)
    assert weights[0].tolist() == [
        [1, 1, 0.5],
        [1, 0.5, 0],
        [0.5, 0, 0],
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
    ]
    assert [
        [t for t, w in zip(a, b, strict=True) if w]
        for a, b in zip(ahead[0].tolist(), weights[0].tolist(), strict=True)
    ] == [[11, 12, 13], [12, 13], [13], [21, 22], [22], []]
