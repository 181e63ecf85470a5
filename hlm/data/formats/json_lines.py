"""JSON lines."""

import array
import dataclasses
import itertools
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from hlm.data import kinds
from hlm.data.formats.fields import FieldFiles
from hlm.data.formats.files import File
from hlm.data.formats.find import find, with_packed
from hlm.data.formats.json_string import LENIENT, raw_ends
from hlm.data.formats.pieces import MARK, cuts, spans
from hlm.data.formats.record import Record, Records
from hlm.data.formats.stream import Bad, Empty, Row, Stream

WHOLE = -1  # in place of where a piece ends: where its line does
RAW = -2  # a piece is these bytes of the file, the inside of a JSON string; more follow
RAW_END = -3  # the same, the last of its document


@dataclasses.dataclass(frozen=True)
class JsonLines(FieldFiles):
    """One JSON object a line, the text in `field`: .jsonl files, plain or packed (.gz, .xz, .zst).

    `paths` and `piece` as in TextFiles. Blank lines are skipped. prompt: another field, whose text
    stands before that of `field` (with nothing in between) and is read, but neither learned nor
    scored. bad_lines: up to so many lines that do not hold the fields are left out,
    with a warning; more are an error.

    Plain local files are read at random, and every line is parsed when they are opened; with
    bad_lines=None lines are only found then, and parsed when they are drawn. If any file is packed
    or remote, all are a Stream, parsed as it is read, with so many bad lines for each file.
    """

    def open(self) -> Records:
        files = find(self.paths, *with_packed(".jsonl"))
        if any(file.packed or file.remote for file in files):
            return LineStream(self, files)
        return LineRecords(self, files)

    def stream(self) -> Stream:
        return LineStream(self, find(self.paths, *with_packed(".jsonl")))


@dataclasses.dataclass(frozen=True)
class Line:
    """How the text of a line is found."""

    field: str
    prompt: str | None

    def text(self, where: str, line: bytes, first: bool) -> tuple[bytes, int]:
        """The text of a line, and how many bytes of it are its prompt. ValueError without one."""
        try:
            # not of bytes: json would take some for UTF-16
            row = json.loads(line.removeprefix(MARK).decode(*LENIENT))
        except (ValueError, RecursionError) as error:
            plain = "; is it text for TextFiles?" if first else ""
            raise ValueError(f"{where} is not JSON: {error}{plain}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} has no field {self.field!r}; it is a {type(row).__name__}")
        prompt = b"" if self.prompt is None else part(row, self.prompt, where)
        return prompt + part(row, self.field, where), len(prompt)


def part(row: dict[str, Any], field: str, where: str) -> bytes:
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


class LineRecords(Records):
    """A table of lines and their pieces. A piece of a long document is read from its own bytes, the
    document is not parsed again.
    """

    def __init__(self, source: JsonLines, files: list[File]):
        self.files = files
        self.line = Line(source.field, source.prompt)
        bad: list[str] = []
        # file, line number, start and stop of the line, start and stop of the text; or start and
        # stop of a piece, 0, RAW
        table = array.array("q")
        for f, file in enumerate(self.files):
            before = len(table)
            with file.mapped() as data:
                kinds.refuse(file, data[: kinds.HEAD], "JsonLines", named=False)
                for number, (start, stop) in enumerate(spans(data, b"\n", empty=True), 1):
                    line = data[start:stop]
                    if not line.strip():
                        continue
                    ends = [WHOLE]
                    # else it cannot be longer: escapes only shrink
                    if source.bad_lines is not None or len(line) > source.piece:
                        try:
                            text, _ = self.line.text(f"{file} line {number}", line, number == 1)
                        except ValueError as error:
                            bad.append(str(error))
                            if len(bad) > (source.bad_lines or 0):
                                raise ValueError(too_many(bad, source.bad_lines)) from error
                            continue
                        ends = [*cuts(text, 0, len(text), source.piece)[:-1], WHOLE]
                        raw = None
                        if len(ends) > 1 and source.prompt is None:
                            mark = len(MARK) if line.startswith(MARK) else 0
                            start, line = start + mark, line[mark:]
                            raw = raw_ends(line, source.field, text, [*ends[:-1], len(text)])
                        if raw is not None:
                            for a, b in itertools.pairwise(raw):
                                mark = RAW if b != raw[-1] else RAW_END
                                table.extend((f, number, start + a, start + b, 0, mark))
                            continue
                    for first, end in zip([0, *ends], ends, strict=False):
                        table.extend((f, number, start, stop, first, end))
            if len(table) == before:
                raise no_lines(file)
        if bad:
            warnings.warn(
                f"JsonLines.bad_lines: {len(bad)} left out, the first: {bad[0]}", stacklevel=3
            )
        self.table = np.frombuffer(table, np.int64).reshape(-1, 6)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Record:
        f, number, start, stop, first, last = self.table[index].tolist()
        data = self.files[f].read(start, stop)
        if last in (RAW, RAW_END):
            return Record(json.loads(b'"%b"' % data).encode(), last == RAW_END)
        text, prompt = self.line.text(f"{self.files[f]} line {number}", data, number == 1)
        piece = text[first:] if last == WHOLE else text[first:last]
        return Record(piece, last == WHOLE, min(max(prompt - first, 0), len(piece)))

    def name(self, index: int) -> str:
        f, number, *_ = self.table[index].tolist()
        return f"{self.files[f]}:{number}"

    def locations(self) -> list[File]:
        return self.files


class LineStream(Stream):
    """Its rows are the lines that are not blank."""

    def __init__(self, source: JsonLines, files: list[File]):
        self.line = Line(source.field, source.prompt)
        super().__init__(files, "JsonLines", source.piece, source.bad_lines)

    def rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row | Bad]:
        path, n, good, number = self.files[file], 0, False, 0
        with path.unpacked() as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(MARK)
                if not line.strip():
                    continue
                n += 1
                if n <= skip:
                    good = True
                    continue
                where = f"{path} line {number}"
                try:
                    text, prompt = self.line.text(where, line, number == 1)
                except ValueError as error:
                    yield Bad(str(error))
                    continue
                good = True
                yield Row(f"{path}:{number}", text, prompt)
        if not number:
            raise Empty(path)
        if not good:
            raise no_lines(path)


def no_lines(file: File) -> ValueError:
    return ValueError(f"{file} has no lines but blank and bad ones; remove it from the paths")


def too_many(bad: list[str], allowed: int | None) -> str:
    if not allowed:
        return f"{bad[0]}; mend the line, or leave out up to so many with JsonLines.bad_lines"
    return (
        f"JsonLines.bad_lines is {allowed}, and there are more: the first is {bad[0]}, the last "
        f"one read {bad[-1]}"
    )
