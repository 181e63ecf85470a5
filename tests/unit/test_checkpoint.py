"""Saving and resuming without a model to train: a few arrays, a data iterator that counts."""

import asyncio
import contextlib
import gc
import json
import random
import shutil
import warnings

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hlm import (
    agree,
    checkpoint,
    config,
    digests,
    fit,
    registry,
    sharding,
)
from hlm.checkpoint import Checkpoints, abstract_on, folder, newest_sound
from hlm.positions import OtherData
from tests.laws.subjects import ROOT

MESH = sharding.Mesh().make()


def numbers():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def tree(value):
    return {
        "trunk": {
            "kernel": np.full((64, 64), value, np.float32),
            "out_scale": np.full(4, value, np.float32),
        }
    }


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
            checkpoints.save(
                step, experiment(), params, (np.asarray(step, np.int32), tree(-step)), data
            )
    checkpoints.close()


def resumed(folder, mesh=MESH):
    checkpoints, data = Checkpoints(str(folder), 10), numbers()
    abstract_train = (
        jax.ShapeDtypeStruct((), np.int32, sharding=sharding.shardings(np.asarray(0), mesh)),
        abstract(tree(0), mesh),
    )
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
    assert dict(params["trunk"]["kernel"].sharding.mesh.shape) == {
        "replica": 2,
        "data": 2,
        "model": 2,
    }


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
        f"checkpoint here/{n} cannot be read, trying an older one: step {n} is broken"
        for n in (4, 3)
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
    other = {
        "trunk": {"kernel": np.zeros((4, 4), np.float32), "out_scale": np.zeros(4, np.float32)}
    }
    with pytest.raises(ValueError, match="shape"):
        checkpoints.params(2, MESH, other)
    checkpoints.close()


def test_a_failed_read_leaves_none_behind(tmp_path):
    """The first of many arrays fails at once; the others are being read then, and must not outlive
    the loop they report to.
    """
    many = {f"{i:02}": {"out_scale": np.zeros(4, np.float32)} for i in range(40)}
    checkpoints = Checkpoints(str(tmp_path), 1)
    checkpoints.save(
        1, experiment(), jax.tree.map(jax.device_put, many, sharding.shardings(many, MESH))
    )
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


# --- damage of every file


def files_of(folder, step):
    at = folder / "checkpoints" / str(step)
    return sorted(str(p.relative_to(at)) for p in at.rglob("*") if p.is_file())


def flip(content, seed):
    at = random.Random(seed).randrange(len(content) * 8)
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


