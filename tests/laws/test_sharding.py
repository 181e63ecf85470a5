"""The law of sharding: a step is the same step on any mesh."""

import math

import jax
import pytest

from tests.laws.steps import assert_same, one_step
from tests.laws.subjects import every_config, small

MESHES = {"replica": (8, 1, 1), "data": (1, 8, 1), "all": (2, 2, 2)}


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
