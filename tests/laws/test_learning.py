"""The laws of accumulation and learning: micro-batches add up, every parameter gets a gradient, one row is learned."""

import math

import jax
import numpy as np
import optax

from hlm import config, sharding
from hlm.sharding import leaf_axes
from hlm.train import step
from hlm.train.optim import frozen
from tests.laws.steps import assert_same, mesh_of, one_step, reference, unbalanced
from tests.laws.subjects import every_config, packed, small

LEARNED = 0.5  # bits per byte
FEW_DOZEN = 60


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
        assert np.all((np.abs(moment).max(axis=axes) > 0) != frozen(path)), jax.tree_util.keystr(path)


@every_config
def test_one_row_is_learned(name):
    """From the config's own initial parameters, in a few dozen steps; twice as many if each asks for half of the words (masked models)."""
    exp, steps = small(name), FEW_DOZEN
    optim = config.replace(exp.optim, peak=3e-3, warmup=5, eps=1e-8, weight_decay=0.0)
    if not exp.model.causal:
        masking = config.replace(exp.model.masking, share=0.5)
        exp, steps = config.replace(exp, model=config.replace(exp.model, masking=masking)), 2 * FEW_DOZEN
    exp = config.replace(exp, rows=1, steps=steps, optim=optim)
    mesh = mesh_of((1, 1, 1))
    _, shardings, make_state = step.init_state(exp, mesh)
    state, curve = make_state(), []
    row = sharding.put(packed(exp, 1), mesh)
    with jax.set_mesh(mesh):
        run = step.compiled_train_step(exp, mesh, shardings)
        for _ in range(steps):
            state, metrics = run(state, row)
            curve.append(metrics[exp.model.bits].value())
    possible = math.log2(exp.model.codec.predicted.sum())
    symbols_per_byte = metrics["loss"].weight / metrics[exp.model.bits].weight
    assert curve[0] < 1.6 * possible * symbols_per_byte, f"starts at {curve[0]:.2f} bits per byte, far above chance"
    assert curve[-1] < LEARNED, f"bits per byte went from {curve[0]:.2f} to {curve[-1]:.2f} only"
