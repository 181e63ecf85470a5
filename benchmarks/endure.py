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
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from endure_ambush import AMBUSHES, KILL
from endure_damage import damage
from endure_runs import (
    ROOT,
    Outcome,
    last_step,
    lines,
    said,
    settings,
    start,
    together,
    undisturbed,
    whole,
)

# --- kills


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
    main()
