"""run.json, and the comparison of runs by it, by their metrics and, for older folders, by their
checkpoints.
"""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hlm import config, registry, runs
from hlm.checkpoint import Checkpoints
from hlm.train import record
from hlm.train.record import Record, compared, differences
from tests.laws.subjects import ROOT

FLAT, HAT = (str(ROOT / f"configs/{name}.py:tiny") for name in ("flat", "hat"))


def started(
    folder, reference=FLAT, overrides=(), step=0, command=("train.py",), end: object = "done"
) -> dict:
    """run.json after one start; `end`: an error, "done", or None for one that was killed."""
    folder.mkdir(exist_ok=True)
    exp = config.load(reference, overrides)
    one = Record(str(folder), exp, reference, overrides, command, step)
    if isinstance(end, Exception):
        with pytest.raises(type(end)), one:
            raise end
    elif end is not None:
        with one:
            one.step = exp.steps if end == "done" else exp.steps - 1
    return json.loads((folder / "run.json").read_text())


def reports(folder, bits="bits_per_byte", level=2.0, steps=(10, 20)) -> None:
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "step": s,
            "kind": "train",
            bits: level + 1 / s,
            "bytes_per_second": 100.0,
            "bytes_per_row": 50.0,
        }
        for s in steps
    ]
    lines.append({"step": steps[-1], "kind": "valid", bits: level})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_a_run_is(tmp_path):
    found = started(
        tmp_path, overrides=["optim.peak=3e-4"], command=["train.py", FLAT, "--workdir", "x"]
    )
    exp = config.load(FLAT, ["optim.peak=3e-4"])
    assert registry.from_json(found["config"]) == exp
    (start,) = found["starts"]
    assert start["command"] == ["train.py", FLAT, "--workdir", "x"]
    assert (start["config"], start["overrides"], start["seed"], start["step"]) == (
        FLAT,
        ["optim.peak=3e-4"],
        exp.seed,
        0,
    )
    assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "hlm"} <= set(start["versions"])
    assert start["devices"] == {"cpu cpu": 8}
    assert start["pid"] == os.getpid()
    assert start["end"] == [exp.steps, "done"]
    assert {"time", "host", "folder", "processes", "ended", "seconds"} <= set(start)


def test_restarts_are_appended(tmp_path):
    started(tmp_path, end=ValueError("a\nb"))
    started(tmp_path, end=None)
    reports(tmp_path)
    found = started(tmp_path, overrides=["optim.peak=0.5", "steps=3"], step=2, end="stopped")
    ends = [start.get("end", [None, None])[1] for start in found["starts"]]
    assert ends == ["failed: a", None, "stopped"]
    assert found["starts"][1]["seconds"] >= 0  # by its last report
    assert found["starts"][2]["changed"].keys() == {"optim.peak", "steps"}
    assert found["starts"][2]["changed"]["steps"][1] == 3
    assert found["config"]["steps"] == 3
    assert found["starts"][0]["changed"] == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"config": 1, "starts": []}',
        b'{"config": {}, "starts": [1]}',
        b"\xff",
    ],
)
def test_a_damaged_one_is_set_aside(content, tmp_path, capsys):
    (tmp_path / "run.json").write_bytes(content)
    found = started(tmp_path)
    assert len(found["starts"]) == 1
    assert (tmp_path / "damaged_run.json").read_bytes() == content
    assert "is damaged" in capsys.readouterr().err


def test_it_cannot_be_written(tmp_path, capsys):
    (tmp_path / "run.json").mkdir()
    exp = config.load(FLAT)
    with Record(str(tmp_path), exp, FLAT, [], ["train.py"], 0):
        pass
    assert all(line.startswith("warning: ") for line in capsys.readouterr().err.splitlines())


def test_a_kill_leaves_the_old_one(tmp_path, monkeypatch):
    started(tmp_path)
    old = (tmp_path / "run.json").read_bytes()

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        Record(str(tmp_path), config.load(FLAT), FLAT, [], [], 0)
    assert (tmp_path / "run.json").read_bytes() == old


def test_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", "hunter2-token")
    monkeypatch.setenv("WANDB_KEY", "hunter2-key")
    words = [
        "train.py",
        "--workdir",
        "s3://me:hunter2@host/x",
        "valid.paths=('https://hunter2@host/a.txt',)",
    ]
    started(tmp_path, overrides=[words[3]], command=words)
    text = (tmp_path / "run.json").read_text()
    assert "hunter2" not in text
    assert "s3://...@host/x" in text


