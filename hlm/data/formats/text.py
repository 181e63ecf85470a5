"""Text files."""

import array
import dataclasses
import pathlib

import numpy as np

from hlm.data import kinds
from hlm.data.formats.files import File, check_paths, check_piece, find
from hlm.data.formats.pieces import MARK, cuts, line_ends, spans
from hlm.data.formats.record import Record, Records


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
