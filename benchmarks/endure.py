"""What a run survives: kills, damaged checkpoints, full disks, a process that is gone, and callers
who give nonsense.

    python benchmarks/endure.py [--minutes 10] [--only kills damage disk processes calls] [--seed 0]

Prints a table: what was tried, how often it held, how often something was lost. A killed run holds
if it ends, started again, with every logged number and every parameter as the run that nobody
disturbed, bit for bit. A damaged checkpoint holds if what is read is all of one step, or nothing. A
call holds if it gives a result or an error of one line. Each part stops when its share of the time
is over.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = pathlib.Path(__file__).parents[1]
CONFIG, STEPS, SAVE = "configs/hat.py:tiny", 24, 6
SOURCE = "hlm/data/corpus/mobydick/valid.txt"


class Outcome(NamedTuple):
    kind: str
    tried: int
    lost: list[str]  # what happened, for each that did not hold


# --- runs


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
    program = [sys.executable, __file__, "--child", ambush] if ambush else []
    program = program or [sys.executable, "-m", "hlm.train"]
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
        [*program, CONFIG, "--workdir", str(run), *options, *given],
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


# --- kills

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
AMBUSHES = {  # (function, how many calls later, signal, before or behind the call)
    "in mid-step": ("hlm.train.log:Log.push", 5, KILL, "behind"),
    "before step 1": ("hlm.train.log:Log.__init__", 1, TERM, "before"),
    "as a save begins": ("hlm.checkpoint:Checkpoints.save", 1, KILL, "behind"),
    "during a save": ("hlm.digests:write", 2, KILL, "before"),
    "as a save ends": ("hlm.digests:write", 4, KILL, "behind"),
    "while metrics are rewritten": ("hlm.train.metrics_file:write_whole", 1, KILL, "before"),
    "between write and rename": ("os:fsync", 2, KILL, "behind"),
    "between two lines": ("hlm.train.metrics_file:MetricsFile.append", 4, KILL, "behind"),
    "while resuming": ("hlm.checkpoint:restored", 1, KILL, "behind"),
    "while leftovers are deleted": ("hlm.checkpoint:clean", 1, KILL, "before"),
    "asked to stop": ("hlm.train.log:Log.push", 3, TERM, "behind"),
    "Ctrl-C": ("hlm.train.log:Log.push", 4, INT, "before"),
    "while the lock is taken": ("hlm.train.lock:Lock.__enter__", 1, KILL, "behind"),
    "while it is written what it is": ("hlm.train.record:Record.write", 1, KILL, "behind"),
}


def lie_in_wait(name: str) -> None:
    """Replace a function by one that sends this process a signal at one of its calls."""
    import importlib

    place, calls, number, where = AMBUSHES[name]
    module, _, path = place.partition(":")
    *owners, last = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    usual, left = getattr(owner, last), [calls]

    def trap(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and where == "before":
            os.kill(os.getpid(), number)
        result = usual(*arguments, **options)
        if left[0] == 0 and where == "behind":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, last, trap)


def undisturbed(folder: pathlib.Path) -> pathlib.Path:
    run = folder / "undisturbed"
    if not run.exists():
        status, printed = said(start(run, settings(folder)))
        if status:
            raise RuntimeError(f"the run does not even end undisturbed: {printed[-2000:]}")
    return run


def kills(
    reference: pathlib.Path,
    folder: pathlib.Path,
    given: Sequence[str],
    names: Sequence[str],
    seed: int,
    until: float,
) -> Iterator[Outcome]:
    """Runs of several starts, each killed in one of the ways (some at a random moment, "") and
    started again, then left to end.
    """
    rng = random.Random(seed)
    tried: dict[str, list[str]] = {}
    todo = list(names)
    while todo and time.monotonic() < until:
        part, todo = todo[:4], todo[4:]
        run = folder / f"killed-{len(todo)}"
        wrong = ""
        for name in part:
            process = start(run, given, name)
            if not name:
                wait_until = last_step(run) + rng.randint(1, 4)
                while process.poll() is None and last_step(run) < wait_until:
                    time.sleep(0.02)
                time.sleep(rng.random() * 0.3)
                process.kill()
            status, printed = said(process)
            asked = name and AMBUSHES[name][2] != KILL
            expected = 1 if asked else -KILL
            silent = asked and status and "start the same command again to continue" not in printed
            if status not in (expected, 0) or "Traceback" in printed or silent:
                wrong = wrong or f"{name}: status {status}: {printed[-300:]}"
            if lines(run) != lines(reference)[: len(lines(run))]:
                wrong = wrong or f"{name}: metrics.jsonl differs"
        status, printed = said(start(run, given))
        wrong = wrong or (f"status {status}: {printed[-300:]}" if status else whole(run, reference))
        for name in part:
            tried.setdefault(name or "at a random moment", []).append(wrong)
        shutil.rmtree(run)
    for name, found in tried.items():
        yield Outcome(f"killed {name}", len(found), [wrong for wrong in found if wrong])


# --- damage


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) * 8)
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


DAMAGES: dict[str, Callable[[pathlib.Path, random.Random], Any]] = {
    "truncated": lambda p, rng: p.write_bytes(p.read_bytes()[: rng.randrange(p.stat().st_size)]),
    "emptied": lambda p, rng: p.write_bytes(b""),
    "deleted": lambda p, rng: p.unlink(),
    "one bit flipped": lambda p, rng: p.write_bytes(flip(p.read_bytes(), rng)),
}


class Reader:
    """Reads a run's state as train.py does when it goes on."""

    def __init__(self, given: Sequence[str]):
        from hlm import config
        from hlm.checkpoint import abstract_on
        from hlm.train import step

        self.exp = config.load(str(ROOT / CONFIG), list(given))
        import jax

        self.mesh = self.exp.mesh.make(jax.devices()[:1])
        abstract, shardings, _ = step.init_state(self.exp, self.mesh)
        self.target = abstract_on(abstract, shardings)

    def state(self, run: pathlib.Path) -> tuple[int, list[bytes], str]:
        """(step, arrays, position in the data) of what would be resumed."""
        import jax
        import numpy as np

        from hlm.checkpoint import Checkpoints
        from hlm.data import pipeline
        from hlm.data.pack import Budget
        from hlm.model.hierarchy import capacities

        exp = self.exp
        budget = Budget(exp.data.length, capacities(exp.model.trunk))
        data = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, exp.seed)
        train = self.target.step, self.target.optim
        found = Checkpoints(str(run)).resume(self.target.params, train, data)
        position = json.dumps(data.get_state())
        data.close()
        if found is None:
            raise ValueError("there is no checkpoint")
        arrays = [np.asarray(x).tobytes() for x in jax.tree.leaves(found[1:])]
        return found[0], arrays, position


