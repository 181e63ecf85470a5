"""The law of configs: every size of every file builds, is checked and counted without running, and survives JSON."""

import json
import math

import jax
import numpy as np
import pytest

from hlm import config, registry
from hlm.sharding import leaf_axes
from hlm.train import step
from tests.laws.subjects import every_size, experiment

# Parameters as published, or by the published widths and depths where a paper only rounds, of the parts whose paths begin so.
ALL = ("",)
READER, WRITER = ("trunk/encoder", "trunk/pool"), ("trunk/decoder", "trunk/unpool")
PUBLISHED = {
    "configs/blt.py:1b": {("trunk/segmenter/frozen",): 99.5e6, ("embed/ngram_embedding",): 3.07e9},
    "configs/dtp.py:41m": {ALL: 42e6},
    "configs/dtp.py:41m_vanilla": {ALL: 41e6},
    "configs/hat.py:1b": {("trunk/backbone",): 1.147e9, READER: 23.0e6, WRITER: 23.0e6},
    "configs/hat.py:3b": {("trunk/backbone",): 4.316e9, READER: 24.0e6, WRITER: 24.0e6},
    "configs/hat.py:7b": {("trunk/backbone",): 9.173e9, READER: 55.05e6, WRITER: 55.05e6},
    "configs/hlm.py:base": {("trunk/backbone/block",): 85.05e6, ("trunk/encoder",): 28.35e6},  # 12 and 4 layers of BERT base
    "configs/hnet.py:1stage_L": {ALL: 0.679e9},
    "configs/hnet.py:1stage_XL": {ALL: 1.27e9},
    "configs/hnet.py:2stage_L": {ALL: 0.874e9},
    "configs/hnet.py:2stage_XL": {ALL: 1.60e9},
    "configs/lyt.py:39m": {("trunk/encoder",): 6.3e6, ("trunk/backbone",): 25.6e6, ("trunk/decoder",): 6.3e6},
    "configs/tfree_hat.py:7b": {("trunk/backbone",): 6.98e9, READER: 119e6},  # the decoder's 94e6 hold weights that do nothing
    "configs/toucan.py:x5": {ALL: 42e6},
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
    counts = {jax.tree_util.keystr(path, simple=True, separator="/"): math.prod(leaf.shape) for path, leaf in leaves}
    for prefixes, published in PUBLISHED.get(name, {}).items():
        assert sum(n for path, n in counts.items() if path.startswith(prefixes)) == pytest.approx(published, rel=NEAR), prefixes


@every_size
def test_json_round_trip(name):
    exp = experiment(name)
    text = json.dumps(registry.to_json(exp), allow_nan=False)
    again = registry.from_json(json.loads(text))
    assert again == exp
    assert registry.to_json(again) == json.loads(text)
