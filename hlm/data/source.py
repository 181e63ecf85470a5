"""Where text comes from. A source is what a config states; `open()` gives random access to its
records.

A record is a piece of text of a size that can be shuffled and dealt out to machines: a document, or
a part of a long one. Bytes come through exactly as they are stored: nothing is decoded, normalised
or translated. Only a byte order mark of UTF-8 that begins a text file is left out: it says how text
is stored.
"""

import abc
import array
import contextlib
import dataclasses
import glob
import gzip
import json
import lzma
import mmap
import os
import pathlib
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from hlm.data import kinds

CORPUS = "corpus:"  # a path that starts like this is inside the corpus that ships with the package
UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}  # as kinds.PACKED says
MARK = b"\xef\xbb\xbf"  # byte order mark of UTF-8


class Record(NamedTuple):
    text: bytes
    # False: the document goes on in the next record, so no EOS belongs after this one
    complete: bool
    prompt: int = 0  # so many bytes at its beginning are read, but not learned


class Prompted(bytes):
    """A whole text. `prompt`: so many bytes at its beginning are read, but not scored."""

    prompt: int

    def __new__(cls, text: bytes, prompt: int = 0) -> "Prompted":
        made = super().__new__(cls, text)
        made.prompt = min(prompt, len(text))
        return made


def prompt_of(text: bytes) -> int:
    """How many of its bytes are not scored."""
    return text.prompt if isinstance(text, Prompted) else 0