def damage(
    run: pathlib.Path, given: Sequence[str], seed: int, until: float, share: float = 1.0
) -> Iterator[Outcome]:
    """Every file of every checkpoint, damaged in every way: resumed is one step in whole, or an
    error names the file.
    """
    import warnings

    rng, reader = random.Random(seed), Reader(given)
    steps = sorted(p for p in (run / "checkpoints").iterdir() if p.name.isdecimal())
    sound: dict[int, Any] = {}
    for at in steps:  # what each step holds
        alone = run.with_name("alone")
        shutil.copytree(at, alone / "checkpoints" / at.name)
        sound[int(at.name)] = reader.state(alone)
        shutil.rmtree(alone)
    files = [p for at in steps for p in sorted(at.rglob("*")) if p.is_file() and p.stat().st_size]
    found: dict[str, Outcome] = {name: Outcome(f"a file {name}", 0, []) for name in DAMAGES}
    jobs = [(file, name) for file in files for name in DAMAGES if rng.random() < share]
    rng.shuffle(jobs)
    for file, name in jobs:
        if time.monotonic() > until:
            break
        before, told = file.read_bytes(), ""
        DAMAGES[name](file, rng)
        try:
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                state = reader.state(run)
            if state != sound.get(state[0]):
                told = f"{file.relative_to(run)}: resumed with other values"
        except ValueError as error:
            told = "" if str(file.parent.name) in str(error) else f"{file.name}: {error}"
        except Exception as error:
            told = f"{file.relative_to(run)}: {type(error).__name__}: {error}"
        file.write_bytes(before)
        found[name] = Outcome(
            found[name].kind, found[name].tried + 1, found[name].lost + [told] * bool(told)
        )
    yield from found.values()


# --- a full disk


