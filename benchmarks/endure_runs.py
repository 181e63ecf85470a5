"""Small training runs of endure.py: how they are started, and what they leave."""

import contextlib
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = pathlib.Path(__file__).parents[1]
AMBUSH = pathlib.Path(__file__).with_name("endure_ambush.py")
CONFIG, STEPS, SAVE = "configs/hat.py:tiny", 24, 6
SOURCE = "hlm/data/corpus/mobydick/valid.txt"


class Outcome(NamedTuple):
    kind: str
    tried: int
    lost: list[str]  # what happened, for each that did not hold


def settings(folder: pathlib.Path, **changes: Any) -> list[str]:
    """A small HAT on some kilobytes of text."""
    text = (ROOT / SOURCE).read_bytes()
    for name, part in (("text", text[:6000]), ("valid", text[6000:7000])):
        (folder / f"{name}.txt").write_bytes(part)
    given = {
        "data.source.paths": (str(folder / "text.txt"),),
        "data.source.piece": 300,
        "data.length": 64,
        "valid.paths": (str(folder / "valid.txt"),),
        "model.trunk.capacity": 24,
        "model.trunk.encoder.depth": 1,
        "model.trunk.backbone.depth": 1,
        "model.trunk.decoder.depth": 1,
        "rows": 2,
        "steps": STEPS,
        "optim.warmup": 5,
        "every.log": 1,
        "every.save": SAVE,
        "every.evaluate": 0,
    }
    return [f"{name}={value}" for name, value in (given | changes).items()]


def start(
    run: pathlib.Path,
    given: Sequence[str],
    ambush: str = "",
    limit: int = 0,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """A training run, or one that an ambush waits for, or one whose files cannot be longer than
    `limit` bytes.
    """
    options = ["--distributed"] if variables else []
    program = [str(AMBUSH), ambush] if ambush else ["-m", "hlm.train"]
    flags = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path.home() / ".cache" / "hlm-tests"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "COLUMNS": "200",
    }
    limited = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.Popen(
        [sys.executable, *program, CONFIG, "--workdir", str(run), *options, *given],
        cwd=ROOT,
        env=environment | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limited,
    )


def together(
    run: pathlib.Path, given: Sequence[str], count: int = 2
) -> list[subprocess.Popen[str]]:
    """Several processes of one run, which find each other as under Slurm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_NODES": "1",
    }
    own = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]
    return [start(run, given, variables=shared | each) for each in own]


def said(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    """(exit status, what it printed, in one line); one that hangs is killed."""
    try:
        printed = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return 124, "hangs: " + " ".join(process.communicate()[0].split())
    return process.returncode, " ".join(printed.split())


def lines(run: pathlib.Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the machine decides; a line that a kill has cut does not count."""
    from hlm.train.log import OF_THE_MACHINE

    path, found = run / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            found.append({k: v for k, v in values.items() if k not in OF_THE_MACHINE})
    return found


def bits(run: pathlib.Path) -> dict[str, bytes]:
    import jax
    import numpy as np

    from hlm import checkpoint

    _, _, params = checkpoint.load_params(str(run))
    found = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(at): np.asarray(x).tobytes() for at, x in found}


def whole(run: pathlib.Path, undisturbed: pathlib.Path) -> str:
    """What differs from the run that nobody disturbed; "" if nothing does."""
    if lines(run) != lines(undisturbed):
        return f"{run.name}: metrics.jsonl differs"
    return "" if bits(run) == bits(undisturbed) else f"{run.name}: parameters differ"


def last_step(run: pathlib.Path) -> int:
    return max((line["step"] for line in lines(run)), default=0)


def undisturbed(folder: pathlib.Path) -> pathlib.Path:
    run = folder / "undisturbed"
    if not run.exists():
        status, printed = said(start(run, settings(folder)))
        if status:
            raise RuntimeError(f"the run does not even end undisturbed: {printed[-2000:]}")
    return run
