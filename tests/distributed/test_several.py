"""Three processes, then four on another mesh, then two, are one run: one is told to stop, one is
killed, the last two end it.
"""

import gzip
import json
import signal
import socket
import sys
import time

import hlm
from tests.e2e.runs import ROOT, last_step, metrics, overrides

sys.path.insert(0, str(ROOT / "benchmarks"))
import endure_runs  # type: ignore

PATIENCE = 900  # seconds until so many have begun, on a machine that does much else
LATEST = 300  # seconds until they end


def begin(run, settings, count, until):
    """So many processes, when the run has reported step `until`."""
    processes = endure_runs.together(run, settings, count)
    end = time.monotonic() + PATIENCE
    while last_step(run) < until:
        if time.monotonic() > end or any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            raise AssertionError([endure_runs.said(process)[1][-2000:] for process in processes])
        time.sleep(0.05)
    return processes


def end(processes, seconds=LATEST):
    try:
        return [endure_runs.said(process, seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def dealt(before, after):
    return f"the data are dealt out anew: shares were {before} and are {after}"


def half_packed(settings, folder):
    """Half of the text is read at random, the other half, packed, file by file."""
    text = (folder / "text.txt").read_bytes()
    for i, part in enumerate((text[:2000], text[2000:])):
        (folder / f"{i}.txt.gz").write_bytes(gzip.compress(part))
    sources = [f"TextFiles(('{folder}/{name}',), piece=300)" for name in ("text.txt", "*.gz")]
    rest = [setting for setting in settings if not setting.startswith("data.source.")]
    return [f"data.source=Mixture(({', '.join(sources)}), (1, 1))", *rest]


def test_three_then_four_then_two(tmp_path):
    run = tmp_path / "run"
    settings = overrides(
        tmp_path,
        rows=12,
        keep=3,
        **{"every.save": 0, "every.save_minutes": 0.02, "optim.warmup": 1},
    )
    settings = half_packed(settings, tmp_path)

    # Three: SIGTERM to the last one lets all of them save behind the same step.
    three = begin(run, [*settings, "steps=100_000"], 3, 3)
    three[2].send_signal(signal.SIGTERM)
    told = end(three)
    (newest,) = {hlm.load(str(run)).step}
    stopped = f"stopped at step {newest}, saved; start the same command again to continue"
    assert [status for status, _ in told] == [1, 1, 1], told
    assert all(text.count(stopped) == 1 and "Traceback" not in text for _, text in told), told
    positions = {path.name for path in (run / "checkpoints" / str(newest) / "data").iterdir()}
    assert {f"process_{i}-of-3.json" for i in range(3)} <= positions

    # Four, on a mesh of two by two: the last is killed. The others say so in one line.
    split = [*settings, "steps=100_000", "mesh.model=2"]
    four = begin(run, split, 4, newest + 3)
    four[3].kill()
    told = end(four)
    gone = f"process 3 (pid {four[3].pid} on {socket.gethostname()}) is gone: this run ends"
    assert [status for status, _ in told] == [1, 1, 1, -signal.SIGKILL], told
    assert all(text.count(gone) == 1 and "Traceback" not in text for _, text in told[:3]), told
    assert dealt(3, 2) in told[0][1]  # two processes hold the same rows
    assert not (run / "lock").exists()  # process 0 has given the folder back

    # Two end it, from the newest checkpoint that all could read.
    saved = hlm.load(str(run)).step
    assert saved >= newest
    last = saved + 3
    told = end(endure_runs.together(run, [*settings, f"steps={last}"], 2), PATIENCE)
    assert [status for status, _ in told] == [0, 0], told
    # two shares go on as such, whatever number of processes read them
    assert (dealt(3, 2) in told[0][1]) == (saved == newest)
    assert "dealt out" not in told[1][1]
    assert hlm.load(str(run)).step == last
    steps = [line["step"] for line in metrics(run) if line["kind"] == "train"]
    assert steps == list(range(1, last + 1))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["seconds"]["away"] > 0
