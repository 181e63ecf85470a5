"""The law of gradients: an element that no loss hangs on gets and passes on a gradient of exactly
zero, not of rounding's size.

Such elements are padding; documents and ends of documents whose targets have no weight; and BOS
where it is no target and no other element meets it. Layers behind them may multiply whatever is
left a thousandfold, once for each layer.
"""

import functools

import jax
import numpy as np
from flax import linen as nn

from hlm.train import step
from hlm.train.loss import loss_and_metrics, noise
from tests.laws.subjects import every_config, packed, random_params, small

TAIL = 5  # elements at the end of a document whose targets have no weight


# shares of the losses that are not the likelihood of the next symbol
LIKELIHOOD, ALL = (np.float32(0), np.float32(1))


@functools.cache
def compiled(model, shape):
    """(params, delta, batch, share) -> (loss, gradient by params, by delta), `delta` being added to
    what `LM.embed` gives.
    """

    def loss(params, delta, batch, share):
        def moved(call, arguments, keywords, context):
            out = call(*arguments, **keywords)
            return (
                out + delta
                if (context.module.path, context.method_name) == (("embed",), "__call__")
                else out
            )

        key = jax.random.key(0)
        with nn.intercept_methods(moved):
            return loss_and_metrics(model, params, batch, None, share, key)[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def embedded(model, params, batch):
    """Shape of what `LM.embed` gives: registers make rows longer."""
    shapes = []

    def seen(call, arguments, keywords, context):
        out = call(*arguments, **keywords)
        if context.module.path == ("embed",):
            shapes.append(out.shape)
        return out

    with nn.intercept_methods(seen):
        jax.eval_shape(
            lambda params, batch: model.apply(
                {"params": params}, batch, rngs=noise(jax.random.key(0))
            ),
            params,
            batch,
        )
    return shapes[0]


@every_config
def test_what_no_loss_hangs_on_has_no_gradient(name):
    exp, rng = small(name), np.random.default_rng(0)
    model, params = exp.model, random_params(exp.model, exp.data.length)
    batch = packed(exp, exp.rows)
    L = exp.data.length
    first = batch.doc != np.pad(batch.doc, ((0, 0), (1, 0)))[:, :-1]
    later = np.pad(batch.doc, ((0, 0), (0, TAIL)))[:, TAIL:]
    groups = {
        "padding": batch.doc == 0,
        "a document without weight": batch.doc % 2 == 1,
        "the end of a document": (batch.doc > 0) & (later != batch.doc),
        "BOS": first & (batch.doc > 0),
    }
    assert all(group.any() for group in groups.values())
    unlearned = np.any(list(groups.values()), axis=0)
    batch = batch.replace(weight=np.where(unlearned, 0, batch.weight).astype(np.float32))
    assert batch.weight.any()
    shape = embedded(model, params, batch)
    times = shape[1] // L
    run, still = compiled(model, shape), np.zeros(shape, np.float32)
    free = {title: set() for title in groups}
    for share in (LIKELIHOOD, ALL):
        value, (by_params, by_delta) = jax.device_get(run(params, still, batch, share))
        assert np.abs(by_delta).max() > 0
        for title, group in groups.items():
            there = np.repeat(group, times, axis=1)[..., None]
            delta = np.where(there, rng.standard_normal(shape), 0).astype(np.float32)
            if run(params, delta, batch, share)[0] == value:
                free[title].add(share)
                left = np.abs(np.where(there, by_delta, 0)).max()
                assert left == 0, (
                    f"{title}, share {share}: of no influence, and has a gradient of {left}"
                )
        # Padding passes nothing on either: whatever stands there, the parameters' gradients are the
        # same.
        empty = groups["padding"]
        token = np.where(empty, rng.integers(0, model.codec.size, empty.shape), batch.token).astype(
            np.int32
        )
        level = np.where(empty, rng.integers(0, 4, empty.shape), batch.level).astype(np.uint8)
        _, (filled, _) = jax.device_get(
            run(params, still, batch.replace(token=token, level=level), share)
        )
        jax.tree.map(np.testing.assert_array_equal, by_params, filled)
    assert free["padding"] == {LIKELIHOOD, ALL}, "padding has influence"
    # else ends may move, and room is shared
    if model.causal and not any(
        getattr(part, "learned", False) for _, part in step.modules(model, "")
    ):
        assert LIKELIHOOD in free["a document without weight"]
        assert LIKELIHOOD in free["the end of a document"]