DAMAGES = {
    "flipped": lambda path, seed: path.write_bytes(flip(path.read_bytes(), seed)),
    "truncated": lambda path, seed: path.write_bytes(
        path.read_bytes()[: random.Random(seed).randrange(path.stat().st_size)]
    ),
    "emptied": lambda path, seed: path.write_bytes(b""),
    "deleted": lambda path, seed: path.unlink(),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with checkpoints 2 and 5."""
    folder = tmp_path_factory.mktemp("two")
    saved(folder, [2, 5])
    return folder


@pytest.mark.filterwarnings("ignore:checkpoint .* cannot be read")
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("item", ["config", "params", "train", "data", "_CHECKPOINT_METADATA"])
def test_no_damage_is_read(item, how, two, tmp_path):
    """Whatever happens to one file of the newest checkpoint: its own values or those of the older
    one, in whole, never others.
    """
    resumes = 0
    for seed, name in enumerate(n for n in files_of(two, 5) if n.split("/")[0] == item):
        run = tmp_path / str(seed)
        shutil.copytree(two, run)
        path = run / "checkpoints" / "5" / name
        if not path.stat().st_size:
            continue
        DAMAGES[how](path, seed)
        (step, params, (done, optim)), data = resumed(run)
        assert step in (2, 5)
        assert int(done) == step
        assert jax.tree.all(
            jax.tree.map(np.array_equal, (params, optim), (tree(step), tree(-step)))
        )
        assert next(data) == step
        if step == 2 and resumes == 0:  # the run goes on: what is saved next is there
            saved(run, [3, 5])
            assert resumed(run)[0][0] == 5
        resumes += 1
    assert resumes


@pytest.mark.parametrize("item", ["config", "params"])
def test_load_reads_no_damage(item, two, tmp_path):
    names = [n for n in files_of(two, 5) if n.split("/")[0] == item and "commit_success" not in n]
    for seed, name in enumerate(names):
        run = tmp_path / str(seed)
        shutil.copytree(two, run)
        DAMAGES["flipped"](run / "checkpoints" / "5" / name, seed)
        checkpoints = Checkpoints(str(run))
        with pytest.raises(
            digests.Damaged, match=r"digests.json is damaged|its contents are not|is missing"
        ):
            checkpoints.config(5) if item == "config" else checkpoints.params(5, MESH, tree(0))
        assert checkpoints.config(2) == experiment()
        assert float(checkpoints.params(2, MESH, tree(0))["trunk"]["kernel"][0, 0]) == 2


def test_a_flipped_bit_in_the_arrays_was_unseen(two, tmp_path):
    """That the digests do the work: without them orbax reads some flipped bits as other numbers."""
    wrong = 0
    for seed in range(4):
        run = tmp_path / str(seed)
        shutil.copytree(two, run)
        at = run / "checkpoints" / "5" / "params"
        for path in (at / "ocdbt.process_0" / "d").iterdir():
            DAMAGES["flipped"](path, seed)
        with contextlib.suppress(Exception):
            read = checkpoint.restored(
                checkpoint.folder(str(run)) / "5" / "params", abstract(tree(0))
            )
            wrong += not jax.tree.all(jax.tree.map(np.array_equal, read, tree(5)))
        with pytest.raises(digests.Damaged):
            Checkpoints(str(run)).params(5, MESH, tree(0))
    assert wrong


def test_checkpoints_of_a_version_without_digests_are_read(tmp_path):
    """As they were written before: orbax's own handlers, nothing beside them."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
    manager = ocp.CheckpointManager(
        tmp_path / "checkpoints", item_names=("config", "params", "train", "data"), options=options
    )
    data = numbers()
    next(data)
    params = jax.tree.map(jax.device_put, tree(1), sharding.shardings(tree(1), MESH))
    items = {
        "config": ocp.args.JsonSave(registry.to_json(experiment())),
        "params": ocp.args.StandardSave(params),
    }
    items |= {
        "train": ocp.args.StandardSave((np.asarray(1, np.int32), tree(-1))),
        "data": grain.checkpoint.CheckpointSave(data),
    }
    manager.save(1, args=ocp.args.Composite(**items))
    manager.close()
    with pytest.warns(UserWarning, match="without digests: damage may go unseen"):
        (step, params, (done, optim)), data = resumed(tmp_path)
    assert (step, int(done), next(data)) == (1, 1, 1)
    assert jax.tree.all(jax.tree.map(np.array_equal, (params, optim), (tree(1), tree(-1))))
    with pytest.warns(UserWarning, match="without digests"):
        assert Checkpoints(str(tmp_path)).config(1) == experiment()


# --- what lies beside the checkpoints


def stray(folder, kind):
    path = folder / "checkpoints" / "99"
    if kind == "empty":
        path.mkdir()
    elif kind == "empty items":
        (path / "params").mkdir(parents=True)
    elif kind == "file":
        path.write_text("99")
    elif kind == "copy":
        shutil.copytree(folder / "checkpoints" / "2", path)
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")


@pytest.mark.filterwarnings("ignore:checkpoint .*99 cannot be read")
@pytest.mark.parametrize("kind", ["empty", "empty items", "file", "copy", "other"])
def test_saves_follow_a_stray_step(kind, tmp_path, capsys):
    saved(tmp_path, [2])
    stray(tmp_path, kind)
    checkpoints, data = Checkpoints(str(tmp_path), 2), numbers()
    train = (
        jax.ShapeDtypeStruct((), np.int32, sharding=sharding.shardings(np.asarray(0), MESH)),
        abstract(tree(0)),
    )
    assert checkpoints.resume(abstract(tree(0)), train, data)[0] == 2
    kept = checkpoints.folder / ("stray-99" if kind == "file" else "damaged-99")
    assert kept.exists() == (not kind.startswith("empty"))
    said = f"checkpoint 99 is damaged; it is kept as {kept} and not used" in capsys.readouterr().out
    assert said == (kind in ("copy", "other"))
    checkpoints.save(3, experiment(), tree(3), (np.asarray(3, np.int32), tree(-3)), data)
    checkpoints.close()
    assert Checkpoints(str(tmp_path)).steps == [3, 2]
    assert resumed(tmp_path)[0][0] == 3


def test_a_refused_save_is_an_error(tmp_path):
    saved(tmp_path, [5])
    checkpoints = Checkpoints(str(tmp_path), 2)
    with pytest.raises(
        RuntimeError, match=r"checkpoint 3 was refused: .* has \[5\]; move the newer ones away"
    ):
        checkpoints.save(3, experiment(), tree(3), (np.asarray(3, np.int32), tree(-3)), numbers())
    checkpoints.close()


def test_leftovers_of_killed_saves_are_deleted(tmp_path):
    saved(tmp_path, [2])
    left = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    (left / "params").mkdir(parents=True)
    (left / "params" / "d").write_bytes(b"half")
    Checkpoints(str(tmp_path))
    assert left.exists()  # a reader leaves a run alone that may be saving
    assert resumed(tmp_path)[0][0] == 2
    assert not left.exists()


# --- diverged models


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (("params", np.nan), "params/trunk/kernel"),
        (("params", np.inf), "params/trunk/kernel"),
        (("optim", -np.inf), "train/1/trunk/kernel"),
    ],
)
def test_numbers_that_are_not_finite_are_not_saved(bad, where, tmp_path):
    part, value = bad
    params, optim = tree(1), tree(-1)
    (params if part == "params" else optim)["trunk"]["kernel"][3, 2] = value
    checkpoints = Checkpoints(str(tmp_path), 2)
    with pytest.raises(
        checkpoint.NotFinite,
        match=rf"the state of step 1 is not saved: {where} \(1 in all\) not finite",
    ):
        checkpoints.save(1, experiment(), params, (np.asarray(1, np.int32), optim), numbers())
    checkpoints.close()
    assert Checkpoints(str(tmp_path)).steps == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_sound_one_stays_beside_one_that_diverged(keep, tmp_path, capsys):
    checkpoints, data = Checkpoints(str(tmp_path), keep), numbers()
    for step in (2, 4, 6, 8):
        checkpoints.save(
            step, experiment(), tree(step), (np.asarray(step, np.int32), tree(-step)), data
        )
    assert checkpoints.diverged(8) == 6
    checkpoints.close()
    assert "checkpoint 8 is diverged; it is kept as" in capsys.readouterr().out
    assert resumed(tmp_path)[0][0] == 6
    # It diverges again at the same place: one is kept aside, not many.
    checkpoints = Checkpoints(str(tmp_path), keep)
    checkpoints.save(8, experiment(), tree(8), (np.asarray(8, np.int32), tree(-8)), data)
    assert checkpoints.diverged(8) == 6
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("div*")) == ["diverged-8"]


