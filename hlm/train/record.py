"""run.json: what a run folder is. The config, and of each start its command, code, machine and end.

Nothing of the environment is written down, nor what stands between // and @ in an address: both may
hold secrets.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from hlm.config import Experiment
from hlm.registry import to_json
from hlm.train.stop import brief, say
from hlm.train.whole_files import write_whole

NAME = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "hlm")


class Record:
    """run.json of one start of a run: written at its beginning, and when the `with` ends. Only
    process 0 writes.

    `step` is to be kept up to date.
    """

    def __init__(
        self,
        workdir: str,
        exp: Experiment,
        reference: str,
        overrides: Sequence[str],
        command: Sequence[str],
        step: int,
    ):
        self.path = epath.Path(workdir) / NAME
        self.step, self.steps = step, exp.steps
        self.lead = jax.process_index() == 0
        if not self.lead:
            return
        self.began = now()
        self.start: dict[str, Any] = {
            "time": stamp(self.began),
            "step": step,
            "command": [without_secrets(word) for word in command],
            "folder": os.getcwd(),
            "config": reference,
            "overrides": [without_secrets(word) for word in overrides],
            "seed": exp.seed,
            "versions": versions(),
            "git": {
                name: commit(path)
                for name, path in (
                    ("hlm", pathlib.Path(__file__)),
                    ("config", config_file(reference)),
                )
            },
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "processes": jax.process_count(),
            "devices": devices(),
        }
        self.whole: dict[str, Any] = {"config": None, "starts": []}
        try:
            settings = json.loads(without_secrets(json.dumps(to_json(exp))))
            old = read(workdir) or self.set_aside() or {"config": settings, "starts": []}
            note_last_sign(old["starts"], self.path.parent / "metrics.jsonl")
            self.start["changed"] = {
                name: list(pair) for name, pair in differences(old["config"], settings).items()
            }
            self.whole = {"config": settings, "starts": [*old["starts"], self.start]}
            self.write()
        except Exception as error:  # it describes the run, which goes on without
            self.lead = False
            say(
                f"warning: {self.path} cannot be written ({brief(error)}); training goes on without"
            )

    def set_aside(self) -> None:
        """Keep what cannot be read: it will be written over."""
        if self.path.exists():
            write_whole(self.path.parent / f"damaged_{NAME}", self.path.read_bytes())

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.end(
            "done"
            if error is None and self.step >= self.steps
            else "stopped"
            if error is None
            else f"failed: {brief(error)}"
        )

    def went_back(self, step: int, to: int) -> None:
        """Note that the run went back from a step to a checkpoint."""
        if self.lead:
            self.start.setdefault("rewound", []).append([step, to])

    def end(self, how: str) -> None:
        """Add when this start ended, where, and how; a start without these was killed."""
        if not self.lead or "ended" in self.start:
            return
        self.start |= {
            "ended": stamp(now()),
            "seconds": round((now() - self.began).total_seconds(), 3),
            "end": [self.step, how],
        }
        try:
            self.write()
        except Exception as error:
            say(f"warning: {self.path} cannot be written ({brief(error)})")

    def write(self) -> None:
        write_whole(self.path, json.dumps(self.whole, indent=1).encode() + b"\n")


def read(workdir: str) -> dict[str, Any] | None:
    """What run.json of a folder says; None if there is none, or none that can be read."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found["config"], dict) and all(
            isinstance(start, dict) for start in found["starts"]
        ):
            return found
        reason = "it has no config and starts"
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        reason = brief(error)
    say(f"warning: {path} is damaged ({reason}) and left out")
    return None


def note_last_sign(starts: list[dict[str, Any]], metrics: epath.Path) -> None:
    """A start that was killed could not say when it ended: that is when it last reported
    something.
    """
    if starts and "ended" not in starts[-1] and metrics.exists():
        last = datetime.datetime.fromtimestamp(metrics.stat().mtime).astimezone()
        begun = datetime.datetime.fromisoformat(str(starts[-1]["time"]))
        starts[-1] |= {
            "last_sign": stamp(last),
            "seconds": max(round((last - begun).total_seconds(), 3), 0.0),
        }


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Settings of two configs (as JSON) that differ, by dotted name: {name: (old, new)}; None is a
    setting that one has not.
    """
    return {name: (values[0], values[1]) for name, values in compared([old, new]).items()}


def compared(configs: Sequence[Any]) -> dict[str, list[Any]]:
    """Settings that are not equal in all configs, by dotted name, with the value in each.

    Of parts of another class, the class alone.
    """
    return dict(_compared("", list(configs)))


def _compared(name: str, nodes: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    if all(node == nodes[0] for node in nodes):
        return
    tables = all(isinstance(node, dict) for node in nodes) and all(
        node.get("_") == nodes[0].get("_") for node in nodes
    )
    rows = all(isinstance(node, list) for node in nodes) and len({len(node) for node in nodes}) == 1
    if tables:
        for key in dict.fromkeys(key for node in nodes for key in node):
            yield from _compared(
                f"{name}.{key}" if name else key, [node.get(key) for node in nodes]
            )
    elif rows and any(isinstance(part, (dict, list)) for part in nodes[0]):
        for i, parts in enumerate(zip(*nodes, strict=True)):
            yield from _compared(f"{name}.{i}", list(parts))
    else:
        yield name, [short(node) for node in nodes]


def short(node: Any) -> Any:
    """A setting as one word: a part of a model is its class."""
    if isinstance(node, dict):
        return node.get("_") or {key: short(value) for key, value in node.items()}
    return [short(part) for part in node] if isinstance(node, list) else node


def now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def stamp(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")


def without_secrets(word: str) -> str:
    return re.sub(r"(?<=://)[^/@\s\"']+(?=@)", "...", word)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def devices() -> dict[str, int]:
    """Number of devices of each kind, over all processes."""
    kinds = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def config_file(reference: str) -> pathlib.Path:
    return pathlib.Path(
        reference if pathlib.Path(reference).is_file() else reference.rpartition(":")[0]
    )


def commit(file: pathlib.Path) -> dict[str, Any] | None:
    """The commit that a file is of, and whether tracked files of its repository have changed since;
    None if it is in none.
    """

    def git(*arguments: str) -> str:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GIT_")
        }
        done = subprocess.run(
            ["git", "-C", str(file.resolve().parent), *arguments],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        # an environment may lie inside of somebody's repository
        git("ls-files", "--error-unmatch", file.resolve().name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
