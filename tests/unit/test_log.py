"""Logs that cannot be written, metrics.jsonl over restarts, TensorBoard's points."""

import json
import os
import shutil
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tensorboardX.proto import event_pb2

from hlm.metrics import Mean
from hlm.train import aside, board, log, metrics_file
from hlm.train.aside import Aside
from hlm.train.board import Board
from hlm.train.metrics_file import MetricsFile, lines_until


def values(step: int) -> dict[str, Mean]:
    one = jnp.ones(())
    return {
        name: Mean(jnp.asarray(8.0 - step / 10), one)
        for name in ("loss", "bits_per_byte", "bytes_per_row")
    }


def train(
    folder, start: int = 0, steps: int = 5, until: int | None = None, between=lambda step: None
) -> log.Log:
    """Report steps as train.py does; `until`: killed behind that step."""
    journal = log.Log(str(folder), steps, start, 1, "bits_per_byte", "byte_accuracy")
    for step in range(start, until or steps):
        between(step)
        journal.push(step, values(step), None)  # type: ignore
    if until is None:
        journal.flush()
        journal.write(
            steps, "valid", {"bits_per_byte": 3.0, "byte_accuracy": 0.5, "word_accuracy": None}
        )
        journal.close()
    else:
        journal.flush()
        journal.bar.stop()
        journal.save()
        journal.files.put("", journal.board.close)
        journal.files.close()
    return journal


def reports(folder) -> list[tuple[int, str]]:
    return [
        (line["step"], line["kind"])
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    ]


WHOLE = [(step, "train") for step in range(1, 6)] + [(5, "valid")]


def test_a_run(tmp_path, capsys):
    train(tmp_path / "run")
    assert reports(tmp_path / "run") == WHOLE
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "loss.png",
        "metrics.jsonl",
        "tensorboard",
    ]
    assert capsys.readouterr().err == ""


# What stands where a file should be written, so that it cannot.
def folder_there(path):
    path.mkdir(parents=True)


def full_device(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "loss.png"])
@pytest.mark.parametrize("hindrance", [folder_there, full_device], ids=lambda h: h.__name__)
def test_one_file_cannot_be_written(name, hindrance, tmp_path, capsys):
    """A warning of one line; the others are written."""
    if name == "tensorboard" and hindrance is folder_there:
        (tmp_path / name).write_text("")
    else:
        hindrance(tmp_path / name)
    train(tmp_path)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: ")
    assert ("TensorBoard" if name == "tensorboard" else name) in warnings[0]
    assert os.path.exists("/dev/full")
    if name != "metrics.jsonl":
        assert reports(tmp_path) == WHOLE
    if name != "loss.png":
        assert (tmp_path / "loss.png").stat().st_size > 1000