def test_settled_checkpoints_are_as_many_as_asked_for(tmp_path):
    checkpoints, data = Checkpoints(str(tmp_path), 1), numbers()
    for step in (2, 4, 6):
        checkpoints.save(
            step, experiment(), tree(step), (np.asarray(step, np.int32), tree(-step)), data
        )
    checkpoints.settle()
    checkpoints.close()
    assert Checkpoints(str(tmp_path)).steps == [6]


# --- data


class Misfitting:
    """Data whose position is of something else."""

    def __init__(self):
        self.state = {"made_with": {"seed": 2}, "at": 0}

    def get_state(self):
        return dict(self.state)

    def set_state(self, state):
        if state["made_with"] != self.state["made_with"]:
            raise ValueError(f"seed was {state['made_with']} and is {self.state['made_with']}")
        self.state = dict(state)

    def redeal(self, states):
        if len(states) == 4:
            raise ValueError("the states of 4 do not say it")
        self.state = {"redealt": states}
        return "the data are dealt out anew"


def test_data_that_cannot_go_on(two, tmp_path, capsys):
    shutil.copytree(two, tmp_path / "run")
    train = (
        jax.ShapeDtypeStruct((), np.int32, sharding=sharding.shardings(np.asarray(0), MESH)),
        abstract(tree(0)),
    )
    at = tmp_path / "run" / "checkpoints" / "5" / "data"
    (at / "process_0-of-1.json").write_text(json.dumps({"made_with": {"seed": 0}, "at": 5}))
    digests.write(checkpoint.folder(str(tmp_path / "run")) / "5" / "data")
    checkpoints, data = Checkpoints(str(tmp_path / "run"), 2), Misfitting()
    with pytest.raises(OtherData, match="seed was"):
        checkpoints.resume(abstract(tree(0)), train, data)
    assert checkpoints.steps == [5, 2]  # sound: nothing was moved
    found = checkpoints.resume(abstract(tree(0)), train, data, fresh_data=True)
    assert found[0] == 5
    assert float(found[1]["trunk"]["kernel"][0, 0]) == 5
    assert data.state["at"] == 0
    assert "the data begin anew" in capsys.readouterr().out
    (at / "process_0-of-1.json").rename(at / "process_0-of-4.json")
    digests.write(checkpoint.folder(str(tmp_path / "run")) / "5" / "data")
    for i in range(3):
        shutil.copy(at / "process_0-of-4.json", at / f"process_{i + 1}-of-4.json")
    digests.write(checkpoint.folder(str(tmp_path / "run")) / "5" / "data")
    with pytest.raises(OtherData, match="the states of 4 do not say it"):
        checkpoints.resume(abstract(tree(0)), train, data)
    for i in range(4):
        (at / f"process_{i}-of-4.json").unlink()
    for i in range(12):  # in order of their numbers
        (at / f"process_{i}-of-12.json").write_text(json.dumps(i))
    digests.write(checkpoint.folder(str(tmp_path / "run")) / "5" / "data")
    checkpoints.resume(abstract(tree(0)), train, data)
    assert data.state == {"redealt": list(range(12))}
    assert "the data are dealt out anew" in capsys.readouterr().out
    checkpoints.close()


