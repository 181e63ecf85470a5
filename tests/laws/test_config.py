"""The law of configs: every size of every file builds, is checked and counted without running, and survives JSON."""

import json
import math

import jax
import numpy as np
import pytest

from hlm import config
from hlm.sharding import leaf_axes
from hlm.train import step
from tests.laws.subjects import every_size, experiment

# Parameters in billions as published, or by the published widths and depths where a paper only rounds.
PUBLISHED = {
    "configs/hat.py:1b": 1.147,
    "configs/hat.py:3b": 4.316,
    "configs/hat.py:7b": 9.173,
    "configs/hnet.py:1stage_L": 0.679,
    "configs/hnet.py:1stage_XL": 1.27,
    "configs/hnet.py:2stage_L": 0.874,
    "configs/hnet.py:2stage_XL": 1.60,
}
NEAR = 0.01  # relative


@every_size
def test_size_builds(name):
    """Shapes of parameters and optimizer, from a forward pass that is only traced, and their shardings."""
    exp = experiment(name)
    state, _, _ = step.init_state(exp, config.Mesh().make(jax.devices()))
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    assert leaves
    for path, leaf in leaves:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.dtype == np.float32, where
        assert leaf.ndim >= len(leaf_axes(path)), f"{where} {leaf.shape} has fewer axes than its row in PARAMS"
    if name in PUBLISHED:
        count = sum(math.prod(leaf.shape) for _, leaf in leaves)
        assert count / 1e9 == pytest.approx(PUBLISHED[name], rel=NEAR)


@every_size
def test_json_round_trip(name):
    exp = experiment(name)
    text = json.dumps(config.to_json(exp), allow_nan=False)
    again = config.from_json(json.loads(text))
    assert again == exp
    assert config.to_json(again) == json.loads(text)
