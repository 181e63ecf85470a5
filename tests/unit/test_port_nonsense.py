"""Mutated configs and spoiled weights are read or refused in one line."""

import copy
import importlib
import random

import numpy as np
import pytest

from hlm.port import FORMATS, imported, keys
from tests.unit.port_shapes import CASES, SPACEBYTE, llama, llama_shapes, made, spacebyte_shapes

NONSENSE = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    10**6,
    10**9,
    1 << 70,
    10**5000,
    0.0,
    0.5,
    1.5,
    -2.5,
    1e-300,
    1e300,
]
NONSENSE += [
    float("nan"),
    float("inf"),
    "",
    "x",
    "12",
    "é\n",
    "[1, (1,), 1]",
    [],
    [1],
    [None],
    [0, 0],
    [[[[]]]],
    ["a", "b", "c"],
]
NONSENSE += [
    {},
    {"a": 1},
    {1: 2},
    b"x",
    1j,
    object(),
    (8, 12),
    {"rope_type": "llama3"},
    np.float32(2),
    np.arange(3),
    range(2),
]


def places(value, path=()):
    """Paths of all entries of a config's mappings and lists."""
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutated(config, rng):
    """(a config with one or two entries spoiled, what was done)."""
    config, done = copy.deepcopy(config), []
    for _ in range(rng.choice([1, 1, 1, 2])):
        path = rng.choice(list(places(config)))
        node = config
        for key in path[:-1]:
            node = node[key]
        what = rng.choice(["drop", "replace", "replace", "replace", "rename", "scale"])
        value = node[path[-1]]
        if what == "drop":
            del node[path[-1]]
        elif what == "rename" and isinstance(node, dict):
            node[str(path[-1]) + rng.choice(["_", "\n", "2"])] = node.pop(path[-1])
        elif what == "scale" and type(value) in (int, float):
            node[path[-1]] = rng.choice(
                [-value, value * 2, value * 3, value + 1, value - 1, str(value), [value]]
            )
        else:
            node[path[-1]] = rng.choice(NONSENSE)
        done.append(
            (
                what,
                path,
                keys.shown(node[path[-1]])
                if what in ("replace", "scale") and path[-1] in places_of(node)
                else "",
            )
        )
    return config, done


def places_of(node):
    return node if isinstance(node, dict) else range(len(node))


def words(format, config):
    """Every key that a message about this config may name."""
    module = importlib.import_module(f"hlm.port.{format}")
    names = {
        key
        for name in ("KEYS", "BASE", "SPACEBYTE", "MEGABYTE")
        for key in getattr(module, name, {})
    }
    return (
        names
        | {str(key) for path in places(config) for key in path if isinstance(key, str)}
        | {"weight", "config"}
    )


def refusal(format, weights, config, done):
    """The message with which this is refused, or None; all but a ValueError of one line fails."""
    try:
        imported(format, weights, config)
    except ValueError as error:
        text = str(error)
    except Exception as error:
        pytest.fail(f"{done} ended in {type(error).__name__}: {error}")
    else:
        return None
    if not text.isprintable() or len(text) > 4000:
        pytest.fail(f"{done} ended in several lines: {text}")
    return text


MUTATIONS = 25  # of each case


@pytest.mark.parametrize("name", CASES)
def test_mutated_configs_are_read_or_refused_in_one_line(name):
    format, config, weights = CASES[name]
    rng, weights, known = random.Random(name), weights(), words(*CASES[name][:2])
    refused = 0
    for _ in range(MUTATIONS):
        changed, done = mutated(config, rng)
        text = refusal(format, weights, changed, done)
        if text is not None:
            refused += 1
            assert any(word in text for word in known), (done, text)
    assert refused > MUTATIONS / 3


@pytest.mark.parametrize("config", [None, [], "x", 3, {}, {"args": 3}, {"args": {}}])
def test_what_is_no_config_is_refused(config):
    for format in FORMATS:
        with pytest.raises(ValueError, match="config: ") as caught:
            imported(format, {}, config)
        assert str(caught.value).isprintable()


# --- weights


SPOILERS = [
    lambda a: a[None],
    lambda a: a.reshape(-1),
    lambda a: np.concatenate([a, a]),
    lambda a: a[:-1],
    lambda a: a[:0],
    lambda a: np.float32(1),
    lambda a: np.full(a.shape, np.nan, np.float32),
    lambda a: np.full(a.shape, 1e300),
    lambda a: np.full(a.shape, "x"),
    lambda a: a.astype(np.int8),
    lambda a: a.astype(complex),
    lambda a: [[1.0], [2.0, 3.0]],
    lambda a: None,
]


@pytest.mark.parametrize("name", CASES)
def test_spoiled_weights_are_named_in_one_line(name):
    format, config, weights = CASES[name]
    rng = random.Random(name)
    buffers = [row for row in rows(name) if row.path is None]
    for spoil in rng.sample(SPOILERS, 4):
        spoiled = dict(weights())
        key = rng.choice(sorted(spoiled))
        before = np.asarray(spoiled[key])
        spoiled[key] = spoil(before)
        text = refusal(format, spoiled, config, key)
        if text is None:  # nothing is asked of it, or it holds the same numbers
            same = np.size(spoiled[key]) == before.size and np.array_equal(
                np.ravel(spoiled[key]), np.ravel(before)
            )
            assert same or any(row.match(key) is not None for row in buffers), key
        else:
            assert "weight" in text


def rows(name):
    format, config, weights = CASES[name]
    return importlib.import_module(f"hlm.port.{format}").rows(config, weights())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"model.layers.00.input_layernorm.weight": np.ones(8)},
            "unknown weight model.layers.00.input",
        ),
        ({"model.layers.٠.input_layernorm.weight": np.ones(8)}, "unknown weight model.layers"),
        ({3: np.ones(8)}, "unknown weight 3"),
        ({"a\nb": np.ones(8)}, r"unknown weight 'a\\nb'"),
        ({f"model.layers.{'9' * 6000}.mlp.up_proj.weight": np.ones(8)}, "unknown weight"),
    ],
)
def test_odd_names_of_weights_are_unknown(change, named):
    with pytest.raises(ValueError, match=named) as caught:
        imported("llama", made(llama_shapes()) | change, llama())
    assert str(caught.value).isprintable()


def test_two_weights_for_one_place_are_refused():
    extra = {"global_blocks.0.attention.Q_linear.weight": np.ones((8, 8), np.float32)}
    with pytest.raises(ValueError, match="second weight for trunk/backbone/block/mixer/q"):
        imported("spacebyte", made(spacebyte_shapes()) | extra, SPACEBYTE)
