"""One step of training on a mesh, and when two of them count as the same."""

import functools
import math

import jax
import numpy as np
from flax import linen as nn

from hlm import Router, config, sharding
from hlm.train import step
from hlm.train.optim import frozen
from tests.laws.subjects import packed, random_params, small

METRIC = 1e-4  # relative
LOSS = 1e-5  # nats per symbol
UPDATE = 0.02  # of the learning rate: how far parameters may part in one step


def mesh_of(shape):
    return sharding.Mesh(*shape).make(jax.devices()[: math.prod(shape)])


def one_step(exp, shape):
    """(state, metrics) after one step of `exp` from random parameters, on a mesh."""
    mesh = mesh_of(shape)
    abstract, shardings, _ = step.init_state(exp, mesh)
    params = random_params(exp.model, exp.data.length)
    state = step.State(np.zeros((), np.int32), params, exp.optim.build(exp.steps).init(params))
    state = jax.tree.map(lambda a, s: jax.device_put(np.array(a), s), state, shardings)
    assert jax.tree.map(lambda a: a.shape, state) == jax.tree.map(lambda a: a.shape, abstract)
    with jax.set_mesh(mesh):
        run = step.compiled_train_step(exp, mesh, shardings)
        state, metrics = run(state, sharding.put(packed(exp, exp.rows), mesh))
    return state, jax.device_get(metrics)


@functools.cache
def reference(name, balanced=True):
    """On one device."""
    state, metrics = one_step(small(name) if balanced else unbalanced(small(name)), (1, 1, 1))
    return jax.device_get(state), metrics


def unbalanced(exp):
    """Without the loss of routers."""

    def part(node):
        if isinstance(node, tuple):
            return tuple(part(n) for n in node)
        if not isinstance(node, nn.Module):
            return node
        changes = {field: part(getattr(node, field)) for field in config.fields(node)}
        return config.replace(node, **(changes | ({"loss_weight": 0.0} if isinstance(node, Router) else {})))

    return config.replace(exp, model=part(exp.model))


def assert_same(name, state, metrics, balanced=True):
    """As the reference: loss, every metric's total and weight, every parameter; and every parameter that may move has moved."""
    expected, expected_metrics = reference(name, balanced)
    rate = expected_metrics["learning_rate"].value()
    assert rate > 1e-4
    assert metrics.keys() == expected_metrics.keys()
    for key, m in metrics.items():
        for part in ("total", "weight"):
            tolerance = LOSS * max(float(expected_metrics["loss"].weight), 1.0) if key == "loss" and part == "total" else 1e-7
            np.testing.assert_allclose(
                getattr(m, part), getattr(expected_metrics[key], part), METRIC, tolerance, err_msg=f"{key} {part}"
            )
    exp = small(name)
    started = random_params(exp.model, exp.data.length)
    for path, new in jax.tree_util.tree_leaves_with_path(jax.device_get(state.params)):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        old, wanted = (functools.reduce(lambda t, k: t[k.key], path, tree) for tree in (started, expected.params))
        np.testing.assert_allclose((new - wanted) / rate, 0 * new, atol=UPDATE, err_msg=where)
        if frozen(path):
            assert np.array_equal(new, old), f"{where} moved"
        else:
            assert np.abs(new - old).max() > 0.1 * rate, f"{where} did not move"
