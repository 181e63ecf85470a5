"""Registers: what they see, what sees them, and what they predict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import LM, Attention, Block, Bytes, Embed, Heads, Stack, SwiGLU, config
from hlm.model.objective import Ahead
from hlm.papers.mutor import Registers
from hlm.seq import Batch, seq_of
from hlm.split import Unsplit
from hlm.train.loss import loss_and_metrics
from hlm.vocab import utf8
from tests.laws.subjects import random_params

L = 16
CLOSE = 1e-5
REGISTERS = Registers(farthest=3)
MODEL = LM(
    codec=Bytes(Unsplit()),
    embed=Embed(16),
    trunk=Stack(2, Block(Attention(2), SwiGLU(16))),
    heads=Heads(ahead=2),
    objectives=(Ahead(), REGISTERS),
)


PARAMS = jax.tree.map(jnp.asarray, random_params(MODEL, L))


def batch_of(doc, seed=0):
    doc = np.array([doc], np.int32)
    rng = np.random.default_rng(seed)
    token, target = (rng.integers(0, 256, doc.shape).astype(np.int32) for _ in range(2))
    byte = np.ones(doc.shape, np.uint8)
    return Batch(token, doc, byte, target, (doc > 0).astype(np.float32), byte)


@functools.cache
def read():
    """(registers by turns with their elements [1, 2L, D], with these steps ahead [1, L])."""

    @jax.jit
    def run(batch, ahead_BL):
        return MODEL.apply(
            {"params": PARAMS}, REGISTERS.beside(seq_of(batch), ahead_BL).seq, method="read"
        )[0]

    return lambda batch, ahead: np.asarray(
        run(batch, np.broadcast_to(np.int32(ahead), batch.doc.shape))
    )


DOCS = [1] * 9 + [2] * 5 + [0] * 2


def test_elements_see_no_register():
    batch = batch_of(DOCS)
    plain = MODEL.apply({"params": PARAMS}, batch, method="hidden")[0]
    with_registers = read()(batch, 2)
    np.testing.assert_allclose(with_registers[:, ::2], plain, atol=CLOSE)
    assert np.abs(with_registers[:, 1::2] - plain).min() > CLOSE


def test_registers_see_what_came_before_and_how_far_to_look():
    batch = batch_of(DOCS)
    changed = batch.replace(token=np.where(np.arange(L) == 4, 7, batch.token))
    a, b, c = read()(batch, 2)[0, 1::2], read()(changed, 2)[0, 1::2], read()(batch, 3)[0, 1::2]
    real = np.array(DOCS) > 0
    assert np.array_equal(a[:4], b[:4])
    assert (np.abs(a - b).max(-1)[4:9] > CLOSE).all()
    assert np.array_equal(a[9:14], b[9:14]), "documents meet"
    # all but those that stand with nothing else before them
    assert (np.abs(a - c).max(-1)[real] > CLOSE).sum() >= 12


def test_one_draw_for_a_document_wherever_it_stands():
    ahead, drawn = jax.jit(Registers(farthest=4).ahead), []
    batch = batch_of(DOCS)
    alone = jax.tree.map(lambda a: np.pad(a[:, 9:14], ((0, 0), (0, L - 5))), batch)
    for seed in range(40):
        key = jax.random.key(seed)
        row = np.asarray(ahead(key, seq_of(batch)))[0]
        assert len(set(row[:9])) == len(set(row[9:14])) == 1
        assert np.asarray(ahead(key, seq_of(alone)))[0, 0] == row[9]
        drawn.append((row[0], row[9]))
    first, second = zip(*drawn, strict=True)
    assert set(first) == set(second) == {1, 2, 3, 4}
    assert first != second


def test_targets():
    batch = batch_of(DOCS)
    batch = batch.replace(weight=batch.weight * (np.arange(L) != 2))
    ahead = np.array([[3] * 9 + [2] * 7], np.int32)
    target, weight = REGISTERS.targets(batch, ahead)
    # 2 has no weight, neither as source nor as target
    expected = [t + 2 if t < 7 and t not in (0, 2) else None for t in range(9)]
    expected += [t + 1 if t < 13 else None for t in range(9, 14)] + [None] * 2
    assert [w > 0 for w in weight[0].tolist()] == [e is not None for e in expected]
    for t, e in enumerate(expected):
        assert e is None or target[0, t] == batch.target[0, e]


def test_a_loss_in_training_only():
    batch, params = batch_of(DOCS), PARAMS

    def run(model, key):
        return loss_and_metrics(model, params, batch, None, 1.0, key)

    loss, metrics = run(MODEL, jax.random.key(0))
    without, fewer = run(config.replace(MODEL, objectives=(Ahead(),)), jax.random.key(0))
    evaluated, same = run(MODEL, None)
    assert metrics.keys() - fewer.keys() == {"loss/registers"}
    assert same.keys() == fewer.keys()
    assert evaluated == without
    np.testing.assert_allclose(loss - without, metrics["loss/registers"].value(), atol=CLOSE)
    nll = metrics["loss/registers"].value() / REGISTERS.loss_weight
    assert 3 < nll < 8  # a byte of 256, by random parameters


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (dict(trunk=Stack(2, Block(Attention(2, window=4), SwiGLU(16)))), "without window"),
        (dict(codec=utf8(Unsplit())), "Registers.symbol: 259 is none of the codec's 256 symbols"),
    ],
    ids=["window", "symbol"],
)
def test_what_cannot_have_registers(changes, error):
    model, batch = config.replace(MODEL, **changes), batch_of(DOCS)
    with pytest.raises(ValueError, match=error):
        jax.eval_shape(
            lambda: model.init({"params": jax.random.key(0), "boundary": jax.random.key(0)}, batch)
        )
    with pytest.raises(ValueError, match="farthest: 0 must be at least 1"):
        Registers(farthest=0)