def disk(folder: pathlib.Path, until: float) -> Iterator[Outcome]:
    """Files that cannot grow beyond some size; a file system without room, where one may be made.

    The run ends in one line, and goes on exactly when there is room again.
    """
    reference, given = undisturbed(folder), settings(folder)
    tried, lost = 0, []
    for limit in (300, 3_000, 60_000, 400_000):
        if time.monotonic() > until:
            break
        run = folder / f"limited-{limit}"
        status, printed = said(start(run, given, limit=limit))
        tried += 1
        if status not in (0, 1) or "Traceback" in printed:
            lost.append(f"{limit} bytes: status {status}: {printed[-300:]}")
            continue
        status, printed = said(start(run, given))
        if wrong := f"status {status}: {printed[-300:]}" if status else whole(run, reference):
            lost.append(f"{limit} bytes: {wrong}")
        shutil.rmtree(run)
    yield Outcome("no file longer than 0.3 to 400 kB", tried, lost)
    tried, lost = 0, []
    for kilobytes in (64, 4_000, 12_000):
        if time.monotonic() > until:
            break
        run = folder / "full"
        run.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(run)]
        if subprocess.run(mount, capture_output=True).returncode:
            run.rmdir()
            break
        try:
            status, printed = said(start(run, given))
            tried += 1
            if status not in (0, 1) or "Traceback" in printed:
                lost.append(f"{kilobytes} kB: status {status}: {printed[-300:]}")
            subprocess.run(["mount", "-o", "remount,size=200m", str(run)], check=True)
            status, printed = said(start(run, given))
            if wrong := f"status {status}: {printed[-300:]}" if status else whole(run, reference):
                lost.append(f"{kilobytes} kB: {wrong}")
        finally:
            subprocess.run(["umount", "-l", str(run)], check=False)
            run.rmdir()
    if tried:
        yield Outcome("disk full (tmpfs)", tried, lost)


# --- two processes


def processes(folder: pathlib.Path, until: float) -> Iterator[Outcome]:
    """Either of two is killed in mid-step: the other ends within a minute and says which; both
    started again end as if nothing had been.
    """
    given = settings(folder, rows=4, steps=12)
    reference = folder / "two"
    if any(status for status, _ in map(said, together(reference, given))):
        yield Outcome("two processes: undisturbed", 1, ["did not end"])
        return
    for victim in (0, 1):
        if time.monotonic() > until:
            return
        run, wrong = folder / f"without-{victim}", ""
        both = together(run, given)
        while last_step(run) < 7 and all(process.poll() is None for process in both):
            time.sleep(0.02)
        both[victim].kill()
        begun = time.monotonic()
        status, printed = said(both[1 - victim], 120)
        said(both[victim])
        if status != 1 or "Traceback" in printed or f"process {victim} (pid" not in printed:
            wrong = f"status {status}: {printed[-300:]}"
        elif time.monotonic() - begun > 60:
            wrong = "the other took more than a minute"
        again = [said(process) for process in together(run, given)]
        if not wrong and any(status for status, _ in again):
            wrong = again[0][1][-300:]
        wrong = wrong or whole(run, reference)
        yield Outcome(f"process {victim} of two killed", 1, [wrong] * bool(wrong))


# --- the table


def table(found: Sequence[Outcome]) -> str:
    """Markdown."""
    rows = [(o.kind, str(o.tried), str(o.tried - len(o.lost)), str(len(o.lost))) for o in found]
    head = ("what", "tried", "held", "lost")
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * 4, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("kills", "damage", "disk", "processes", "calls")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=5000)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    begun, found = time.monotonic(), []
    shares = {"kills": 0.45, "damage": 0.6, "disk": 0.75, "processes": 0.9, "calls": 1.0}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = folder if set(args.only) <= {"processes", "calls"} else undisturbed(folder)
        names = [*AMBUSHES, *[""] * 6]
        for part in args.only:
            until = begun + 60 * args.minutes * (shares[part] if len(args.only) > 1 else 1)
            if part == "kills":
                outcomes = kills(run, folder, settings(folder), names, args.seed, until)
            elif part == "damage":
                outcomes = damage(run, settings(folder), args.seed, until)
            elif part == "disk":
                outcomes = disk(folder, until)
            elif part == "processes":
                outcomes = processes(folder, until)
            else:
                import hostile  # beside this file

                outcomes = [Outcome("hostile calls", *hostile.calls(args.calls, args.seed, until))]
            for outcome in outcomes:
                found.append(outcome)
                print(
                    f"{outcome.kind}: {outcome.tried} tried, {len(outcome.lost)} lost", flush=True
                )
                print(
                    "".join(f"    {what[:500]}\n" for what in outcome.lost[:5]), end="", flush=True
                )
    print(table(found), f"\n{time.monotonic() - begun:.0f} s, seed {args.seed}")
    sys.exit(any(outcome.lost for outcome in found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        name, sys.argv = sys.argv[2], ["hlm.train", *sys.argv[3:]]
        lie_in_wait(name)
        from hlm.train.__main__ import script

        script()
    else:
        main()
