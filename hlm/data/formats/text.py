"""Text files."""

import array
import dataclasses
from collections.abc import Iterator

import numpy as np

from hlm.config import free
from hlm.data import kinds
from hlm.data.formats.fields import check_types
from hlm.data.formats.files import File
from hlm.data.formats.find import check_paths, check_piece, find, with_packed
from hlm.data.formats.pieces import MARK, cuts, line_ends, places, spans
from hlm.data.formats.record import Record, Records
from hlm.data.formats.stream import Empty, Row, Stream

BLOCK = 1 << 20  # bytes that are searched at once


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Text files: `paths` are files, globs, or folders (every *.txt below, packed ones too), in
    sorted order; of this machine or gs://, s3://, hf://, ...

    separator: a file holds several documents, divided by this text, which belongs to none of them;
    None: a file is a document. A newline in it stands for any end of a line: LF, CRLF, or CR in
    files without LF. Empty documents between separators are skipped; an empty file is an error.
    piece: a longer document becomes several records of at most so many bytes, cut after a newline
    or another white space. any_bytes: take the bytes as they are, whatever they are (a byte order
    mark too). Otherwise files of other formats (packed, tables, JSON lines, pictures, UTF-16, ...)
    are refused; bytes that are merely not UTF-8 are not.

    Plain local files are read at random; if any is packed or remote, all are a Stream.
    """

    paths: tuple[str, ...]
    separator: str | None = None
    piece: int = 8192
    any_bytes: bool = free(False, "the texts of configs are texts; tests/unit/test_source_kinds.py")

    def __post_init__(self):
        check_paths(self)
        check_types(self)
        check_piece(self)
        if self.separator == "":
            raise ValueError(
                'TextFiles.separator is ""; use None if every file is one document, or a text '
                'such as "\\n\\n"'
            )

    def open(self) -> Records:
        files = find(self.paths, *with_packed(".txt"))
        if any(file.packed or file.remote for file in files):
            return TextStream(self, files)
        return TextRecords(self, files)

    def stream(self) -> Stream:
        return TextStream(self, find(self.paths, *with_packed(".txt")))


def check(source: TextFiles, file: File, head: bytes) -> None:
    if not source.any_bytes:
        otherwise = "; or read its bytes as they are with TextFiles.any_bytes=True"
        kinds.refuse(file, head, "TextFiles", True, otherwise)


def no_text(file: File, separator: str | None) -> ValueError:
    where = "behind its byte order mark"
    if separator is not None:
        where = f"between its separators {separator!r}"
    return ValueError(f"{file} has no text {where}; remove it from the paths")


class TextRecords(Records):
    def __init__(self, source: TextFiles, files: list[File]):
        self.files = files
        separator = source.separator.encode() if source.separator is not None else None
        table = array.array("q")  # file, start, stop, document in the file, complete
        for f, file in enumerate(self.files):
            before = len(table)
            with file.mapped() as data:
                check(source, file, data[: kinds.HEAD])
                first = len(MARK) if not source.any_bytes and data[: len(MARK)] == MARK else 0
                between = separator if source.any_bytes else line_ends(data, separator)
                for n, (start, stop) in enumerate(spans(data, between, first)):
                    for end in cuts(data, start, stop, source.piece):
                        table.extend((f, start, end, n, end == stop))
                        start = end
            if len(table) == before:
                raise no_text(file, source.separator)
        self.table = np.frombuffer(table, np.int64).reshape(-1, 5)
        self.several = separator is not None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:
        f, start, stop, _, complete = self.table[index].tolist()
        return Record(self.files[f].read(start, stop), bool(complete))

    def name(self, index: int) -> str:
        f, _, _, n, _ = self.table[index].tolist()
        return f"{self.files[f]}#{n}" if self.several else str(self.files[f])

    def locations(self) -> list[File]:
        return self.files


class TextStream(Stream):
    """Its rows are pieces. Ends of lines are those of a file's first megabyte."""

    def __init__(self, source: TextFiles, files: list[File]):
        self.source = source
        for file in files:
            check(source, file, b"")  # by its name
        super().__init__(files, "TextFiles", None)

    def check(self, file: int) -> None:
        check(self.source, self.files[file], self.files[file].head())

    def rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row]:
        for i, row in enumerate(self.pieces(self.files[file])):
            if i >= skip:
                yield row

    def pieces(self, file: File) -> Iterator[Row]:
        source, n, any_text = self.source, 0, False
        several = source.separator is not None
        separator = source.separator.encode() if source.separator is not None else None
        # a piece is cut only where so many bytes are known that none of it is a separator's
        known = source.piece + 2 * len(separator or b"")
        with file.unpacked() as data:
            block = data.read(BLOCK)
            if not block:
                raise Empty(file)
            if not source.any_bytes:
                block = block.removeprefix(MARK)
                separator = line_ends(block, separator) if block else separator
            while True:
                more = data.read(BLOCK)
                start, name = 0, ""
                for stop, after in places(block, separator, 0):
                    name = f"{file}#{n}" if several else str(file)
                    if stop > start:
                        yield from whole(name, block[start:stop], source.piece)
                        n, any_text = n + 1, True
                    start = after
                name = f"{file}#{n}" if several else str(file)
                rest = block[start:]
                if not more:
                    if rest:
                        yield from whole(name, rest, source.piece)
                    elif not any_text:
                        raise no_text(file, source.separator)
                    return
                start = 0
                while len(rest) - start > known:
                    end = cuts(rest, start, start + source.piece + 1, source.piece)[0]
                    yield Row(name, rest[start:end], 0, False)
                    start, any_text = end, True
                block = rest[start:] + more


def whole(name: str, text: bytes, piece: int) -> Iterator[Row]:
    """The rest of a document in pieces."""
    start = 0
    for end in cuts(text, 0, len(text), piece):
        yield Row(name, text[start:end], 0, end == len(text))
        start = end