# --- runs by name


def test_run_and_step(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.run_and_step("runs/a@20") == ("runs/a", 20)
    assert checkpoint.run_and_step("runs/a") == ("runs/a", None)
    assert checkpoint.run_and_step("@20") == ("@20", None)
    assert checkpoint.run_and_step("a@b") == ("a@b", None)
    shutil.copytree(two, tmp_path / "run@425")
    assert checkpoint.run_and_step("run@425") == ("run@425", None)
    assert checkpoint.run_and_step("run@425@5") == ("run@425", 5)


def test_parts_are_cut_out_of_whole_models():
    ours = {
        "trunk": {"backbone": {"a": np.zeros(2), "b": np.zeros((3, 2))}, "x": np.zeros(1)},
        "embed": np.zeros(4),
    }
    theirs = {
        "trunk": {"backbone": {"a": np.ones(2), "b": np.ones((3, 2))}, "x": np.zeros(9)},
        "embed": np.zeros(7),
    }
    assert fit.fitting(theirs, ours, "trunk/backbone") is theirs["trunk"]["backbone"]
    assert (
        fit.fitting(theirs["trunk"]["backbone"], ours, "trunk/backbone")
        is theirs["trunk"]["backbone"]
    )
    with pytest.raises(
        ValueError,
        match=r"^the given parameters do not fit: embed has shape \(7,\), not \(4,\); trunk/x",
    ) as e:
        fit.fitting(theirs, ours, "")
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"given for trunk/x do not fit: "):
        fit.fitting(theirs, ours, "trunk/x")
    with pytest.raises(
        ValueError, match="the parameters have no 'backbones'; there are backbone, x"
    ):
        fit.fitting(theirs, ours, "trunk/backbones")
    many = {f"p{i}": np.zeros(i) for i in range(40)}
    with pytest.raises(fit.Misfit, match=r"; and 37 more$"):
        fit.check({f"p{i}": np.zeros(i + 1) for i in range(40)} | {"q": np.zeros(1)}, many, "they")


# --- several processes, of which this is one


@pytest.fixture
def others(monkeypatch):
    """What the other process says to each question of `agree.each`, in turn."""
    answers = []
    monkeypatch.setattr(agree, "each", lambda number: [number, answers.pop(0)])
    return answers


def read_all_but(*bad):
    def read(step):
        if step in bad:
            raise OSError("broken") if bad[0] == step else fit.Misfit("other shapes")
        return step

    return read


def test_a_step_that_another_process_cannot_read_is_not_taken(others):
    others += [checkpoint.DAMAGED, checkpoint.OK]
    with pytest.warns(
        UserWarning,
        match="checkpoint here/4 cannot be read, trying "
        "an older one: "
        "another process cannot read it",
    ):
        assert newest_sound([4, 3], read_all_but(), "here", together=True) == 3
    others += [checkpoint.OK, checkpoint.OK]
    with pytest.warns(UserWarning, match="broken"):
        assert newest_sound([4, 3], read_all_but(4), "here", together=True) == 3
    assert not others


def test_a_misfit_ends_all_processes_and_damage_elsewhere_none(others):
    others += [checkpoint.MISFIT]
    with pytest.raises(fit.Misfit, match="here/4 does not fit in another process"):
        newest_sound([4, 3], read_all_but(), "here", together=True)
    others += [checkpoint.DAMAGED, checkpoint.OK]
    with pytest.warns(UserWarning, match="other shapes"):
        assert newest_sound([4, 3], read_all_but(0, 4), "here", together=True) == 3


def test_steps_that_differ_are_named(others):
    others += [18, 24]
    agree.same(18, "the step to begin at")
    with pytest.raises(
        ValueError, match="the step to begin at differs: 18 in process 0, 24 in process 1"
    ):
        agree.same(18, "the step to begin at")


@pytest.mark.parametrize("address", ["gs://bucket/runs/hat", "s3://bucket/hat"])
def test_an_address_in_a_bucket_is_no_local_folder(address, tmp_path, monkeypatch):
    """etils would make it one below the current folder, and the run would be gone with its disk."""
    monkeypatch.chdir(tmp_path)
    assert str(folder(address)) == f"{address}/checkpoints"
    assert str(folder("runs/hat")) == str(tmp_path / "runs" / "hat" / "checkpoints")
