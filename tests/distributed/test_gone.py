"""kill -9 of one of two processes in mid-step: the other says which, at once, and nothing is
damaged.
"""

import json
import socket
import sys
import time

import hlm
from tests.e2e.runs import ROOT, last_step, overrides

sys.path.insert(0, str(ROOT / "benchmarks"))
import endure_runs  # type: ignore

LATEST = 60  # seconds


def test_the_first_of_two_is_killed(tmp_path):
    """It holds the lock and the store in which the processes meet. Another one: test_several.py."""
    run, victim = tmp_path / "run", 0
    settings = overrides(tmp_path, rows=4, steps=100_000, **{"every.save": 2, "optim.warmup": 1})
    both = endure_runs.together(run, settings)
    try:
        end = time.monotonic() + 300
        while last_step(run) < 5:
            assert time.monotonic() < end
            assert all(process.poll() is None for process in both), [
                process.communicate()[0][-3000:] for process in both
            ]
            time.sleep(0.05)
        both[victim].kill()
        begun = time.monotonic()
        printed, _ = both[1 - victim].communicate(timeout=2 * LATEST)
        took = time.monotonic() - begun
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert both[1 - victim].returncode == 1, printed[-3000:]
    assert took < LATEST
    line = (
        f"process {victim} (pid {both[victim].pid} on {socket.gethostname()}) is gone: this run "
        "ends; start the same command again"
    )
    assert " ".join(printed.split()).count(line) == 1
    assert "Traceback" not in printed
    assert hlm.load(str(run)).step >= 2
    assert all(
        json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()
    )


def test_the_second_distributed_run_is_refused_in_all_its_processes(tmp_path):
    """Process 0 asks for the lock; the others do not wait for it for ever, and say why."""
    from hlm.train.lock import Lock

    settings = overrides(tmp_path, rows=4, steps=3)
    with Lock(str(tmp_path / "run")):
        both = endure_runs.together(tmp_path / "run", settings)
        printed = [process.communicate(timeout=200)[0] for process in both]
        assert [process.returncode for process in both] == [1, 1], printed
    for text in printed:
        assert f"{tmp_path / 'run'} is in use by process " in text
        assert "Traceback" not in text
