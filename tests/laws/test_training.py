"""The laws of a training step: on any mesh, in any number of micro-batches the same; every parameter learns; one row is learned."""

import functools
import math

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from hlm import Router, config, sharding
from hlm.sharding import leaf_axes
from hlm.train import step
from tests.laws.subjects import every_config, packed, random_params, small

pytestmark = pytest.mark.usefixtures("optax_promotes")
METRIC = 1e-4  # relative
LOSS = 1e-5  # nats
UPDATE = 0.02  # of the learning rate: how far parameters may part in one step
MESHES = {"replica": (8, 1, 1), "data": (1, 8, 1), "all": (2, 2, 2)}
LEARNED = 0.5  # bits per byte
FEW_DOZEN = 60


def mesh_of(shape):
    return sharding.Mesh(*shape).make(jax.devices()[: math.prod(shape)])


def one_step(exp, shape, steps=1):
    """(state, metrics as floats) after steps of `exp` from random parameters, on a mesh."""
    mesh = mesh_of(shape)
    step.check(exp, mesh)
    abstract, shardings, _ = step.init_state(exp, mesh)
    params = random_params(exp.model, exp.data.length)
    state = step.State(np.zeros((), np.int32), params, exp.optim.build(exp.steps).init(params))
    state = jax.tree.map(lambda a, s: jax.device_put(np.array(a), s), state, shardings)
    assert jax.tree.map(lambda a: a.shape, state) == jax.tree.map(lambda a: a.shape, abstract)
    with jax.set_mesh(mesh):
        run = step.compiled_train_step(exp, mesh, shardings)
        for i in range(steps):
            state, metrics = run(state, sharding.put(packed(exp, exp.rows, seed=i), mesh))
    metrics = jax.device_get(metrics)
    return state, metrics


@functools.cache
def reference(name, balanced):
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
    expected, expected_metrics = reference(name, balanced)
    rate = expected_metrics["learning_rate"].value()
    assert rate > 1e-4
    assert metrics.keys() == expected_metrics.keys()
    for key, m in metrics.items():
        for part in ("total", "weight"):
            tolerance = LOSS * max(float(expected_metrics["loss"].weight), 1.0) if key == "loss" and part == "total" else 1e-7
            np.testing.assert_allclose(getattr(m, part), getattr(expected_metrics[key], part), METRIC, tolerance, err_msg=f"{key} {part}")
    exp = small(name)
    started = random_params(exp.model, exp.data.length)
    for path, new in jax.tree_util.tree_leaves_with_path(jax.device_get(state.params)):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        old, wanted = (functools.reduce(lambda t, k: t[k.key], path, tree) for tree in (started, expected.params))
        np.testing.assert_allclose((new - wanted) / rate, 0 * new, atol=UPDATE, err_msg=where)
        assert np.abs(new - old).max() > 0.1 * rate, f"{where} did not move"


@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
@every_config
def test_any_mesh_gives_the_same_step(name, shape):
    state, metrics = one_step(small(name), shape)
    assert_same(name, state, metrics)
    parts = [math.prod(a.shape) / math.prod(a.sharding.shard_shape(a.shape)) for a in jax.tree.leaves(state.params) if a.ndim > 1]
    if shape[1] > 1:
        assert max(parts) >= shape[1], "no parameter is split: this tests nothing"
    else:
        assert max(parts) == 1, "replicas hold whole parameters"


@every_config
def test_micro_batches_add_up(name):
    """For the loss, the update (so the gradients) and every metric.

    But for the loss of routers: it is a product of two means over a batch, so that micro-batches have another one.
    """
    exp = unbalanced(small(name))
    state, metrics = one_step(config.replace(exp, accumulate=4), (1, 1, 1))
    assert_same(name, state, metrics, balanced=exp == small(name))


@every_config
def test_every_parameter_gets_a_gradient(name):
    """In every layer of a scanned stack, and frozen ones none. The first moment of Adam after one step is the gradient up to a factor."""
    state, _ = reference(name, True)
    for path, moment in jax.tree_util.tree_leaves_with_path(optax.tree_utils.tree_get(state.optim, "mu")):
        axes = tuple(range(-len(leaf_axes(path)), 0))
        assert np.all(np.abs(moment).max(axis=axes) > 0), jax.tree_util.keystr(path)


@every_config
def test_one_row_is_learned(name):
    """From the config's own initial parameters, in a few dozen steps."""
    exp = small(name)
    optim = config.replace(exp.optim, peak=3e-3, warmup=5, eps=1e-8, weight_decay=0.0)
    exp = config.replace(exp, rows=1, steps=FEW_DOZEN, optim=optim)
    mesh = mesh_of((1, 1, 1))
    _, shardings, make_state = step.init_state(exp, mesh)
    state, curve = make_state(), []
    row = sharding.put(packed(exp, 1), mesh)
    with jax.set_mesh(mesh):
        run = step.compiled_train_step(exp, mesh, shardings)
        for _ in range(FEW_DOZEN):
            state, metrics = run(state, row)
            curve.append(metrics["bits_per_byte"].value())
    possible = math.log2(exp.model.codec.predicted.sum())
    symbols_per_byte = metrics["loss"].weight / metrics["bits_per_byte"].weight
    assert curve[0] < 1.6 * possible * symbols_per_byte, f"starts at {curve[0]:.2f} bits per byte, far above chance"
    assert curve[-1] < LEARNED, f"bits per byte went from {curve[0]:.2f} to {curve[-1]:.2f} only"
