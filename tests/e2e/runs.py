"""Starting train.py as a user does, on a model and a text of a few kilobytes."""

import json
import os
import pathlib
import subprocess
import sys
import time

from hlm.train.log import OF_THE_MACHINE
from tests.laws.subjects import ROOT, corpus

CONFIG = "configs/hat.py:tiny"
STEPS = 60


def overrides(folder: pathlib.Path, **changes) -> list[str]:
    text = folder / "text.txt"
    text.write_bytes(corpus()[:6000])
    valid = folder / "valid.txt"
    valid.write_bytes(corpus()[6000:7000])
    settings = {
        "data.source.paths": (str(text),),
        "data.source.piece": 300,
        "data.length": 64,
        "valid.paths": (str(valid),),
        "model.trunk.capacity": 24,
        "model.trunk.encoder.depth": 1,
        "model.trunk.backbone.depth": 1,
        "model.trunk.decoder.depth": 1,
        "rows": 2,
        "steps": STEPS,
        "optim.warmup": 5,
        "every.log": 1,
        "every.save": 20,
        "every.evaluate": 0,
    }
    return [f"{name}={value}" for name, value in (settings | changes).items()]


def command(
    workdir: pathlib.Path, settings: list[str], *options: str, config: str = CONFIG
) -> list[str]:
    return [sys.executable, "train.py", config, "--workdir", str(workdir), *options, *settings]


def environment(**changes: str) -> dict[str, str]:
    """One device, whatever the tests themselves have."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    return (
        os.environ | {"XLA_FLAGS": flags, "COLUMNS": "200", "PYTHONWARNINGS": "default"} | changes
    )


def start(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments, **options),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, expected: int = 0) -> str:
    """What it printed; it must end with that exit status."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == expected, out[-5000:]
    return out


def wait_for(process: subprocess.Popen, what, seconds: float = 300) -> None:
    """Until `what()` is true; the process must still run then."""
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[0][-5000:]
        assert time.monotonic() < end
        time.sleep(0.01)


def metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl without what the machine decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in OF_THE_MACHINE & set(line):
            line.pop(name)
    return lines


def last_step(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
