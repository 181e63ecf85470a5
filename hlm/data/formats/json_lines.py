"""JSON lines."""

import array
import dataclasses
import json
import pathlib
import warnings
from typing import Any

import numpy as np

from hlm.data import kinds
from hlm.data.formats.files import File, check_paths, check_piece, find
from hlm.data.formats.pieces import cuts, spans
from hlm.data.formats.record import Record, Records


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """One JSON object a line, the text in `field`: .jsonl files, or the same packed as .gz or .xz
    (unpacked into memory).

    `paths` and `piece` as in TextFiles. A cut document is parsed again for each of its records.
    Blank lines are skipped. prompt: another field, whose text stands before that of `field` (with
    nothing in between) and is read, but not learned. Evaluation scores the whole text. bad_lines:
    every line is parsed when the files are opened. Up to so many that do not hold the fields are
    left out, with a warning; more are an error. None: lines are not parsed before they are drawn
    (for terabytes), and then a bad one is an error.
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
