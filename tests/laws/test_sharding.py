"""The law of sharding: a step is the same step on any mesh."""

import math

import jax
import pytest

from tests.laws.steps import assert_same, trainer
from tests.laws.subjects import every_config, every_part, small


@every_config
def test_a_mesh_of_all_axes_gives_the_same_step(name):
    state = same_step(name, (2, 2, 2))
    assert max(split(state)) >= 2, "no parameter is split: this tests nothing"


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1)], ids=["replica", "data"])
@every_part
def test_a_mesh_of_one_axis_gives_the_same_step(name, shape):
    state = same_step(name, shape)
    assert max(split(state)) == shape[1], "parameters are split over `data` and nothing else"


def same_step(name, shape):
    state, metrics = trainer(small(name), shape).from_random()
    assert_same(name, state, metrics)
    return state


def split(state):
    """In how many pieces the parameters are."""
    return [
        math.prod(a.shape) / math.prod(a.sharding.shard_shape(a.shape))
        for a in jax.tree.leaves(state.params)
        if a.ndim > 1
    ]
