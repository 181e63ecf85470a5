"""Rotary positions of foreign configs: two spellings are one model, other kinds are refused."""

import copy
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hlm
from hlm.port import imported
from hlm.seq import Batch
from tests.unit import test_port, test_tfree_hat
from tests.unit.port_shapes import (
    CASES,
    LLAMA3,
    assert_one_model,
    llama,
    llama_shapes,
    made,
    set_at,
)

OLD = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}
NEW = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}
PARTS = {"llama": [()], "hat": [("encoder_config",), ("backbone_config",), ("decoder_config",)]}
PARTS["blt"] = [(f"{name}_config",) for name in ("encoder", "decoder", "global", "patcher")]


def with_rope(config, path, rope):
    config = copy.deepcopy(config)
    node = config
    for key in path:
        node = node[key]
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        node.pop(key, None)
    node |= rope
    return config


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, paths in PARTS.items() for path in paths]
)
@pytest.mark.parametrize(
    "same",
    [
        [OLD, NEW, OLD | NEW, {"rope_theta": 5e5, "rope_parameters": {"type": "llama3", **LLAMA3}}],
        [
            {"rope_theta": 5e5},
            {"rope_theta": 500000, "rope_scaling": None},
            {"rope_parameters": {"rope_theta": 5e5}},
            {
                "rope_parameters": {
                    "rope_theta": 5e5,
                    "rope_type": "default",
                    "partial_rotary_factor": 1.0,
                }
            },
        ],
    ],
)
def test_both_spellings_of_rotary_positions_are_one_model(name, path, same):
    format, config, weights = CASES[name]
    port = importlib.import_module(f"hlm.port.{format}")
    models = [port.model(with_rope(config, path, rope), weights()) for rope in same]
    assert all(other == models[0] for other in models)
    assert models[0] != port.model(with_rope(config, path, {"rope_theta": 1e4}), weights())
    assert "500000.0" in repr(models[0][0])
    if "rope_scaling" in same[0]:
        assert "factor=8.0" in repr(models[0][0])


def test_the_spelling_of_transformers_5_gives_other_logits():
    """The reproduction: theta and scaling used to be left out without a word."""
    weights = made(llama_shapes())
    text = "Call me Ishmael. Some years ago"
    nats = [
        hlm.from_foreign("llama", weights, with_rope(llama(), (), rope)).score(text)[0].nats
        for rope in ({}, OLD, NEW)
    ]
    assert nats[1] == nats[2]
    assert abs(nats[0] - nats[1]) > 1e-3


@pytest.mark.parametrize(
    "rope", [{"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, OLD, NEW]
)
def test_logits_are_those_of_a_slow_llama(rope):
    """Theta and scaling in either spelling, against loops in numpy that know one of them."""
    weights = {name: 0.5 * array for name, array in made(llama_shapes()).items()}
    model, _, params, _ = imported("llama", weights, with_rope(llama(), (), rope))
    x = np.random.default_rng(1).integers(0, 254, (1, 48)).astype(np.int32)
    ones, small = np.ones((1, 48), np.int32), np.ones((1, 48), np.uint8)
    batch = Batch(
        token=x, doc=ones, level=small, target=x, weight=np.ones((1, 48), np.float32), nbytes=small
    )
    logits = jax.jit(lambda p, b: model.apply({"params": p}, b, method="logits"))(
        params, jax.tree.map(jnp.asarray, batch)
    )
    slow = test_port.SIZES | {
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3 if "llama3" in str(rope) else None,
    }
    y = weights["model.embed_tokens.weight"][x[0]].astype(np.float64)
    for i in range(2):
        y = test_tfree_hat.llama(weights, f"model.layers.{i}", slow, y)
    y = test_tfree_hat.rms(y, weights["model.norm.weight"]) @ weights["lm_head.weight"].T
    np.testing.assert_allclose(logits[0, :, 0], y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_theta 10000.0 and .*rope_parameters.rope_theta 500000.0",
        ),
        (OLD | {"rope_parameters": {"rope_theta": 5e5}}, "rope_scaling .* and .*rope_parameters"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            r"rope_parameters.rope_type 'yarn' \(only 'default' or 'llama3'\)",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling.type 'linear'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling.type 'dynamic'"),
        ({"rope_parameters": {"factor": 4.0}}, "rope_parameters.factor 4.0"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope_parameters.full_attention",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        (
            {"rope_parameters": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0}},
            "low_freq_factor 4.0",
        ),
        (
            {
                "rope_parameters": {"rope_type": "llama3"}
                | {k: v for k, v in LLAMA3.items() if k != "factor"}
            },
            "factor is missing",
        ),
        (
            {"original_max_position_embeddings": 16, **NEW},
            "original_max_position_embeddings 32 and .*embeddings 16",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 1]}},
            r"mrope_section \[1, 1\]",
        ),
        ({"rope_theta": 0}, "rope_theta 0"),
        ({"rope_theta": "1e4"}, "rope_theta '1e4'"),
        ({"rope_parameters": [1e4]}, r"rope_parameters \[10000.0\]"),
    ],
)
def test_other_rotary_positions_are_refused_by_name(rope, named):
    for name, paths in PARTS.items():
        format, config, weights = CASES[name]
        for path in paths:
            with pytest.raises(ValueError, match=named) as caught:
                imported(format, weights(), with_rope(config, path, rope))
            assert "\n" not in str(caught.value)
            assert ".".join(path) in str(caught.value)


def test_the_style_of_rotary_positions_is_read_where_the_released_code_reads_it():
    format, config, weights = CASES["hat"]
    outside = set_at(config, ("backbone_config", "is_neox_style"), False)
    inside = set_at(config, ("backbone_config", "rope_scaling", "is_neox_style"), False)
    assert_one_model(imported(format, weights(), outside), imported(format, weights(), inside))
    with pytest.raises(ValueError, match="is_neox_style"):
        imported(
            format,
            weights(),
            set_at(outside, ("backbone_config", "rope_scaling", "is_neox_style"), True),
        )