@pytest.mark.parametrize("tracked", [True, False])
def test_commit(tracked, tmp_path, monkeypatch):
    """Of the repository that a file is in; not of one that it only happens to lie in, nor of the
    one that GIT_DIR names.
    """
    git = [
        "git",
        "-C",
        str(tmp_path),
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "-c",
        "commit.gpgsign=false",
    ]
    file = tmp_path / "inner" / "file.py"
    file.parent.mkdir()
    file.write_text("1")
    assert record.commit(file) is None
    for command in (
        ["init", "-q"],
        ["add", "."] if tracked else ["add", "-N", "-n", "."],
        ["commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run([*git, *command], check=True, capture_output=True)
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    if not tracked:
        assert record.commit(file) is None
        return
    found = record.commit(file)
    assert found is not None
    assert len(found["commit"]) == 40
    assert found["changed"] is False
    file.write_text("2")
    assert record.commit(file) == found | {"changed": True}
    monkeypatch.setenv("PATH", "")
    assert record.commit(file) is None


def test_differences():
    flat, hat, wide = (
        registry.to_json(config.load(*given))
        for given in ((FLAT,), (HAT,), (FLAT, ["model.trunk.depth=1", "rows=4"]))
    )
    assert differences(flat, flat) == {}
    assert {name: new for name, (_, new) in differences(flat, wide).items()} == {
        "model.trunk.depth": 1,
        "rows": 4,
    }
    assert differences(flat, hat)["model.trunk"] == ("Stack", "Hierarchy")
    assert not [name for name in differences(flat, hat) if name.startswith("model.trunk.")]
    assert compared([{"a": 1}, {"b": 2}, {"a": 1, "b": 2}]) == {
        "a": [1, None, 1],
        "b": [None, 2, 2],
    }
    assert compared([{"a": [1, {"_": "X", "c": 1}]}, {"a": [1, {"_": "X", "c": 2}]}]) == {
        "a.1.c": [1, 2]
    }
    assert compared([{"a": [1, 2]}, {"a": [1]}]) == {"a": [[1, 2], [1]]}


def compare(capsys, *arguments) -> tuple[int, str, str]:
    status = runs.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_comparison(tmp_path, capsys):
    """Settings that differ and no others; figures; folders that are no runs in one line."""
    for name, peak, level in (("low", "0.001", 2.5), ("high", "0.004", 2.25)):
        started(tmp_path / name, overrides=[f"optim.peak={peak}", "steps=20"])
        reports(tmp_path / name, level=level)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    picture = tmp_path / "curves.png"
    status, out, err = compare(capsys, *sorted(tmp_path.iterdir()), "--picture", picture)
    assert status == 0
    assert (
        err == f"no run in {tmp_path}/empty, "
        f"{tmp_path}/notes.txt: there is no run.json, "
        "metrics.jsonl or checkpoints\n"
    )
    rows = {
        line.split()[0]: line.split()
        for line in out.splitlines()
        if line.strip()[:4] in ("low ", "high")
    }
    assert rows["low"][1:6] == ["0.001", "20/20", "2.5750", "2.5000", "100"]
    assert rows["high"][1:6] == ["0.004", "20/20", "2.3250", "2.2500", "100"]
    assert "peak" in out
    assert "rows" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_different_models_and_measures(tmp_path, capsys):
    """What a masked model measures has a column, and a panel, of its own."""
    started(tmp_path / "flat", FLAT)
    started(tmp_path / "hat", HAT)
    reports(tmp_path / "flat")
    reports(tmp_path / "hat", bits="bits_per_masked_letter")
    found = [runs.find(str(tmp_path / name)) for name in ("flat", "hat")]
    table = runs.table([run for run in found if run])
    heads = [str(column.header) for column in table.columns]
    assert {"bits per byte\nvalid", "bits per masked letter\nvalid"} <= set(heads)
    (cells,) = (
        list(column.cells)
        for column in table.columns
        if str(column.header) == "bits per byte\nvalid"
    )
    assert list(map(str, cells)) == ["2.0000", "-"]
    assert len(runs.picture([run for run in found if run]).axes) == 2


def test_folders_of_all_kinds(tmp_path, capsys):
    """Damaged, empty or of a run that has not reported yet: a row with what is known."""
    started(tmp_path / "new", end=None)
    reports(tmp_path / "lines_only")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_bytes(b"\xff")
    (tmp_path / "damaged" / "metrics.jsonl").write_bytes(b"\xff\nnull\n{}\n")
    (tmp_path / "no_config" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "märchen").mkdir()
    (tmp_path / "märchen" / "metrics.jsonl").mkdir()
    status, out, err = compare(capsys, *sorted(tmp_path.iterdir()), "--picture", tmp_path / "x.pdf")
    assert status == 0
    assert all(
        any(line.strip().startswith(name) for line in out.splitlines())
        for name in ("new", "lines_only", "damaged", "no_config", "märchen")
    )
    assert "Traceback" not in err
    assert (tmp_path / "x.pdf").exists()


def test_nothing_to_compare(tmp_path, capsys):
    status, out, err = compare(capsys, tmp_path / "a", tmp_path)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["no/such/folder/x.png", "x.nonsense"])
def test_a_picture_that_cannot_be_drawn(name, tmp_path, capsys):
    reports(tmp_path / "run")
    status, out, err = compare(capsys, tmp_path / "run", "--picture", tmp_path / name)
    assert status == 1
    assert "bits per byte" in out
    assert err.startswith(f"--picture: {tmp_path / name} cannot be written: ")
    assert err.count("\n") == 1


def test_names_that_are_equal_are_told_apart():
    assert runs.short_names(["a/run/", "b/run", "c/other"]) == ["a/run", "b/run", "other"]


def test_older_folders(tmp_path):
    """Without run.json the config is that of the newest checkpoint that has one; the time is that
    of the steps.
    """
    exp = dataclasses.replace(config.load(FLAT), steps=20, rows=2)
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    checkpoints.save(20, exp, {"x": np.zeros(2)})
    checkpoints.close()
    reports(tmp_path)
    found = runs.find(str(tmp_path))
    assert found is not None
    assert registry.from_json(found.config) == exp
    assert found.seconds == (20 * 2 * 50 / 100, False)
    assert runs.duration(found.seconds) == "~0:00:20"


def test_a_terminal_that_is_not_utf8(tmp_path):
    reports(tmp_path / "märchen")
    done = subprocess.run(
        [sys.executable, "-m", "hlm.runs", str(tmp_path / "märchen")],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"m?rchen" in done.stdout
