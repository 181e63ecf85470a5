"""The laws of accumulation and learning: micro-batches add up, every parameter gets a gradient, one
row is learned.
"""

import math

import jax
import numpy as np
import optax

from hlm import config
from hlm.model.objective import Objective
from hlm.model.segment import Segmenter
from hlm.registry import KNOWN
from hlm.sharding import leaf_axes
from hlm.train import step
from hlm.train.optim import frozen
from tests.laws.steps import ONE, additive, alone, assert_same, reference, trainer
from tests.laws.subjects import VARIED, every_config, every_part, packed, small

LEARNED = 0.5  # bits per byte
FEW_DOZEN = 60


@every_part
def test_micro_batches_add_up(name):
    """For the loss, the update (so the gradients) and every metric; that the metrics of rows add up
    is a law of every config (packing).

    But for losses of a whole batch: which they are, their parts say (`whole_batch`).
    """
    exp = additive(small(name))
    state, metrics = trainer(config.replace(exp, accumulate=4), ONE).from_random()
    assert_same(name, state, metrics, whole=exp == small(name))


def test_what_is_of_a_whole_batch_can_be_taken_out():
    """Whoever says so has a `loss_weight`, and is in a config that the law is asked of."""
    parts = [part for name in VARIED for _, part in step.modules(small(name).model, "")]
    said = {type(part) for part in parts if getattr(part, "whole_batch", None)}
    kinds = [cls for cls in KNOWN if issubclass(cls, Segmenter | Objective)]
    assert said == {cls for cls in kinds if isinstance(cls.whole_batch, str)} != set()
    assert all("loss_weight" in config.fields(cls) for cls in said)
    for name in VARIED:
        exp = small(name)
        there = {type(part) for _, part in step.modules(exp.model, "")} & said
        assert (additive(exp) != exp) == bool(there)


@every_config
def test_every_parameter_gets_a_gradient(name):
    """In every layer of a scanned stack, and frozen ones none.

    The first moment of Adam after one step is the gradient up to a factor.
    """
    state, _ = reference(name, True)
    for path, moment in jax.tree_util.tree_leaves_with_path(
        optax.tree_utils.tree_get(state.optim, "mu")
    ):
        axes = tuple(range(-len(leaf_axes(path)), 0))
        assert np.all((np.abs(moment).max(axis=axes) > 0) != frozen(path)), jax.tree_util.keystr(
            path
        )


@every_config
def test_one_row_is_learned(name):
    """From the config's own initial parameters, in a few dozen steps; twice as many if each asks
    for half of the words (masked models).
    """
    exp, train, steps = small(name), alone(name), FEW_DOZEN
    if not exp.model.causal:
        masking = config.replace(exp.model.masking, share=0.5)
        train, steps = (
            trainer(config.replace(exp, model=config.replace(exp.model, masking=masking)), ONE),
            2 * FEW_DOZEN,
        )
    row = jax.tree.map(lambda a: np.repeat(a, exp.rows, axis=0), packed(exp, 1))
    state, curve = train.start(), []
    while len(curve) < steps and not (curve and curve[-1] < LEARNED):
        state, metrics = train(state, row)
        curve.append(metrics[exp.model.bits].value())
    possible = math.log2(exp.model.codec.predicted.sum())
    symbols_per_byte = metrics["loss"].weight / metrics[exp.model.bits].weight
    assert curve[0] < 1.6 * possible * symbols_per_byte, (
        f"starts at {curve[0]:.2f} bits per byte, far above chance"
    )
    assert curve[-1] < LEARNED, f"bits per byte went from {curve[0]:.2f} to {curve[-1]:.2f} only"
