"""metrics.jsonl: a line of JSON for each report of a run, kept over restarts."""

import json
import os
from typing import Any

from etils import epath

from hlm.train.stop import brief, say
from hlm.train.whole_files import is_remote, write_whole

START = b'{"step"'  # of every line


class MetricsFile:
    """The lines of a run so far, and their file. Nothing is written before `append` or `save`.

    A line that could not be appended is not lost: from then on the file is written whole, by the
    next `save`.
    """

    def __init__(self, path: epath.Path, start: int):
        """`start`: the step that the run goes on from; lines of later steps will be made again."""
        self.path = path
        self.usable, old = True, b""
        try:
            old = content(path)
        except Exception as error:  # those of a bucket are of many types
            self.usable = False  # what cannot be read is not written over
            say(f"warning: {path} cannot be read ({brief(error)}); training goes on without it")
        self.newest = newest(old)
        self.lines, damaged = lines_until(old, start)
        if damaged:
            say(
                f"warning: {path}: {damaged} damaged line{'s are' if damaged > 1 else ' is'} "
                "left out"
            )
        self.grows = old == b"".join(self.lines) and not is_remote(path)
        self.size = len(old)

    def append(self, values: dict[str, Any]) -> None:
        line = json.dumps(values).encode() + b"\n"
        self.lines.append(line)
        if not self.grows or not self.usable:
            return
        self.grows = False  # should this fail
        with self.path.open("ab") as file:
            fits = file.tell() == self.size  # not if somebody has cut or removed it
            if fits:
                file.write(line)
        self.grows, self.size = fits, self.size + len(line)

    def back(self, step: int) -> None:
        """Take back the lines of later steps."""
        self.lines, _ = lines_until(b"".join(self.lines), step)
        self.grows = False
        self.save()

    def save(self) -> None:
        """Write all lines, if the file is not known to have them."""
        if not self.usable or (
            self.grows and os.path.exists(self.path) and os.path.getsize(self.path) == self.size
        ):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = b"".join(self.lines)
        write_whole(self.path, whole)
        self.grows, self.size = not is_remote(self.path), len(whole)

    def records(self) -> list[dict[str, Any]]:
        return parsed(self.lines)


def content(path: epath.Path) -> bytes:
    """What a file holds; nothing if there is none."""
    if not path.exists():
        return b""
    if not is_remote(path) and not os.path.isfile(path):
        raise OSError("it is not a file")
    return path.read_bytes()


def lines_until(old: bytes, step: float) -> tuple[list[bytes], int]:
    """(sound lines of steps up to `step`, number of damaged ones): later steps are made again by a
    resumed run.

    A kill cuts the last line, a crash of the machine may leave zeros, two writers may mix: each
    costs the lines that it hit.
    """
    kept, damaged = [], 0
    for line in old.split(b"\n"):
        line = line.strip(b" \t\r\0")
        if not line:
            continue
        found = record(line)
        if found is None:
            damaged += 1
            line = line[max(line.rfind(START), 0) :]  # a sound one behind a piece of another
            found = record(line)
        if found is not None and found["step"] <= step:
            kept.append(line + b"\n")
    return kept, damaged


def newest(old: bytes) -> dict[str, Any]:
    """The last sound line, of whatever step; empty if there is none."""
    found = (record(line.strip(b" \t\r\0")) for line in reversed(old.split(b"\n")))
    return next((line for line in found if line is not None), {})


def parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def record(line: bytes) -> dict[str, Any] | None:
    """The values of a line; None if it is not one of ours."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        return None
    sound = (
        isinstance(found, dict)
        and type(found.get("step")) is int
        and isinstance(found.get("kind"), str)
    )
    return found if sound else None
