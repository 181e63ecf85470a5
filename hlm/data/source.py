"""Where text comes from. A source is what a config states; `open()` gives random access to its records.

A record is a piece of text of a size that can be shuffled and dealt out to machines: a document, or a part of a long one.
Bytes come through exactly as they are stored: nothing is decoded, normalised or translated.
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
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

CORPUS = "corpus:"  # a path that starts like this is inside the corpus that ships with the package
UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}


class Record(NamedTuple):
    text: bytes
    complete: bool  # False: the document goes on in the next record, so no EOS belongs after this one


class Records(abc.ABC):
    """Random access to records; iterates, and can be pickled to another process, where files are opened again."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Where the record comes from, for people; records of one document share it."""

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


class Source(Protocol):
    def open(self) -> Records: ...


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Text files: `paths` are files, globs, or folders (every *.txt below, .gz and .xz too), in sorted order.

    separator: a file holds several documents, divided by this text, which belongs to none of them; None: a file is a document.
    Empty documents between separators are skipped; an empty file is an error.
    piece: a longer document becomes several records of at most so many bytes, cut after a newline or another white space.
    A compressed file is unpacked into memory, once in each process that reads it.
    """

    paths: tuple[str, ...]
    separator: str | None = None
    piece: int = 8192

    def __post_init__(self):
        check_paths(self)
        check_piece(self)
        if self.separator == "":
            raise ValueError('TextFiles.separator is ""; use None if every file is one document, or a text such as "\\n\\n"')

    def open(self) -> Records:
        return TextRecords(self)


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """One JSON object a line, the text in `field`: .jsonl files, or the same packed as .gz or .xz (unpacked into memory).

    `paths` and `piece` as in TextFiles. A cut document is parsed again for each of its records. Blank lines are skipped.
    """

    paths: tuple[str, ...]
    field: str = "text"
    piece: int = 8192

    def __post_init__(self):
        check_paths(self)
        check_piece(self)

    def open(self) -> Records:
        return LineRecords(self)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources at once, each repeated as needed; `weights` are shares of records (not of bytes), of any sum."""

    sources: tuple["Source | Mixture", ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if not self.sources:
            raise ValueError("Mixture.sources is empty; give at least one source")
        if len(self.weights) != len(self.sources):
            raise ValueError(f"Mixture.weights has {len(self.weights)} numbers for {len(self.sources)} sources; give one for each")
        if not all(0 < w < float("inf") for w in self.weights):
            raise ValueError(f"Mixture.weights is {self.weights}; each must be above 0 (leave a source out to not read it)")


class File:
    """A plain or compressed file, read by byte range. Holds no open handle, so any thread or process may use it."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.size = os.stat(path).st_size
        self.content: bytes | None = None  # of a compressed file, unpacked

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"content": None}

    def unpacked(self) -> bytes:
        if self.content is not None:
            return self.content
        try:
            content: bytes = UNPACK[self.path.suffix](self.path.read_bytes())
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"{self.path} cannot be unpacked as {self.path.suffix}: {error}; is it complete?") from error
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
            with open(self.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data

    def read(self, start: int, stop: int) -> bytes:
        if self.path.suffix in UNPACK:
            return self.unpacked()[start:stop]
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise OSError(f"{self.path} ended at byte {start + len(data)}, {stop} expected: it changed while in use")
        return data


class TextRecords(Records):
    def __init__(self, source: TextFiles):
        self.files = [File(path) for path in find(source.paths, ".txt")]
        separator = source.separator.encode() if source.separator is not None else None
        table = array.array("q")  # file, start, stop, document in the file, complete
        for f, file in enumerate(self.files):
            before = len(table)
            with file.whole() as data:
                for n, (start, stop) in enumerate(spans(data, separator)):
                    for end in cuts(data, start, stop, source.piece):
                        table.extend((f, start, end, n, end == stop))
                        start = end
            if len(table) == before:
                raise ValueError(f"{file.path} has no text between its separators {source.separator!r}; remove it from the paths")
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


class LineRecords(Records):
    def __init__(self, source: JsonLines):
        self.files = [File(path) for path in find(source.paths, ".jsonl")]
        self.field = source.field
        table = array.array("q")  # file, line number, start and stop of the line, start and stop of the text; stop -1: its end
        for f, file in enumerate(self.files):
            before = len(table)
            with file.whole() as data:
                for number, (start, stop) in enumerate(spans(data, b"\n", empty=True), 1):
                    if stop - start <= 1 and not data[start:stop].strip():
                        continue
                    first = 0
                    if stop - start > source.piece:  # else the text cannot be longer: escapes only shrink
                        text = self.text(f, number, data[start:stop])
                        for end in cuts(text, 0, len(text), source.piece)[:-1]:
                            table.extend((f, number, start, stop, first, end))
                            first = end
                    table.extend((f, number, start, stop, first, -1))
            if len(table) == before:
                raise ValueError(f"{file.path} has only blank lines; remove it from the paths")
        self.table = np.frombuffer(table, np.int64).reshape(-1, 6)

    def text(self, f: int, number: int, line: bytes) -> bytes:
        where = f"{self.files[f].path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(self.field), str):
            found = f"its fields are {sorted(row)}" if isinstance(row, dict) else f"it is a {type(row).__name__}"
            raise ValueError(f"{where} has no text field {self.field!r}; {found}")
        try:
            return row[self.field].encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: field {self.field!r} has half of a surrogate pair: {error}") from error

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:
        f, number, start, stop, first, last = self.table[index].tolist()
        text = self.text(f, number, self.files[f].read(start, stop))
        return Record(text[first:], True) if last < 0 else Record(text[first:last], False)

    def name(self, index: int) -> str:
        f, number, *_ = self.table[index].tolist()
        return f"{self.files[f].path}:{number}"


def find(paths: Iterable[str], ending: str) -> list[pathlib.Path]:
    """Files of `paths`, in their order; inside folders and globs sorted. Nothing found, or a file found twice, is an error."""
    endings = (ending, *(ending + packed for packed in UNPACK))
    found: dict[pathlib.Path, str] = {}
    for given in paths:
        path = place(given)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(endings))
        elif path.is_file():
            files = [path]
        else:
            files = sorted(p for p in map(pathlib.Path, glob.glob(str(path), recursive=True)) if p.is_file())
        if not files:
            wanted = f"folder has no {' or '.join(endings)} below it" if path.is_dir() else "no such file, folder or match"
            raise FileNotFoundError(f"paths: {given!r} ({path.absolute()}): {wanted}")
        for file in files:
            if file in found:
                raise ValueError(f"paths: {file} is named by both {found[file]!r} and {given!r}; name it once")
            found[file] = given
    return list(found)


def place(given: str) -> pathlib.Path:
    """The local path that `given` means."""
    if given.startswith(CORPUS):
        return pathlib.Path(__file__).parent / "corpus" / given.removeprefix(CORPUS)
    if "://" in given:
        raise ValueError(f"paths: {given!r} is remote; mount the bucket as a folder (gcsfuse) or copy the files here first")
    return pathlib.Path(given).expanduser()


def spans(data: bytes | mmap.mmap, separator: bytes | None, empty: bool = False) -> Iterator[tuple[int, int]]:
    """(start, stop) of the texts between separators; those without a byte only if `empty`."""
    start, size = 0, len(data)
    while separator is not None and (stop := data.find(separator, start)) >= 0:
        if empty or stop > start:
            yield start, stop
        start = stop + len(separator)
    if size > start:
        yield start, size


def cuts(data: bytes | mmap.mmap, start: int, stop: int, piece: int) -> list[int]:
    """Ends of the pieces of data[start:stop], each of at most `piece` bytes.

    After the last newline in the second half of a piece, else the last blank there, else between two UTF-8 characters.
    """
    ends = []
    while stop - start > piece:
        half, limit = start + piece // 2, start + piece
        end = data.rfind(b"\n", half, limit) + 1 or max(data.rfind(blank, half, limit) for blank in (b" ", b"\t", b"\r")) + 1
        if not end:
            whole = (at for at in range(limit, max(limit - 4, start), -1) if data[at] & 0xC0 != 0x80)
            end = next(whole, limit)  # four bytes in a row that start no character are not UTF-8
        ends.append(end)
        start = end
    return [*ends, stop]


def check_paths(source: Any) -> None:
    kind = type(source).__name__
    if isinstance(source.paths, str):
        raise TypeError(f"{kind}.paths is the text {source.paths!r}; write paths=({source.paths!r},)")
    if not source.paths:
        raise ValueError(f"{kind}.paths is empty; name a file, folder or glob")


def check_piece(source: "TextFiles | JsonLines") -> None:
    if source.piece < 1:
        raise ValueError(f"{type(source).__name__}.piece is {source.piece}; it must be at least 1 byte")
