"""Saving and resuming without a model to train: a few arrays, a data iterator that counts."""

import asyncio
import gc
import warnings

import grain
import jax
import numpy as np
import pytest

from hlm import checkpoint, config, sharding
from hlm.checkpoint import Checkpoints, abstract_on, newest_sound
from tests.laws.subjects import ROOT

MESH = sharding.Mesh().make()


def numbers():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def tree(value):
    return {"trunk": {"kernel": np.full((8, 4), value, np.float32), "out_scale": np.full(4, value, np.float32)}}


def abstract(of, mesh=MESH):
    return abstract_on(of, sharding.shardings(of, mesh))


def experiment():
    return config.load(str(ROOT / "configs/flat.py:tiny"))


def saved(folder, steps, keep=10):
    checkpoints, data = Checkpoints(str(folder), keep), numbers()
    for step in range(1, max(steps) + 1):
        next(data)
        if step in steps:
            params = jax.tree.map(jax.device_put, tree(step), sharding.shardings(tree(step), MESH))
            checkpoints.save(step, experiment(), params, (np.asarray(step, np.int32), tree(-step)), data)
    checkpoints.close()


def resumed(folder, mesh=MESH):
    checkpoints, data = Checkpoints(str(folder), 10), numbers()
    abstract_train = (jax.ShapeDtypeStruct((), np.int32, sharding=sharding.shardings(np.asarray(0), mesh)), abstract(tree(0), mesh))
    found = checkpoints.resume(abstract(tree(0), mesh), abstract_train, data)
    checkpoints.close()
    return found, data


def test_resume_is_the_newest_and_moves_the_data(tmp_path):
    assert resumed(tmp_path)[0] is None
    saved(tmp_path, [2, 5])
    (step, params, (done, optim)), data = resumed(tmp_path, sharding.Mesh(2, 2, 2).make())
    assert (step, int(done)) == (5, 5)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, tree(5)))
    assert jax.tree.all(jax.tree.map(np.array_equal, optim, tree(-5)))
    assert next(data) == 5
    assert dict(params["trunk"]["kernel"].sharding.mesh.shape) == {"replica": 2, "data": 2, "model": 2}


def test_only_the_newest_are_kept(tmp_path):
    saved(tmp_path, [1, 2, 3], keep=2)
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.steps == [3, 2]
    assert checkpoints.config(3) == experiment()
    checkpoints.close()


def test_a_step_is_saved_once(tmp_path):
    saved(tmp_path, [1])
    saved(tmp_path, [1])
    assert resumed(tmp_path)[0][0] == 1


@pytest.mark.parametrize("item", ["params", "train", "data", "params/d", "train/d"])
def test_a_damaged_checkpoint_gives_way(item, tmp_path):
    """`d` holds the arrays alone, which are read only when all else is found sound."""
    saved(tmp_path, [2, 5])
    for path in (tmp_path / "checkpoints" / "5" / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="checkpoints/5 cannot be read, trying an older one"):
        (step, params, _), data = resumed(tmp_path)
    assert step == 2
    assert float(params["trunk"]["kernel"][0, 0]) == 2.0
    assert next(data) == 2


def test_unfinished_folders_are_no_checkpoints(tmp_path):
    saved(tmp_path, [2])
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
    assert resumed(tmp_path)[0][0] == 2


def test_newest_sound():
    def read(step):
        if step > 2:
            raise OSError(f"step {step} is broken")
        return step

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert newest_sound([4, 3, 2, 1], read, "here") == 2
    assert [str(w.message) for w in caught] == [
        f"checkpoint here/{n} cannot be read, trying an older one: step {n} is broken" for n in (4, 3)
    ]
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="no checkpoint in here can be read") as error,
    ):
        newest_sound([4, 3], read, "here")
    assert str(error.value.__cause__) == "step 4 is broken"


def test_other_shapes_are_refused(tmp_path):
    saved(tmp_path, [2])
    checkpoints = Checkpoints(str(tmp_path))
    other = {"trunk": {"kernel": np.zeros((4, 4), np.float32), "out_scale": np.zeros(4, np.float32)}}
    with pytest.raises(ValueError, match="shape"):
        checkpoints.params(2, MESH, other)
    checkpoints.close()


def test_a_failed_read_leaves_none_behind(tmp_path):
    """The first of many arrays fails at once; the others are being read then, and must not outlive the loop they report to."""
    many = {f"{i:02}": {"out_scale": np.zeros(4, np.float32)} for i in range(40)}
    checkpoints = Checkpoints(str(tmp_path), 1)
    checkpoints.save(1, experiment(), jax.tree.map(jax.device_put, many, sharding.shardings(many, MESH)))
    checkpoints.manager.wait_until_finished()
    with pytest.raises(ValueError, match="shape"):
        checkpoints.params(1, MESH, many | {"00": {"out_scale": np.zeros(5, np.float32)}})
    tasks = [x for x in gc.get_objects() if isinstance(x, asyncio.Task)]
    assert tasks
    assert all(task.done() for task in tasks)
    checkpoints.close()


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoints in"):
        checkpoint.load_params(str(tmp_path / "nothing"))
