"""The law of packing: documents share a row without noticing, and padding does nothing."""

import jax
import numpy as np

from hlm.data.pack import Packer
from tests.laws.subjects import (
    as_batch,
    budget,
    encoded,
    every_config,
    experiment,
    forward,
    outputs,
    packed,
    texts,
)

CLOSE = 2e-4  # logits are about 1; other places in a row mean other orders of summation
SUM = 1e-4  # of metrics, relative, or absolute below one


@every_config
def test_packed_is_alone(name):
    """Each of three documents in a row gives the logits it gives as the only one."""
    exp = experiment(name)
    limit = exp.data.length // 5
    documents = [
        encoded(exp, text) for text, _ in zip(texts(3, limit // 2, limit), range(3), strict=False)
    ]

    def row(parts):
        packer = Packer(budget(exp))
        rows = [r for e in parts for r in packer.add(e)] + packer.flush()
        assert len(rows) == 1
        return rows[0]

    together = row(documents)
    logits, _ = forward(name, as_batch([together, *(row([e]) for e in documents)]))
    for i in range(3):
        inside, alone = together["doc"] == i + 1, np.arange(len(documents[i].token) - 1)
        assert inside.sum() == len(alone) > 5
        np.testing.assert_allclose(logits[0][inside], logits[1 + i][alone], rtol=0, atol=CLOSE)
    # Not by indifference: the same symbols as one document give other logits.
    joined = together | {"doc": (together["doc"] > 0).astype(np.int32)}
    other, _ = forward(name, as_batch([joined] * 4))
    last = together["doc"] == 3
    assert np.abs(other[0][last] - logits[0][last]).max() > 100 * CLOSE


@every_config
def test_padding_is_inert(name):
    """Whatever stands in padding, logits and metrics are the same to the last bit."""
    exp = experiment(name)
    batch = packed(exp, 4)
    empty = batch.doc == 0
    assert empty.any()
    rng = np.random.default_rng(0)
    size = exp.model.codec.size

    def fill(field, values):
        return np.where(empty, values.astype(field.dtype), field)

    filled = batch.replace(
        token=fill(batch.token, rng.integers(0, size, empty.shape)),
        level=fill(batch.level, rng.integers(0, 4, empty.shape)),
        target=fill(batch.target, rng.integers(0, size, empty.shape)),
        weight=fill(batch.weight, np.ones(empty.shape)),
        nbytes=fill(batch.nbytes, np.ones(empty.shape)),
    )
    (a, metrics), (b, others) = forward(name, batch), forward(name, filled)
    assert np.isfinite(b).all()
    assert np.array_equal(a[~empty], b[~empty])
    assert metrics == others


@every_config
def test_rows_do_not_meet(name):
    """In another order and among other rows, a row has the same logits; and the metrics of a batch
    are the sums over its rows.

    But for the loss of routers: it is a product of two means over a batch.
    """
    exp = experiment(name)
    batch = packed(exp, 4, seed=1)

    def only(*rows):
        """Logits and metrics of these rows, the last one first, and of empty rows in place of the
        others.
        """
        return outputs(
            name,
            jax.tree.map(
                lambda a: np.where(np.isin(np.arange(4), rows)[:, None], a, 0)[::-1], batch
            ),
        )

    logits, whole = outputs(name, batch)
    (a, first), (b, second), (_, empty) = only(0, 1), only(2, 3), only()
    apart, real = np.concatenate([a[::-1][:2], b[::-1][2:]]), batch.doc > 0
    np.testing.assert_allclose(apart[real], logits[real], rtol=0, atol=CLOSE)
    for key, m in whole.items():
        if not f"/{key}".endswith("/loss/ratio"):
            for part in ("total", "weight"):
                one, two, none = (getattr(metrics[key], part) for metrics in (first, second, empty))
                np.testing.assert_allclose(
                    one + two - none, getattr(m, part), SUM, SUM, err_msg=f"{key} {part}"
                )
