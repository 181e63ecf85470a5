"""One step of training on a mesh, and when two of them count as the same."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from hlm import config, sharding
from hlm.config import Experiment
from hlm.metrics import Metrics
from hlm.model.objective import Objective
from hlm.model.segment import Segmenter
from hlm.seq import Batch
from hlm.train import step
from hlm.train.optim import frozen
from tests.laws.subjects import packed, random_params, small

ONE = (1, 1, 1)  # replica, data, model
METRIC = 1e-4  # relative
LOSS = 1e-5  # nats per symbol
GRADIENT = 1e-3  # of a parameter's largest gradient, and of the largest of all times NEGLIGIBLE
# gradients below this share of the largest are sums of which rounding leaves little else
NEGLIGIBLE = 1e-3
UPDATE = 1e-3  # of the learning rate: what the optimizer makes of one and the same gradient


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The step of an experiment on a mesh, compiled at its first call."""

    exp: Experiment
    mesh: jax.sharding.Mesh
    shardings: step.State
    start: Callable[[], step.State]  # makes the state that training starts from
    run: Any

    def from_random(self) -> tuple[step.State, Metrics]:
        """(state, metrics) after one step from random parameters."""
        params = random_params(self.exp.model, self.exp.data.length)
        state = step.State(
            np.zeros((), np.int32), params, self.exp.optim.build(self.exp.steps).init(params)
        )
        state = jax.tree.map(lambda a, s: jax.device_put(np.array(a), s), state, self.shardings)
        return self(state, packed(self.exp, self.exp.rows))

    def __call__(self, state: step.State, batch: Batch) -> tuple[step.State, Metrics]:
        with jax.set_mesh(self.mesh):
            state, metrics = self.run(state, sharding.put(batch, self.mesh))
        return state, jax.device_get(metrics)


def trainer(exp: Experiment, shape: tuple[int, int, int]) -> Trainer:
    mesh = sharding.Mesh(*shape).make(jax.devices()[: math.prod(shape)])
    _, shardings, start = step.init_state(exp, mesh)
    return Trainer(exp, mesh, shardings, start, step.compiled_train_step(exp, mesh, shardings))


@functools.cache
def alone(name: str) -> Trainer:
    """On one device; all laws share its program."""
    return trainer(small(name), ONE)


@functools.cache
def reference(name: str, whole: bool = True) -> tuple[step.State, Metrics]:
    """A step on one device."""
    exp = additive(small(name))
    one = alone(name) if whole or exp == small(name) else trainer(exp, ONE)
    state, metrics = one.from_random()
    return jax.device_get(state), metrics


def additive(exp):
    """Without the losses that, as their parts say, are of a whole batch."""

    def part(node):
        if isinstance(node, tuple):
            return tuple(part(n) for n in node)
        if not isinstance(node, nn.Module | Objective):
            return node
        changes = {field: part(getattr(node, field)) for field in config.fields(node)}
        if isinstance(node, Segmenter | Objective) and node.whole_batch:
            changes["loss_weight"] = 0.0
        return config.replace(node, **changes)

    return config.replace(exp, model=part(exp.model))


def assert_same(name, state, metrics, whole=True):
    """As the reference: loss, every metric's total and weight, every gradient; and the optimizer
    made of it what it makes of it alone.

    Adam divides a gradient near its `eps` by itself, so that rounding, which is another on every
    processor, would decide updates. Therefore what is linear is compared by its size, and the
    optimizer apart.
    """
    expected, expected_metrics = reference(name, whole)
    rate = expected_metrics["learning_rate"].value()
    assert rate > 1e-4
    assert metrics.keys() == expected_metrics.keys()
    for key, m in metrics.items():
        for part in ("total", "weight"):
            tolerance = (
                LOSS * max(float(expected_metrics["loss"].weight), 1.0)
                if key == "loss" and part == "total"
                else 1e-7
            )
            np.testing.assert_allclose(
                getattr(m, part),
                getattr(expected_metrics[key], part),
                METRIC,
                tolerance,
                err_msg=f"{key} {part}",
            )
    exp, state = small(name), jax.device_get(state)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradients(exp, expected)))
    for path, g in jax.tree_util.tree_leaves_with_path(gradients(exp, state)):
        wanted = at(gradients(exp, expected), path)
        size = max(np.abs(wanted).max(), NEGLIGIBLE * largest)
        np.testing.assert_allclose((g - wanted) / size, 0 * g, atol=GRADIENT, err_msg=title(path))
    started = random_params(exp.model, exp.data.length)
    alone = applied(exp, started, gradients(exp, state))
    for path, new in jax.tree_util.tree_leaves_with_path(state.params):
        old, wanted = at(started, path), at(alone, path)
        np.testing.assert_allclose((new - wanted) / rate, 0 * new, atol=UPDATE, err_msg=title(path))
        if frozen(path):
            assert np.array_equal(new, old), f"{title(path)} moved"
        else:
            assert np.abs(new - old).max() > 0.1 * rate, f"{title(path)} did not move"


def gradients(exp, state):
    """What the optimizer's first step was given, after clipping: the first moment of Adam up to a
    factor.
    """
    return jax.tree.map(
        lambda m: np.asarray(m) / (1 - exp.optim.b1), optax.tree_utils.tree_get(state.optim, "mu")
    )


def applied(exp, params, grads):
    """The parameters after the optimizer's first step with these gradients."""
    optimizer = exp.optim.build(exp.steps)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return jax.device_get(optax.apply_updates(params, updates))


def at(tree, path):
    return functools.reduce(lambda t, k: t[k.key], path, tree)


def title(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")
