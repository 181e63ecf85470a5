"""Which files paths name: files, folders and globs, local or remote."""

import glob
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from hlm.data import kinds
from hlm.data.formats.files import LOCAL, File, file_system, local

CORPUS = "corpus:"  # a path that starts like this is inside the corpus that ships with the package


def find(paths: Iterable[str], *endings: str) -> list[File]:
    """Files of `paths`, in their order; inside folders (those with one of the endings, hidden ones
    left out) and globs sorted, folder by folder. Nothing found, or a file found twice, is an error.

    A glob without a match is tried again with its square brackets as themselves.
    """
    found: list[File] = []
    named: dict[str, str] = {}
    for given in map(local, paths):
        remote = "://" in given
        for file in remote_files(given, endings) if remote else local_files(given, endings):
            same = file.address if remote else os.path.abspath(file.address)
            if same in named:
                raise ValueError(
                    f"paths: {file} is named by both {named[same]!r} and {given!r}; name it once"
                )
            named[same] = given
            found.append(file)
    return found


def local_files(given: str, endings: tuple[str, ...]) -> list[File]:
    path = place(given)
    if path.is_dir():
        files = sorted(p for p in below(path) if p.name.endswith(endings) and there(p))
    elif path.is_file():
        files = [path]
    else:
        text = str(path)
        matches = glob.glob(text, recursive=True) or glob.glob(
            text.replace("[", "[[]"), recursive=True
        )
        files = sorted(p for p in map(pathlib.Path, set(matches)) if there(p))
    if not files:
        others = sorted(map(str, below(path))) if path.is_dir() else None
        raise missing(given, str(path.absolute()), endings, others)
    return [File(str(file)) for file in files]


def below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files below a folder, those behind links to other folders too; hidden ones (".cache",
    "._a.txt") left out. A folder that cannot be read is an error.
    """
    seen, folders = set[str](), [str(folder)]
    while folders:
        links = []
        for where, inside, files in os.walk(folders.pop(0), onerror=fail):
            if (real := os.path.realpath(where)) in seen:
                inside.clear()
                continue
            seen.add(real)
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            links += filter(os.path.islink, (os.path.join(where, name) for name in inside))
            for name in files:
                if not name.startswith("."):
                    yield pathlib.Path(where, name)
        folders += links


def fail(error: OSError) -> None:
    raise error


def remote_files(given: str, endings: tuple[str, ...]) -> list[File]:
    """With their sizes, which come with the listing."""
    system, path = file_system(given)
    inside: dict[str, Any] | None = None
    try:
        if glob.has_magic(path):
            listing: Any = system.glob(path, detail=True)
            listing = listing or system.glob(path.replace("[", "[[]"), detail=True)
        elif system.isdir(path):
            inside = {
                name: info
                for name, info in system.find(path, detail=True).items()
                if "/." not in f"/{name.removeprefix(path)}"
            }
            listing = {name: info for name, info in inside.items() if name.endswith(endings)}
        else:
            listing = {path: system.info(path)}
    except FileNotFoundError:
        listing = {}
    files = [(name, info) for name, info in listing.items() if info["type"] == "file"]
    if not files:
        raise missing(given, path, endings, None if inside is None else sorted(inside))
    files.sort(key=lambda file: file[0].split("/"))  # as local paths are
    return [File(address(given, name), info.get("size")) for name, info in files]


def address(given: str, name: str) -> str:
    """That of a file in the file system of an address, which may be a chain of them:
    zip://*.txt::gs://bucket/a.zip.
    """
    if "://" in name:
        return name
    links = given.split("::")
    i = next(i for i, link in enumerate(links) if "://" in link)
    scheme = links[i].partition("://")[0]
    if f"{scheme}://" not in LOCAL:
        name = name.lstrip("/")
    return "::".join([*links[:i], f"{scheme}://{name}", *links[i + 1 :]])


def missing(
    given: str, where: str, endings: tuple[str, ...], inside: list[str] | None
) -> FileNotFoundError:
    wanted = "no such file, folder or match"
    if inside is not None:
        kind = next(filter(None, (kinds.of_name(pathlib.PurePath(p)) for p in inside)), None)
        other = f", but files that are by name {kind.name}: {kind.fix}" if kind else ""
        wanted = f"folder has no {' or '.join(endings)} below it{other}"
        if kind is kinds.JSON and ".jsonl" in endings:
            wanted = (
                f"folder has no {endings[0]}; if its .json files hold an object a line, name them: "
                f"{given.rstrip('/')}/*.json*"
            )
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
    given = local(given)
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
    if not isinstance(source.paths, (tuple, list)):
        return  # what it is instead is for `check_types`
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
