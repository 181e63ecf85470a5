"""Meshes and the two tables."""

import dataclasses
import re
import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from hlm.sharding import (
    LOCAL,
    PARAMS,
    RULES,
    Mesh,
    constrain,
    leaf_axes,
    put,
    shardings,
    share,
    spec,
    unsplit,
)

MESH = Mesh(2, 2, 2).make()


def keyed(tree):
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def test_mesh_takes_what_is_left():
    assert dict(Mesh().make().shape) == {"replica": 1, "data": 8, "model": 1}
    assert dict(Mesh(replica=-1, data=2, model=2).make().shape) == {
        "replica": 2,
        "data": 2,
        "model": 2,
    }
    assert MESH.axis_types == (AxisType.Auto,) * 3


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(3, -1, 1), "3 x 2 x 1 devices (replica x data x model) but there are 8"),
        (Mesh(1, 4, 1), "1 x 4 x 1 devices (replica x data x model) but there are 8"),
        (Mesh(-1, -1, 1), "at most one -1"),
        (Mesh(0, 8, 1), "must be positive"),
    ],
)
def test_impossible_meshes(mesh, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mesh.make()


@pytest.mark.parametrize(
    ("mesh", "near"),
    [
        (Mesh(model=3), ["mesh.model=2", "mesh.model=4"]),
        (Mesh(replica=5), ["mesh.replica=4", "mesh.replica=8"]),
        (Mesh(replica=2, model=3), ["mesh.model=2", "mesh.model=4"]),
        (Mesh(data=3, model=2), ["mesh.data=4"]),
        (Mesh(data=4), ["mesh.replica=2", "mesh.data=8", "mesh.model=2"]),
        (Mesh(data=16), ["mesh.data=8"]),
        (Mesh(model=16), ["mesh.model=8"]),
        (Mesh(replica=3, model=3), ["mesh.replica=1 mesh.data=-1 mesh.model=1"]),
        (Mesh(3, 3, 3), ["mesh.replica=1 mesh.data=-1 mesh.model=1"]),
    ],
)
def test_the_error_names_the_nearest_meshes(mesh, near):
    """Each of which there is."""
    with pytest.raises(ValueError, match=re.escape(f"there are 8: give {' or '.join(near)}") + "$"):
        mesh.make()
    for settings in near:
        changed = mesh
        for setting in settings.split():
            name, _, n = setting.removeprefix("mesh.").partition("=")
            changed = dataclasses.replace(changed, **{name: int(n)})
        assert changed.make().devices.size == 8


def test_every_row_fits_the_rules():
    """No row of the table sends two of its axes to one mesh axis, at any place."""
    for name, axes in PARAMS.items():
        for rules in (RULES, LOCAL):
            spec(axes, (8,) * len(axes), MESH, rules)
            assert all(axis is None or axis in RULES for axis in axes), name


def test_collision_is_refused():
    with pytest.raises(
        ValueError, match=r"two logical axes of \('embed', 'embed'\) map to one mesh axis"
    ):
        spec(("embed", "embed"), (8, 8), MESH, RULES)
    with pytest.raises(ValueError, match="map to one mesh axis"):
        spec(("batch", "embed"), (8, 8), MESH, RULES)


def test_an_axis_that_does_not_divide_is_replicated():
    assert spec(("embed", "heads", None), (8, 3, 5), MESH, RULES) == P("data", None, None)
    assert spec(("batch", None), (6, 4), MESH, RULES) == P(None, None)


def test_a_scanned_stack_adds_unsplit_axes():
    assert spec(("embed", "mlp"), (4, 8, 8), MESH, RULES) == P(None, "data", "model")


def test_unknown_leaf_is_an_error_with_the_fix():
    (path,) = keyed({"trunk": {"wheel": 1}})
    with pytest.raises(KeyError, match=r"trunk/wheel: add 'wheel' to hlm.sharding.PARAMS"):
        leaf_axes(path)


def test_gains_are_named_by_their_last_word():
    (path,) = keyed({"block": {"mlp_scale": 1}})
    assert leaf_axes(path) == PARAMS["scale"]


def test_byte_level_stages_are_not_split_over_model():
    leaf = {"mixer": {"q": np.zeros((8, 8, 8))}, "mlp": {"down": np.zeros((8, 8))}}
    tree = {"trunk": {"encoder": leaf, "backbone": leaf}}
    found = jax.tree.map(lambda s: s.spec, shardings(tree, MESH))["trunk"]
    assert found["encoder"] == {
        "mixer": {"q": P("data", None, None)},
        "mlp": {"down": P(None, "data")},
    }
    assert found["backbone"] == {
        "mixer": {"q": P("data", "model", None)},
        "mlp": {"down": P("model", "data")},
    }
    flat = jax.tree.map(lambda s: s.spec, shardings({"trunk": leaf}, MESH))["trunk"]
    assert flat == found["backbone"]


def test_rows_are_split_over_replica_and_data():
    x = put(np.arange(8).reshape(8, 1), MESH)
    assert x.sharding.shard_shape(x.shape) == (2, 1)
    assert np.array_equal(x, np.arange(8).reshape(8, 1))


def held(processes, each, replica, data, model, order=lambda devices: devices):
    """A mesh of so many processes with `each` devices."""
    devices = [types.SimpleNamespace(process_index=i // each) for i in range(processes * each)]
    grid = np.array(order(devices)).reshape(replica, data, model)
    return types.SimpleNamespace(devices=grid, shape={"model": model})


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (held(1, 8, 2, 2, 2), [0]),
        (held(4, 1, 1, 4, 1), [0, 1, 2, 3]),
        (held(4, 1, 2, 2, 1), [0, 1, 2, 3]),
        (held(4, 2, 1, 4, 2), [0, 1, 2, 3]),  # model lies within a process
        (held(4, 1, 1, 2, 2), [0, 0, 1, 1]),  # and across two
        (held(4, 1, 1, 1, 4), [0, 0, 0, 0]),
        (held(4, 2, 2, 1, 4), [0, 0, 1, 1]),
        (held(2, 2, 1, 2, 2, lambda d: [d[0], d[2], d[1], d[3]]), [0, 0]),  # its own order
        (held(4, 1, 1, 2, 2, lambda d: [d[3], d[1], d[0], d[2]]), [1, 0, 1, 0]),
        (held(2, 2, 1, 4, 1, lambda d: [d[0], d[2], d[1], d[3]]), [0, 1]),
    ],
)
def test_processes_that_hold_the_same_rows_are_one_share(mesh, expected):
    """A process makes the rows of its own devices; others that hold these read the same text."""
    found = [share(mesh, process) for process in range(len(expected))]
    assert found == [(i, len(set(expected))) for i in expected]


@pytest.mark.parametrize(
    "mesh", [held(3, 2, 1, 2, 3), held(2, 3, 1, 3, 2), held(4, 3, 2, 1, 6, lambda d: d[1:] + d[:1])]
)
def test_processes_that_hold_parts_of_each_others_rows_are_refused(mesh):
    each = mesh.devices.size // len({d.process_index for d in mesh.devices.ravel()})
    with pytest.raises(ValueError, match=rf"mesh.model: .* divisor or a multiple of {each}$"):
        share(mesh, 0)


def test_constrain_outside_a_mesh_does_nothing():
    x = np.ones((4, 2))
    assert constrain(x, "batch", None) is x
    with jax.set_mesh(MESH):
        y = jax.jit(lambda x: constrain(x, "batch", None))(x)
    assert y.sharding.shard_shape(y.shape) == (1, 2)


def test_a_width_that_the_mesh_does_not_divide_is_said():
    """And what is advised splits it."""
    params = {"q": np.zeros((3, 12, 2, 4)), "scale": np.zeros(12), "kernel": np.zeros((16, 2))}
    assert not unsplit(params, Mesh(2, 4, 1).make())
    said = unsplit(params, Mesh(1, 8, 1).make())
    assert said.startswith("mesh.data: 8 does not divide the width 12, so every device holds 87%")
    replica, data = (int(n) for n in re.findall(r"mesh.(?:replica|data)=(\d+)", said))
    assert (replica, data) == (2, 4)
    split = shardings(params, Mesh(replica, data, 1).make())
    assert split["q"].spec == P(None, "data", "model", None)
    # of several widths: what splits all, but for few parameters
    two = {"up": np.zeros((12, 9)), "down": np.zeros((9, 10)), "kernel": np.zeros((7, 1))}
    assert unsplit(two, Mesh(1, 8, 1).make()).endswith("mesh.replica=4 mesh.data=2 splits them")
