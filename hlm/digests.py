"""Digests of stored files: a folder's digests.json names the SHA-256 of every file in it, so that a
damaged one is not read.

They are written in the background before a checkpoint is committed, over what is in its files. Each
process writes those of its own arrays; the first one those of all other files.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

NAME = "digests.json"
OTHERS = ("commit_success.txt",)  # written later, by orbax


class Damaged(ValueError):
    """A file is not what was written."""


def write(folder: epath.Path) -> None:
    """Digests of all files of a folder; those that processes wrote of their own files are taken
    over.
    """
    parts = sorted(folder.glob("digests.*.json"))
    found = {
        name: digest for part in parts for name, digest in json.loads(part.read_text()).items()
    }
    skip = {part.name for part in parts} | {NAME, *OTHERS}
    for name in names(folder):
        if name not in skip and name not in found:
            found[name] = digest(folder / name)
    (folder / NAME).write_text(json.dumps(found, indent=1))
    for part in parts:
        part.unlink()


def write_part(folder: epath.Path, below: str, process: int) -> None:
    """Digests of the files that one process wrote, in the folder `below`."""
    found = {name: digest(folder / name) for name in names(folder) if name.startswith(f"{below}/")}
    (folder / f"digests.{process}.json").write_text(json.dumps(found))


def check(folder: epath.Path, process: int = 0, count: int = 1) -> bool:
    """Whether the folder has digests; raises Damaged if one does not agree. Of `count` processes,
    each checks its share.
    """
    path = folder / NAME
    if not path.exists():
        return False
    try:
        wanted = sorted(json.loads(path.read_text()).items())[process::count]
    except (ValueError, AttributeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error

    def one(item: tuple[str, str]) -> None:
        name, expected = item
        if not (folder / name).exists():
            raise Damaged(f"{folder / name} is missing")
        if digest(folder / name) != expected:
            raise Damaged(
                f"{folder / name} is damaged: its contents are not those that were written"
            )

    with ThreadPoolExecutor(8) as pool:  # hashing leaves Python's lock alone
        list(pool.map(one, wanted))
    return True


def names(folder: epath.Path, below: str = "") -> Iterator[str]:
    """Files in a folder and its folders, by name from the folder, sorted."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from names(path, f"{below}{path.name}/")
        else:
            yield below + path.name


def digest(path: epath.Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            found.update(part)
    return found.hexdigest()
