"""train.py as a process in a folder that is in use, full, or partly not to be written; from any
folder, in a thread.
"""

import json
import signal
import subprocess
import sys
import threading

import jax
import pytest

from hlm.train.__main__ import main
from hlm.train.lock import Busy
from tests.e2e.runs import CONFIG, command, environment, last_step, overrides, start, wait_for
from tests.laws.subjects import ROOT


def test_one_run_in_a_folder(tmp_path):
    """The second is refused by name and disturbs nothing; after kill -9 the next one takes over,
    and this time everything optional fails: it is started elsewhere, with a config file of another
    repository, on a terminal that knows ASCII alone, and cannot draw its curve."""
    run, settings = tmp_path / "run", overrides(tmp_path)
    first = start(run, [*settings, "steps=100000", "every.save=0"])
    wait_for(first, lambda: last_step(run) > 3)
    with pytest.raises(
        Busy, match=rf"{run} is in use by process {first.pid} on \S+, since \S+: two runs would mix"
    ):
        main([str(ROOT / CONFIG), "--workdir", str(run), *settings, "rows=8"])
    wait_for(first, lambda: last_step(run) > 8)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert json.loads((run / "lock").read_text())["pid"] == first.pid

    theirs = tmp_path / "paper:2" / "hat.py"
    theirs.parent.mkdir()
    theirs.write_text("from configs.hat import SIZES, config\nimport own\nassert own.FINE\n")
    (theirs.parent / "own.py").write_text("FINE = True\n")
    (run / "loss.png").mkdir()
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + b"\xff\xfe\n")
    arguments = [f"{theirs}:tiny", "--workdir", str(run), *settings, "steps=10"]
    done = subprocess.run(
        [sys.executable, "-m", "hlm.train", *arguments],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT), PYTHONIOENCODING="ascii", PYTHONUTF8="0"),
        capture_output=True,
        timeout=300,
    )
    said = done.stderr.decode("ascii")
    assert done.returncode == 0, said
    assert f"the lock of process {first.pid} " in said
    assert "taken over: its process is gone" in said
    assert "1 damaged line is left out" in said
    assert "warning: loss.png cannot be written" in said
    assert "Traceback" not in said
    assert last_step(run) == 10
    assert not (run / "lock").exists()
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert ["end" in s for s in starts] == [False, True]
    assert starts[1]["command"] == ["python -m hlm.train", *arguments]
    assert starts[1]["end"] == [10, "done"]


def limited(kib: int, *arguments: str, **options) -> subprocess.CompletedProcess:
    """A process none of whose files can grow beyond so many KiB."""
    return subprocess.run(
        ["bash", "-c", f'ulimit -f {kib} && exec "$@"', "bash", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    """One line with the reason and status 1; the logs are there, the folder is free again."""
    settings = overrides(tmp_path, steps=4, **{"every.save": 2})
    environ = environment(JAX_ENABLE_COMPILATION_CACHE="false")
    done = limited(256, *command(tmp_path / "run", settings), env=environ, stdout=subprocess.PIPE)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"a checkpoint could not be written to {tmp_path / 'run'}: ")
    assert "File too large" in line
    assert not (tmp_path / "run" / "lock").exists()
    assert last_step(tmp_path / "run") >= 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]["end"][
        1
    ].startswith("failed: ")


def test_nobody_reads_what_it_prints(tmp_path):
    """Standard output on a full disk: training goes on, and ends with status 0."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(tmp_path / "run", overrides(tmp_path, steps=3)),
            cwd=ROOT,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "warning: the progress cannot be written" in done.stderr
    assert last_step(tmp_path / "run") == 3


def test_in_a_thread(tmp_path, capsys, monkeypatch):
    """Python lets only the main thread listen to signals: said in a line. Afterwards the main
    thread's handlers are as they were.
    """
    monkeypatch.chdir("/")
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    raised: list[BaseException] = []

    def train(workdir):
        try:
            main([CONFIG, "--workdir", str(workdir), *overrides(tmp_path, steps=2)])
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=train, args=(tmp_path / "thread",))
    thread.start()
    thread.join()
    assert raised == []
    assert "this run is not in the main thread, so signals" in capsys.readouterr().err
    train(tmp_path / "main")
    assert raised == []
    assert last_step(tmp_path / "thread") == last_step(tmp_path / "main") == 2
    assert capsys.readouterr().err == ""
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_train_py_is_found_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: train.py ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rows": 4},
            r"^rows: 4 / accumulate 1 is not a multiple of the 8 data-parallel devices[^\n]*: "
            r".*rows=8[^\n]*$",
        ),
        (
            {"rows": 8, "valid_rows": 12},
            r"^valid_rows: 12 is not a multiple of the 8 [^\n]*: "
            r"give valid_rows=8 or valid_rows=16$",
        ),
    ],
)
def test_more_devices_than_rows(tmp_path, changes, message):
    """One line that names the setting and what it should be, before anything is made."""
    with pytest.raises(ValueError, match=message):
        main(
            [
                str(ROOT / CONFIG),
                "--workdir",
                str(tmp_path / "run"),
                *overrides(tmp_path, **changes),
            ]
        )
    assert not (tmp_path / "run").exists()
