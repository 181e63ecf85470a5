"""One run in a folder at a time: refused by name, taken over when stale, given back at the end."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hlm.train import lock, whole_files
from hlm.train.lock import Busy, Lock, Owner, Taken
from hlm.train.stop import CannotGoOn


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signs of life every tenth of a second; none for two seconds is silence."""
    for name, value in {"BEAT": 0.1, "SILENT": 2.0, "SETTLE": 0.1}.items():
        monkeypatch.setattr(lock, name, value)


@pytest.fixture(params=["folder", "bucket"])
def workdir(request, tmp_path, monkeypatch):
    """A folder of this machine, or what is treated as one in a bucket."""
    if request.param == "bucket":
        for module in (whole_files, lock):
            monkeypatch.setattr(module, "is_remote", lambda path: True)
    return tmp_path / "run"


def write(workdir, **changes) -> Owner:
    """The lock of another process."""
    owner = dataclasses.replace(Owner.me(), **changes)
    workdir.mkdir(exist_ok=True)
    (workdir / "lock").write_bytes(owner.content())
    return owner


def gone() -> dict:
    """A process of this machine that has ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    started = lock.started(process.pid)
    process.communicate(b"\n")
    return {"pid": process.pid, "started": started}


def test_the_second_is_refused_by_name(workdir):
    with Lock(str(workdir)) as first:
        assert json.loads((workdir / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(
            Busy,
            match=rf"in use by process {os.getpid()} on {first.me.host}, "
            rf"since {first.me.since[:10]}T\S+: two runs",
        ):
            Lock(str(workdir)).take()
        first.confirm()
    assert not (workdir / "lock").exists()
    with Lock(str(workdir)):
        pass


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
def test_given_back_at_every_end(end, workdir):
    with pytest.raises(end), Lock(str(workdir)):
        raise end
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    "kind", ["ended", "number used again", "killed, its parent has not looked"]
)
def test_a_process_that_is_gone(kind, workdir, capsys):
    process = None
    if kind == "ended":
        changes = gone()
    elif kind == "number used again":
        changes = {"started": "1"}
    else:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        changes = {"pid": process.pid, "started": lock.started(process.pid)}
        process.kill()
        while lock.running(process.pid):
            time.sleep(0.01)
    owner = write(workdir, token="x", **changes)
    begun = time.monotonic()
    with Lock(str(workdir)) as mine:
        assert time.monotonic() - begun < 2  # seen at once
        assert mine.mine(mine.seen())
    assert (
        f"the lock of process {owner.pid} on {owner.host}, since {owner.since} is taken over: "
        "its process is gone" in capsys.readouterr().err
    )
    if process is not None:
        process.communicate()


@pytest.mark.parametrize(
    "changes",
    [{"host": "another"}, {"machine": "restarted"}, {"space": "pid:[1]"}],
    ids=lambda c: next(iter(c)),
)
def test_a_process_that_cannot_be_seen_from_here(changes, workdir, capsys):
    """Silence decides, not the clock: it is watched for a while."""
    write(workdir, token="x", **changes)
    begun = time.monotonic()
    with Lock(str(workdir)):
        assert time.monotonic() - begun > 1
    assert "no sign of life for 2 s" in capsys.readouterr().err


def test_an_old_lock_is_not_watched(tmp_path):
    """The file system's own clock says that there was no sign of life for long."""
    write(tmp_path, host="another", token="x")
    os.utime(tmp_path / "lock", (1, 1))
    begun = time.monotonic()
    with Lock(str(tmp_path)):
        assert time.monotonic() - begun < 1.5


def test_one_that_is_at_work_elsewhere(workdir, monkeypatch):
    """It gives signs of life, which are seen, and is never taken over, whatever its clock says."""
    far = Lock(str(workdir))
    far.me = dataclasses.replace(far.me, host="another", since="1970-01-01")
    with far:
        for when in (None, (1, 1), (2**33, 2**33)):
            if when and not far.remote:
                os.utime(workdir / "lock", when)
                time.sleep(0.3)  # until its next sign of life
            with pytest.raises(Busy, match=r"in use by process .* on another, since 1970"):
                Lock(str(workdir)).take()
            far.confirm()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"pid": "x"}', b"[" * 100_000, b"null"]
)
def test_a_damaged_lock(content, workdir, capsys, monkeypatch):
    monkeypatch.setattr(lock, "SILENT", 0.2)
    workdir.mkdir()
    (workdir / "lock").write_bytes(content)
    with Lock(str(workdir)) as mine:
        mine.confirm()
    assert "the lock of a damaged file is taken over" in capsys.readouterr().err


def test_taken_over_by_another(workdir):
    """One that was stopped for so long that it lost the folder writes there no more, and leaves
    the other's lock alone.
    """
    first = Lock(str(workdir))
    first.take()
    other = write(workdir, host="another", token="y")
    with pytest.raises(Taken, match=r"has been taken over by process .* on another"):
        first.confirm()
    first.release()
    assert Owner.read((workdir / "lock").read_bytes()) == other


def test_a_lock_that_is_removed_is_put_back(workdir):
    with Lock(str(workdir)) as mine:
        (workdir / "lock").unlink()
        mine.confirm()
        assert mine.mine(mine.seen())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CannotGoOn, match=r"--workdir: nothing can be written to .*file"):
            Lock(str(folder)).take()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lock, "write_whole", full)
        mine = Lock(str(tmp_path / "run"))
        mine.take()  # a full disk may have space again before the first checkpoint
    assert "cannot be written ([Errno 28] No space left on device)" in capsys.readouterr().err
    mine.confirm()
    with pytest.raises(Busy):
        Lock(str(tmp_path / "run")).take()
    mine.release()


def test_many_at_once(tmp_path):
    """Of many that find the same stale lock, one gets the folder."""
    write(tmp_path, token="x", **gone())
    ready, taken, refused = threading.Barrier(8), [], []

    def one():
        mine = Lock(str(tmp_path))
        ready.wait()
        try:
            mine.take()
            taken.append(mine)
        except Busy:
            refused.append(mine)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)
    taken[0].confirm()
    taken[0].release()


def hold(workdir: str, held) -> None:
    with Lock(workdir):
        held.set()
        time.sleep(60)


def test_kill(tmp_path, capsys):
    """kill -9 of the process that holds it; the next one goes on at once."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), held))
    process.start()
    assert held.wait(60)
    with pytest.raises(Busy, match=f"in use by process {process.pid} "):
        Lock(str(tmp_path)).take()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Lock(str(tmp_path)):
        pass
    assert f"the lock of process {process.pid} " in capsys.readouterr().err


def test_a_process_that_cannot_be_looked_at_is_not_gone(monkeypatch):
    """Such as with too many open files here, or where there is no /proc."""
    mine = Owner.me()
    monkeypatch.setattr(lock, "content", lambda path: "")
    assert mine.runs()
    assert not dataclasses.replace(mine, pid=gone()["pid"]).runs()