def test_no_folder_at_all(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    train(tmp_path / "file" / "run")
    lines = capsys.readouterr().err.splitlines()
    assert {
        line.split(" cannot")[0].removeprefix("warning: ").rpartition("/")[2] for line in lines
    } == {"metrics.jsonl", "TensorBoard's files", "loss.png"}


def test_the_folder_is_removed(tmp_path):
    """While training; what was reported before comes back with the next evaluation."""
    train(
        tmp_path / "run",
        between=lambda step: step == 3 and (time.sleep(0.2), shutil.rmtree(tmp_path / "run")),
    )
    assert reports(tmp_path / "run") == WHOLE


@pytest.mark.parametrize("cut", [0, 10])
def test_the_file_is_cut(cut, tmp_path):
    train(
        tmp_path / "run",
        between=lambda step: (
            step == 3 and (time.sleep(0.2), os.truncate(tmp_path / "run" / "metrics.jsonl", cut))
        ),
    )
    assert reports(tmp_path / "run") == WHOLE


class Full:
    """A disk that is full for a while: writes fail, also half-way."""

    def __init__(self, monkeypatch):
        self.full, self.begun = False, 0
        for module in (metrics_file, log):
            monkeypatch.setattr(module, "write_whole", self.guard(module.write_whole))
        monkeypatch.setattr(
            metrics_file.MetricsFile, "append", self.half(metrics_file.MetricsFile.append)
        )
        monkeypatch.setattr(board.RecordWriter, "flush", self.guard(board.RecordWriter.flush))

    def guard(self, real):
        def run(*arguments):
            if self.full:
                self.begun += 1
                raise OSError(28, "No space left on device")
            return real(*arguments)

        return run

    def half(self, real):
        def run(file, record):
            if not self.full or not file.grows:
                return real(file, record)
            real(file, record)
            os.truncate(file.path, os.path.getsize(file.path) - 7)
            file.grows = False
            raise OSError(28, "No space left on device")

        return run


def test_a_full_disk_for_a_while(tmp_path, monkeypatch, capsys):
    """Nothing is lost but time: all lines and points are there once there is space again."""
    disk = Full(monkeypatch)

    def between(step):
        time.sleep(0.1)
        disk.full = 1 <= step < 4

    train(tmp_path, between=between)
    assert disk.begun
    assert reports(tmp_path) == WHOLE
    assert {step for step, _ in points(tmp_path)} == {1, 2, 3, 4, 5}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("No space left on device" in line for line in lines)


def test_training_does_not_wait_for_a_disk(tmp_path, monkeypatch, capsys):
    """A file system that hangs: steps go on, and so does the end, after a while."""
    hangs = threading.Event()
    monkeypatch.setattr(aside, "PATIENCE", 0.3)
    monkeypatch.setattr(log, "Aside", lambda: Aside(0.3))
    monkeypatch.setattr(MetricsFile, "append", lambda *_: hangs.wait(60))
    monkeypatch.setattr(aside, "MOST", 8)
    begun = time.monotonic()
    journal = train(tmp_path, steps=20)
    assert time.monotonic() - begun < 20
    hangs.set()
    journal.files.thread.join(20)
    journal.board.close()
    assert "the file system has not answered for 0.3 s" in capsys.readouterr().err


def test_a_terminal_that_is_gone(tmp_path, monkeypatch, capsys):
    def gone(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("rich.console.Console.print", gone)
    train(tmp_path)
    assert reports(tmp_path) == WHOLE
    assert capsys.readouterr().err.count("warning: the progress cannot be written") == 1


def test_the_batch_of_a_bad_loss_cannot_be_kept(tmp_path):
    (tmp_path / "bad_batch_0.npz").mkdir()
    journal = log.Log(str(tmp_path), 5, 0, 1, "bits_per_byte", "byte_accuracy")
    journal.push(
        0, values(0) | {"loss": Mean(jnp.asarray(np.nan), jnp.ones(()))}, log.Batch(*[None] * 7)
    )  # type: ignore
    with pytest.raises(
        log.NonFinite, match=r"the loss of step 0 is nan; its batch could not be kept"
    ):
        journal.flush()
    journal.close()


def line(step: int, kind: str = "train", **more) -> bytes:
    return json.dumps({"step": step, "kind": kind} | more).encode()


@pytest.mark.parametrize(
    ("bad", "damaged"),
    [
        (b"", 0),
        (b"\r", 0),
        (b"not json", 1),
        (b'{"step": 3, "kind"', 1),
        (b"\xff\xfe\x00", 1),
        (b'{"step": 3, "kind": "\xff"}', 1),
        (b"null", 1),
        (b"[]", 1),
        (b"3", 1),
        (b'{"kind": "train"}', 1),
        (b'{"step": "3", "kind": "train"}', 1),
        (b'{"step": true, "kind": "train"}', 1),
        (b'{"step": NaN, "kind": "train"}', 1),
        (b'{"step": 3}', 1),
        (b"[" * 100_000, 1),
        (b'{"step": ' + b"9" * 5000 + b', "kind": "train"}', 1),
        (b"\0" * 4096, 0),
        ("\u2028{}\x0c\x85".encode(), 1),
    ],
)
def test_damaged_lines(bad, damaged):
    """Anywhere: they alone are missing, and each is counted."""
    sound = [line(1), line(2, text="\u2028"), line(2, "valid")]
    for place in range(4):
        lines = [*sound[:place], bad, *sound[place:]]
        for end in (b"", b"\n"):
            assert lines_until(b"\n".join(lines) + end, 5) == ([x + b"\n" for x in sound], damaged)


def test_a_line_behind_a_piece_of_another():
    sound = line(2)
    assert lines_until(line(1)[:9] + sound, 5) == ([sound + b"\n"], 1)
    assert lines_until(b"\0\0\0" + sound + b"\r\n", 5) == ([sound + b"\n"], 0)


def test_any_bytes():
    rng = np.random.default_rng(0)
    whole = b"\n".join([line(i) for i in range(30)])
    for _ in range(200):
        text = bytearray(whole)
        for at in rng.integers(0, len(text), 5):
            text[at] = rng.integers(0, 256)
        kept, _ = lines_until(bytes(text), 100)
        assert len(kept) >= 30 - 2 * 5
        assert lines_until(b"".join(kept), 100) == (kept, 0)


def test_restart(tmp_path, capsys):
    """Lines of steps that are made again go; damaged ones too, with one warning; the rest stays,
    byte for byte.
    """
    train(tmp_path, until=4)
    path = tmp_path / "metrics.jsonl"
    old = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        old[0] + b"\xff\n" + old[1] + b"nothing\n" + b"".join(old[2:]) + b'{"step": 5, "ki'
    )
    train(tmp_path, start=3)
    assert reports(tmp_path) == WHOLE
    assert path.read_bytes().splitlines(keepends=True)[:3] == old[:3]
    assert "3 damaged lines are left out" in capsys.readouterr().err


def test_a_kill_while_restarting(tmp_path, monkeypatch):
    """At whatever point of it, the old lines are there."""
    train(tmp_path, until=4)
    path = tmp_path / "metrics.jsonl"
    old = path.read_bytes()
    for name in ("fsync", "open"):
        with monkeypatch.context() as patch:

            def killed(*_):
                raise KeyboardInterrupt

            if name == "fsync":
                patch.setattr(os, "fsync", killed)
            else:
                patch.setattr("pathlib.Path.replace", killed)
            with pytest.raises(KeyboardInterrupt):
                MetricsFile(epath.Path(tmp_path) / "metrics.jsonl", 2).save()
        assert path.read_bytes() == old
    MetricsFile(epath.Path(tmp_path) / "metrics.jsonl", 4)
    assert path.read_bytes() == old


def test_a_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere" / "m.jsonl")
    train(tmp_path)
    assert (tmp_path / "metrics.jsonl").is_symlink()
    assert reports(tmp_path) == WHOLE


def test_a_bucket(tmp_path, monkeypatch):
    """Written whole, through epath, at evaluations and at the end; never renamed or appended to."""
    train(tmp_path / "disk")
    monkeypatch.setattr(metrics_file, "is_remote", lambda path: True)
    monkeypatch.setattr("hlm.train.whole_files.is_remote", lambda path: True)
    monkeypatch.setattr(log, "is_remote", lambda path: True)
    monkeypatch.setattr(board, "is_remote", lambda path: True)
    whole = []
    real = type(epath.Path(tmp_path)).write_bytes
    monkeypatch.setattr(
        type(epath.Path(tmp_path)),
        "write_bytes",
        lambda path, data: (whole.append(path.name), real(path, data))[1],
    )
    run = tmp_path / "run"
    train(run, until=3)
    train(run, start=2)
    assert reports(run) == WHOLE
    assert whole.count("metrics.jsonl") == 4
    assert whole.count("loss.png") == 1
    assert {path.name for path in (run / "tensorboard").iterdir()} < set(whole)  # the same way
    assert points(run) == points(tmp_path / "disk")


def points(folder) -> list[tuple[int, str]]:
    """What TensorBoard shows: files in the order of their names; a start takes back the points from
    its step on.
    """
    shown: list[tuple[int, str]] = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log"):
                shown = [point for point in shown if point[0] < event.step]
            shown += [(event.step, value.tag) for value in event.summary.value]
    return shown


def test_tensorboard_keeps_the_point_of_the_step_it_resumes_from(tmp_path):
    train(tmp_path / "whole")
    run = tmp_path / "run"
    train(run, until=3)
    train(run, start=2, until=4)
    train(run, start=4)
    assert points(run) == points(tmp_path / "whole")
    assert (2, "train/loss") in points(run)
    assert (5, "valid/bits_per_byte") in points(run)


def test_starts_within_a_second_have_files_of_their_own(tmp_path):
    for step in range(3):
        one = Board(epath.Path(tmp_path / "tensorboard"), step)
        one.add(step + 1, {"x": 1.0})
        one.close()
    assert [step for step, _ in points(tmp_path)] == [1, 2, 3]


def test_a_line_that_could_not_be_appended_is_written_later(tmp_path, monkeypatch):
    file = MetricsFile(epath.Path(tmp_path) / "metrics.jsonl", 0)
    file.save()
    file.append({"step": 1, "kind": "train"})
    with monkeypatch.context() as patch:
        patch.setattr(
            type(file.path),
            "open",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
        with pytest.raises(OSError, match="No space left"):
            file.append({"step": 2, "kind": "train"})
    file.append({"step": 3, "kind": "train"})
    file.save()
    assert [step for step, _ in reports(tmp_path)] == [1, 2, 3]


def test_memory_of_a_device_that_keeps_count(tmp_path, monkeypatch):
    def device(stats):
        return types.SimpleNamespace(memory_stats=lambda: stats)

    train(tmp_path / "none")
    monkeypatch.setattr(jax, "local_devices", lambda: [device({"peak_bytes_in_use": 3 * 2**20})])
    train(tmp_path / "some")
    for folder, found in (("none", None), ("some", 3.0)):
        line = json.loads((tmp_path / folder / "metrics.jsonl").read_text().splitlines()[0])
        assert line.get("device_memory_mib") == found
