"""Weights & Biases beside TensorBoard, by a package that only takes notes."""

import sys
import types

import pytest

from hlm.train.stop import CannotGoOn
from hlm.train.wandb_board import WandbBoard
from tests.unit.test_log import WHOLE, log, reports, values


class Noted:
    """What stands for the package `wandb`: each run, and what it was told."""

    def __init__(self, fails=0):
        self.runs, self.fails = [], fails

    def init(self, **given):
        if self.fails:
            self.fails -= 1
            raise RuntimeError("no network")
        run = types.SimpleNamespace(given=given, points=[], metrics=[], finished=0)
        run.log = run.points.append
        run.define_metric = lambda name, step_metric=None: run.metrics.append((name, step_metric))

        def finish():
            run.finished += 1

        run.finish = finish
        self.runs.append(run)
        return run


def run(folder, monkeypatch, noted, start=0, steps=5):
    monkeypatch.setitem(sys.modules, "wandb", noted)
    board = WandbBoard(str(folder), "team/words", {"seed": 0})
    shown = "bits_per_byte", "byte_accuracy"
    journal = log.Log(str(folder), steps, start, 1, *shown, None, None, board)
    for step in range(start, steps):
        journal.push(step, values(step), None)
    journal.flush()
    journal.write(steps, "valid", {"bits_per_byte": 3.0, "byte_accuracy": 0.5})
    journal.close()


def test_one_run_over_all_starts(tmp_path, monkeypatch):
    noted = Noted()
    run(tmp_path / "run", monkeypatch, noted, steps=3)
    run(tmp_path / "run", monkeypatch, noted, start=2)
    run(tmp_path / "other", monkeypatch, noted)
    first, second, other = noted.runs
    assert first.given["project"] == "words"
    assert first.given["entity"] == "team"
    assert first.given["config"] == {"seed": 0}
    assert first.given["resume"] == "allow"
    assert first.given["name"] == "run"
    assert first.given["id"] == second.given["id"] != other.given["id"]
    assert first.metrics == [("step", None), ("*", "step")]
    assert [point["step"] for point in first.points] == [1, 2, 3, 3]
    assert [point["step"] for point in second.points] == [3, 4, 5, 5]
    assert first.points[0]["train/loss"] == 8.0
    assert first.points[-1]["valid/bits_per_byte"] == 3.0
    assert [one.finished for one in noted.runs] == [1, 1, 1]
    assert not any(isinstance(v, dict) for point in first.points for v in point.values())


def test_a_network_that_is_gone_stops_nothing(tmp_path, monkeypatch, capsys):
    noted = Noted(fails=1)  # at the first try; all points come with the next
    run(tmp_path, monkeypatch, noted)
    assert reports(tmp_path) == WHOLE
    assert [point["step"] for point in noted.runs[0].points] == [1, 2, 3, 4, 5, 5]
    run(tmp_path / "never", monkeypatch, Noted(fails=99))
    assert reports(tmp_path / "never") == WHOLE
    said = capsys.readouterr().err.splitlines()
    assert (
        said
        == ["warning: W&B cannot be written (RuntimeError: no network); training goes on without"]
        * 2
    )


def test_steps_that_are_done_again(tmp_path, monkeypatch):
    noted = Noted()
    monkeypatch.setitem(sys.modules, "wandb", noted)
    board = WandbBoard(str(tmp_path), "words", {})
    for step in (1, 2, 3):
        board.add(step, {"x": 1.0, "text": "no number"})
    board.back(2)
    board.add(3, {"x": 2.0})
    board.close()
    points = [{"step": 1, "x": 1.0}, {"step": 2, "x": 1.0}, {"step": 3, "x": 2.0}]
    assert noted.runs[0].points == points
    assert noted.runs[0].given["entity"] is None


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(CannotGoOn, match="--wandb: the package is not installed; pip install"):
        WandbBoard(str(tmp_path), "words", {})
