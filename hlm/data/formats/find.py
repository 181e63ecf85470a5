"""Which files paths name: files, folders and globs, local or remote."""

import glob
import pathlib
from collections.abc import Iterable
from typing import Any

from hlm.data import kinds
from hlm.data.formats.files import File, file_system

CORPUS = "corpus:"  # a path that starts like this is inside the corpus that ships with the package


def find(paths: Iterable[str], *endings: str) -> list[File]:
    """Files of `paths`, in their order; inside folders (those with one of the endings) and globs
    sorted. Nothing found, or a file found twice, is an error.

    A glob without a match is tried again with its square brackets as themselves.
    """
    found: dict[File, str] = {}
    for given in paths:
        remote = "://" in given
        files = remote_files(given, endings) if remote else local_files(given, endings)
        for file in files:
            if file in found:
                raise ValueError(
                    f"paths: {file} is named by both {found[file]!r} and {given!r}; name it once"
                )
            found[file] = given
    return list(found)


def local_files(given: str, endings: tuple[str, ...]) -> list[File]:
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
        below = sorted(map(str, path.rglob("*"))) if path.is_dir() else None
        raise missing(given, str(path.absolute()), endings, below)
    return [File(str(file)) for file in files]


def remote_files(given: str, endings: tuple[str, ...]) -> list[File]:
    """With their sizes, which come with the listing."""
    system, path = file_system(given)
    below = None
    try:
        if glob.has_magic(path):
            listing: Any = system.glob(path, detail=True)
        elif system.isdir(path):
            below = system.find(path, detail=True)
            listing = {name: info for name, info in below.items() if name.endswith(endings)}
        else:
            listing = {path: system.info(path)}
    except FileNotFoundError:
        listing = {}
    files = sorted((name, info) for name, info in listing.items() if info["type"] == "file")
    if not files:
        raise missing(given, path, endings, None if below is None else sorted(below))
    protocol = given.partition("://")[0]
    return [
        File(name if "://" in name else f"{protocol}://{name.lstrip('/')}", info.get("size"))
        for name, info in files
    ]


def missing(
    given: str, where: str, endings: tuple[str, ...], below: list[str] | None
) -> FileNotFoundError:
    wanted = "no such file, folder or match"
    if below is not None:
        kind = next(filter(None, (kinds.of_name(pathlib.PurePath(p)) for p in below)), None)
        other = f", but files that are by name {kind.name}: {kind.fix}" if kind else ""
        wanted = f"folder has no {' or '.join(endings)} below it{other}"
    return FileNotFoundError(f"paths: {given!r} ({where}): {wanted}")


def there(path: pathlib.Path) -> bool:
    """Whether it is a file. A link to nothing is an error: left out, it would not be missed."""
    if path.is_file():
        return True
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"paths: {path} is a link to a file that is not there; remove it or bring the file back"
        )
    return False


def place(given: str) -> pathlib.Path:
    """The local path that `given` means."""
    if given.startswith(CORPUS):
        return pathlib.Path(__file__).parents[1] / "corpus" / given.removeprefix(CORPUS)
    try:
        return pathlib.Path(given).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"paths: {given!r}: {error}; write the folder out") from None


def with_packed(ending: str) -> tuple[str, ...]:
    """An ending, and the same of packed files."""
    return (ending, *(ending + packed for packed in kinds.PACKED))


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


def check_bad_lines(source: Any) -> None:
    if source.bad_lines is not None and source.bad_lines < 0:
        raise ValueError(
            f"{type(source).__name__}.bad_lines is {source.bad_lines}; give 0 or more, or None"
        )


def check_prompt(source: Any) -> None:
    if source.prompt == source.field:
        raise ValueError(
            f"{type(source).__name__}.prompt is {source.prompt!r}, and so is field; name the "
            "field that stands before it, or None"
        )