class Records(abc.ABC):
    """Random access to records; iterates, and can be pickled to another process, where files are
    opened again.
    """

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Where the record comes from, for people; records of one document share it."""

    def locations(self) -> list[pathlib.Path]:
        """The files that hold the records, in order; none if that is not known."""
        return []

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


@runtime_checkable
class Source(Protocol):
    def open(self) -> Records: ...


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Text files: `paths` are files, globs, or folders (every *.txt below, .gz and .xz too), in
    sorted order.

    separator: a file holds several documents, divided by this text, which belongs to none of them;
    None: a file is a document. A newline in it stands for any end of a line: LF, CRLF, or CR in
    files without LF. Empty documents between separators are skipped; an empty file is an error.
    piece: a longer document becomes several records of at most so many bytes, cut after a newline
    or another white space. any_bytes: take the bytes as they are, whatever they are (a byte order
    mark too). Otherwise files of other formats (packed, tables, JSON lines, pictures, UTF-16, ...)
    are refused; bytes that are merely not UTF-8 are not. A compressed file is unpacked into memory,
    once in each process that reads it.
    """

    paths: tuple[str, ...]
    separator: str | None = None
    piece: int = 8192
    any_bytes: bool = False

    def __post_init__(self):
        check_paths(self)
        check_piece(self)
        if self.separator == "":
            raise ValueError(
                'TextFiles.separator is ""; use None if every file is one document, or a text '
                'such as "\\n\\n"'
            )

    def open(self) -> Records:
        return TextRecords(self)


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """One JSON object a line, the text in `field`: .jsonl files, or the same packed as .gz or .xz
    (unpacked into memory).

    `paths` and `piece` as in TextFiles. A cut document is parsed again for each of its records.
    Blank lines are skipped. prompt: another field, whose text stands before that of `field` (with
    nothing in between) and is read, but neither learned nor scored. bad_lines: every line is parsed
    when the files are opened. Up to so many that do not hold the fields are left out, with a
    warning; more are an error. None: lines are not parsed before they are drawn (for terabytes),
    and then a bad one is an error.
    """

    paths: tuple[str, ...]
    field: str = "text"
    piece: int = 8192
    prompt: str | None = None
    bad_lines: int | None = 0

    def __post_init__(self):
        check_paths(self)
        check_piece(self)
        if self.prompt == self.field:
            raise ValueError(
                f"JsonLines.prompt is {self.prompt!r}, and so is field; name the field that "
                "stands before it, or None"
            )
        if self.bad_lines is not None and self.bad_lines < 0:
            raise ValueError(
                f"JsonLines.bad_lines is {self.bad_lines}; give 0 or more, or None to parse "
                "lines when they are drawn"
            )

    def open(self) -> Records:
        return LineRecords(self)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources at once, each repeated as needed; `weights`, of any sum, are shares of bytes.

    Bytes are those of the text that is read: prompts included, symbols such as EOS not. At any
    moment each source has had its share, but for about a record; so it is in each worker of each
    process. by_records: shares of records instead, however long they are. names: of the sources,
    for metrics; None: their numbers.
    """

    sources: tuple["Source | Mixture", ...]
    weights: tuple[float, ...]
    by_records: bool = False
    names: tuple[str, ...] | None = None

    def __post_init__(self):
        if not self.sources:
            raise ValueError("Mixture.sources is empty; give at least one source")
        if len(self.weights) != len(self.sources):
            raise ValueError(
                f"Mixture.weights has {len(self.weights)} numbers for {len(self.sources)} "
                "sources; give one for each"
            )
        if not all(0 < w < float("inf") for w in self.weights):
            raise ValueError(
                f"Mixture.weights is {self.weights}; each must be above 0 (leave a source out "
                "to not read it)"
            )
        names = self.names
        if names is not None and (
            not len(self.sources) == len(names) == len(set(names))
            or any(not n or "/" in n for n in names)
        ):
            raise ValueError(
                f"Mixture.names is {names} for {len(self.sources)} sources; give each a name "
                "of its own, without /"
            )


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


class TextRecords(Records):
    def __init__(self, source: TextFiles):
        self.files = [File(path) for path in find(source.paths, ".txt")]
        separator = source.separator.encode() if source.separator is not None else None
        table = array.array("q")  # file, start, stop, document in the file, complete
        for f, file in enumerate(self.files):
            before = len(table)
            with file.whole() as data:
                first = 0
                if not source.any_bytes:
                    otherwise = "; or read its bytes as they are with TextFiles.any_bytes=True"
                    kinds.refuse(file.path, data[: kinds.HEAD], "TextFiles", True, otherwise)
                    first = len(MARK) if data[: len(MARK)] == MARK else 0
                between = separator if source.any_bytes else line_ends(data, separator)
                for n, (start, stop) in enumerate(spans(data, between, first)):
                    for end in cuts(data, start, stop, source.piece):
                        table.extend((f, start, end, n, end == stop))
                        start = end
            if len(table) == before:
                where = (
                    f"between its separators {source.separator!r}"
                    if separator
                    else "behind its byte order mark"
                )
                raise ValueError(f"{file.path} has no text {where}; remove it from the paths")
        self.table = np.frombuffer(table, np.int64).reshape(-1, 5)
        self.several = separator is not None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:
        f, start, stop, _, complete = self.table[index].tolist()
        return Record(self.files[f].read(start, stop), bool(complete))

    def name(self, index: int) -> str:
        f, _, _, n, _ = self.table[index].tolist()
        return f"{self.files[f].path}#{n}" if self.several else str(self.files[f].path)

    def locations(self) -> list[pathlib.Path]:
        return [file.path for file in self.files]


class LineRecords(Records):
    def __init__(self, source: JsonLines):
        self.files = [File(path) for path in find(source.paths, ".jsonl")]
        self.field, self.prompt = source.field, source.prompt
        bad: list[str] = []
        # file, line number, start and stop of the line, start and stop of the text; stop -1: its
        # end
        table = array.array("q")
        for f, file in enumerate(self.files):
            before = len(table)
            with file.whole() as data:
                kinds.refuse(file.path, data[: kinds.HEAD], "JsonLines", named=False)
                for number, (start, stop) in enumerate(spans(data, b"\n", empty=True), 1):
                    line = data[start:stop]
                    if not line.strip():
                        continue
                    first = 0
                    # else it cannot be longer: escapes only shrink
                    if source.bad_lines is not None or len(line) > source.piece:
                        try:
                            text, _ = self.text(f, number, line)
                        except ValueError as error:
                            bad.append(str(error))
                            if len(bad) > (source.bad_lines or 0):
                                raise ValueError(too_many(bad, source.bad_lines)) from error
                            continue
                        for end in cuts(text, 0, len(text), source.piece)[:-1]:
                            table.extend((f, number, start, stop, first, end))
                            first = end
                    table.extend((f, number, start, stop, first, -1))
            if len(table) == before:
                raise ValueError(
                    f"{file.path} has no lines but blank and bad ones; remove it from the paths"
                )
        if bad:
            warnings.warn(
                f"JsonLines.bad_lines: {len(bad)} left out, the first: {bad[0]}", stacklevel=3
            )
        self.table = np.frombuffer(table, np.int64).reshape(-1, 6)

    def text(self, f: int, number: int, line: bytes) -> tuple[bytes, int]:
        """The text of a line, and how many bytes of it are its prompt."""
        where = f"{self.files[f].path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            plain = "; is it text for TextFiles?" if number == 1 else ""
            raise ValueError(f"{where} is not JSON: {error}{plain}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} has no field {self.field!r}; it is a {type(row).__name__}")
        prompt = b"" if self.prompt is None else self.part(row, self.prompt, where)
        return prompt + self.part(row, self.field, where), len(prompt)

    def part(self, row: dict[str, Any], field: str, where: str) -> bytes:
        if not isinstance(row.get(field), str):
            found = (
                f"it is a {type(row[field]).__name__}"
                if field in row
                else f"its fields are {sorted(row)}"
            )
            raise ValueError(f"{where} has no text field {field!r}; {found}")
        try:
            return row[field].encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: field {field!r} has half of a surrogate pair: {error}"
            ) from error

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:
        f, number, start, stop, first, last = self.table[index].tolist()
        text, prompt = self.text(f, number, self.files[f].read(start, stop))
        part = text[first:] if last < 0 else text[first:last]
        return Record(part, last < 0, min(max(prompt - first, 0), len(part)))

    def name(self, index: int) -> str:
        f, number, *_ = self.table[index].tolist()
        return f"{self.files[f].path}:{number}"

    def locations(self) -> list[pathlib.Path]:
        return [file.path for file in self.files]


def too_many(bad: list[str], allowed: int | None) -> str:
    if not allowed:
        return f"{bad[0]}; mend the line, or leave out up to so many with JsonLines.bad_lines"
    return (
        f"JsonLines.bad_lines is {allowed}, and there are more: the first is {bad[0]}, the last "
        f"one read {bad[-1]}"
    )


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
        return pathlib.Path(__file__).parent / "corpus" / given.removeprefix(CORPUS)
    if "://" in given:
        raise ValueError(
            f"paths: {given!r} is remote; mount the bucket as a folder (gcsfuse) or copy the "
            "files here first"
        )
    try:
        return pathlib.Path(given).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"paths: {given!r}: {error}; write the folder out") from None


def line_ends(data: bytes | mmap.mmap, separator: bytes | None) -> bytes | re.Pattern[bytes] | None:
    """The separator as it is in this file, whose lines may end otherwise."""
    if separator is None or b"\n" not in separator or b"\r" in separator or data.find(b"\r") < 0:
        return separator
    if data.find(b"\n") < 0:
        return separator.replace(b"\n", b"\r")
    return re.compile(re.escape(separator).replace(b"\\\n", b"\r?\n"))


def spans(
    data: bytes | mmap.mmap,
    separator: bytes | re.Pattern[bytes] | None,
    start: int = 0,
    empty: bool = False,
) -> Iterator[tuple[int, int]]:
    """(start, stop) of the texts between separators, from `start` on; those without a byte only if
    `empty`.
    """
    for stop, after in places(data, separator, start):
        if empty or stop > start:
            yield start, stop
        start = after
    if len(data) > start:
        yield start, len(data)


def places(
    data: bytes | mmap.mmap, separator: bytes | re.Pattern[bytes] | None, start: int
) -> Iterator[tuple[int, int]]:
    """Where the separators begin and end."""
    if isinstance(separator, re.Pattern):
        yield from (found.span() for found in separator.finditer(data, start))  # pyright: ignore  (a mmap will do)
    elif separator is not None:
        while (at := data.find(separator, start)) >= 0:
            start = at + len(separator)
            yield at, start


def cuts(data: bytes | mmap.mmap, start: int, stop: int, piece: int) -> list[int]:
    """Ends of the pieces of data[start:stop], each of at most `piece` bytes.

    After the last newline in the second half of a piece, else the last blank there, else between
    two UTF-8 characters.
    """
    ends = []
    while stop - start > piece:
        half, limit = start + piece // 2, start + piece
        end = (
            data.rfind(b"\n", half, limit) + 1
            or max(data.rfind(blank, half, limit) for blank in (b" ", b"\t", b"\r")) + 1
        )
        if not end:
            whole = (
                at for at in range(limit, max(limit - 4, start), -1) if data[at] & 0xC0 != 0x80
            )
            end = next(whole, limit)  # four bytes in a row that start no character are not UTF-8
        ends.append(end)
        start = end
    return [*ends, stop]


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


def check_piece(source: "TextFiles | JsonLines") -> None:
    if source.piece < 1:
        raise ValueError(
            f"{type(source).__name__}.piece is {source.piece}; it must be at least 1 byte"
        )
