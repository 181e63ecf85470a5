"""The law of configs: every size of every file builds, is checked and counted without running, and
survives JSON.

Only small sizes have a text of their own, and the file's docstring says how good each is.
"""

import ast
import dataclasses
import json
import math
import re
import typing

import jax
import numpy as np
import pytest

from hlm import config, registry
from hlm.data.unchosen import Unchosen
from hlm.sharding import leaf_axes
from hlm.train import step
from tests.laws.subjects import ROOT, every_config, every_size, experiment

# Parameters as published, or by the published widths and depths where a paper only rounds, of the
# parts whose paths begin so.
ALL = ("",)
READER, WRITER = ("trunk/encoder", "trunk/pool"), ("trunk/decoder", "trunk/unpool")
PUBLISHED = {
    "configs/blt.py:1b": {("trunk/segmenter/frozen",): 99.5e6, ("embed/ngram_embedding",): 3.07e9},
    "configs/dtp.py:41m": {ALL: 42e6},
    "configs/dtp.py:41m_vanilla": {ALL: 41e6},
    "configs/hat.py:1b": {("trunk/backbone",): 1.147e9, READER: 23.0e6, WRITER: 23.0e6},
    "configs/hat.py:3b": {("trunk/backbone",): 4.316e9, READER: 24.0e6, WRITER: 24.0e6},
    "configs/hat.py:7b": {("trunk/backbone",): 9.173e9, READER: 55.05e6, WRITER: 55.05e6},
    # 12 and 4 layers of BERT base
    "configs/hlm.py:base": {("trunk/backbone/block",): 85.05e6, ("trunk/encoder",): 28.35e6},
    "configs/hnet.py:1stage_L": {ALL: 0.679e9},
    "configs/hnet.py:1stage_XL": {ALL: 1.27e9},
    "configs/hnet.py:2stage_L": {ALL: 0.874e9},
    "configs/hnet.py:2stage_XL": {ALL: 1.60e9},
    "configs/lyt.py:39m": {
        ("trunk/encoder",): 6.3e6,
        ("trunk/backbone",): 25.6e6,
        ("trunk/decoder",): 6.3e6,
    },
    # the decoder's 94e6 hold weights that do nothing
    "configs/tfree_hat.py:7b": {("trunk/backbone",): 6.98e9, READER: 119e6},
    "configs/toucan.py:x5": {ALL: 42e6},
}
NEAR = 0.01  # relative
SMALL = ("tiny", "peer", "moby", "entropy-tiny")  # beginnings of names


@every_size
def test_size_builds(name):
    """Shapes of parameters and optimizer, from a forward pass that is only traced, and their
    shardings.
    """
    exp = experiment(name)
    state, _, _ = step.init_state(exp, config.Mesh().make(jax.devices()))
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    assert leaves
    for path, leaf in leaves:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.dtype == np.float32, where
        assert leaf.ndim >= len(leaf_axes(path)), (
            f"{where} {leaf.shape} has fewer axes than its row in PARAMS"
        )
    counts = {
        jax.tree_util.keystr(path, simple=True, separator="/"): math.prod(leaf.shape)
        for path, leaf in leaves
    }
    for prefixes, published in PUBLISHED.get(name, {}).items():
        assert sum(n for path, n in counts.items() if path.startswith(prefixes)) == pytest.approx(
            published, rel=NEAR
        ), prefixes


@every_size
def test_json_round_trip(name):
    exp = experiment(name)
    text = json.dumps(registry.to_json(exp), allow_nan=False)
    again = registry.from_json(json.loads(text))
    assert again == exp
    assert registry.to_json(again) == json.loads(text)


@every_config
def test_every_field_takes_what_it_holds(name):
    """What a field of a config holds fits its declared type, so that the command line can give
    another of its kind.
    """

    def look(node, at):
        hints = typing.get_type_hints(type(node))
        for field in config.fields(node):
            value = getattr(node, field)
            assert config.fits(value, hints[field]), (
                f"{at}.{field}: {type(value).__name__} is no {hints[field]}"
            )
            for part in value if isinstance(value, tuple) else (value,):
                if dataclasses.is_dataclass(part):
                    look(part, f"{at}.{field}")

    look(experiment(name), "experiment")


@every_size
def test_only_small_sizes_have_a_text_of_their_own(name):
    """Nobody trains a large model on Moby-Dick because a config chose it silently."""
    small = name.split(":")[1].startswith(SMALL)
    assert isinstance(experiment(name).data.source, Unchosen) != small


@every_config
def test_docstring_gives_command_and_result_of_every_tiny_size(name):
    path, _, size = name.partition(":")
    said = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    file = path.removeprefix("configs/").removesuffix(".py")
    commands = [
        line for line in said.replace("\\\n", "").splitlines() if line.startswith("    python ")
    ]
    measured = re.compile(rf"\b{file}(\.py)?:{size}(?!\w).* -> \d")
    assert any(measured.search(line) for line in commands), (
        f"{path} says no command with a result of {size}"
    )
