"""Files: those that paths, globs and folders name, plain or compressed, read by byte range."""

import contextlib
import glob
import gzip
import lzma
import mmap
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from hlm.data import kinds

CORPUS = "corpus:"  # a path that starts like this is inside the corpus that ships with the package
UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}  # as kinds.PACKED says


class File:
    """A plain or compressed file, read by byte range.

    Holds no open handle, so any thread or process may use it.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.size = os.stat(path).st_size
        self.content: bytes | None = None  # of a compressed file, unpacked

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"content": None}

    def unpacked(self) -> bytes:
        if self.content is not None:
            return self.content
        packed = self.path.read_bytes()
        try:
            content: bytes = UNPACK[self.path.suffix](packed)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            kind = kinds.of_bytes(packed)
            seen = f"its bytes are {kind.name}" if kind else "is it complete, and packed so at all?"
            raise ValueError(
                f"{self.path} cannot be unpacked as {self.path.suffix}: {error}; {seen}"
            ) from error
        self.content = content
        return content

    @contextlib.contextmanager
    def whole(self) -> Iterator[bytes | mmap.mmap]:
        """All bytes, to search in."""
        if self.path.suffix in UNPACK:
            if not self.unpacked():
                raise ValueError(f"{self.path} is empty when unpacked; remove it from the paths")
            yield self.unpacked()
        elif not self.size:
            raise ValueError(f"{self.path} is empty; remove it from the paths")
        else:
            with (
                open(self.path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                yield data

    def read(self, start: int, stop: int) -> bytes:
        if self.path.suffix in UNPACK:
            return self.unpacked()[start:stop]
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise OSError(
                f"{self.path} ended at byte {start + len(data)}, {stop} expected: it changed "
                "while in use"
            )
        return data


def find(paths: Iterable[str], ending: str) -> list[pathlib.Path]:
    """Files of `paths`, in their order; inside folders and globs sorted. Nothing found, or a file
    found twice, is an error.

    A glob without a match is tried again with its square brackets as themselves.
    """
    endings = (ending, *(ending + packed for packed in UNPACK))
    found: dict[pathlib.Path, str] = {}
    for given in paths:
        path = place(given)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.name.endswith(endings) and there(p))
        elif path.is_file():
            files = [path]
        else:
            text = str(path)
            matches = glob.glob(text, recursive=True) or glob.glob(
                text.replace("[", "[[]"), recursive=True
            )
            files = sorted(p for p in map(pathlib.Path, matches) if there(p))
        if not files:
            wanted = (
                f"folder has no {' or '.join(endings)} below it{others(path)}"
                if path.is_dir()
                else "no such file, folder or match"
            )
            raise FileNotFoundError(f"paths: {given!r} ({path.absolute()}): {wanted}")
        for file in files:
            if file in found:
                raise ValueError(
                    f"paths: {file} is named by both {found[file]!r} and {given!r}; name it once"
                )
            found[file] = given
    return list(found)


def there(path: pathlib.Path) -> bool:
    """Whether it is a file. A link to nothing is an error: left out, it would not be missed."""
    if path.is_file():
        return True
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"paths: {path} is a link to a file that is not there; remove it or bring the file back"
        )
    return False


def others(folder: pathlib.Path) -> str:
    """What a folder holds instead, and its reader."""
    kind = next(filter(None, (kinds.of_name(p) for p in sorted(folder.rglob("*")))), None)
    return f", but files that are by name {kind.name}: {kind.fix}" if kind else ""


def place(given: str) -> pathlib.Path:
    """The local path that `given` means."""
    if given.startswith(CORPUS):
        return pathlib.Path(__file__).parents[1] / "corpus" / given.removeprefix(CORPUS)
    if "://" in given:
        raise ValueError(
            f"paths: {given!r} is remote; mount the bucket as a folder (gcsfuse) or copy the "
            "files here first"
        )
    try:
        return pathlib.Path(given).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"paths: {given!r}: {error}; write the folder out") from None


def check_paths(source: Any) -> None:
    kind = type(source).__name__
    if isinstance(source.paths, str):
        raise TypeError(
            f"{kind}.paths is the text {source.paths!r}; write paths=({source.paths!r},)"
        )
    if not source.paths:
        raise ValueError(f"{kind}.paths is empty; name a file, folder or glob")
    for i, path in enumerate(source.paths):
        if not isinstance(path, str):
            raise TypeError(f"{kind}.paths[{i}] is {path!r}; write it as a text")
        if not path:
            raise ValueError(f"{kind}.paths[{i}] is empty; name a file, folder or glob")


def check_piece(source: Any) -> None:
    if source.piece < 1:
        raise ValueError(
            f"{type(source).__name__}.piece is {source.piece}; it must be at least 1 byte"
        )
