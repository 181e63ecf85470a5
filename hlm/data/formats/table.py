"""Columns of text in tables of pyarrow, whichever format they come from."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from hlm.data.formats.files import File
from hlm.data.formats.stream import Bad, Row

ROWS = 256  # whose texts are taken out of a table at once


def check_columns(schema: pa.Schema, columns: list[str], file: File, reader: str) -> None:
    """ValueError if a column is not there or holds no texts."""
    for column in columns:
        if column not in schema.names:
            raise ValueError(
                f"{file} has no column {column!r}; it has {', '.join(schema.names)}: name one with "
                f"{reader}.field"
            )
        if schema.names.count(column) > 1:
            raise ValueError(
                f"{file} has several columns {column!r}: write it with one, or name another with "
                f"{reader}.field"
            )
        kind: Any = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        text = (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_null,
        )
        if not any(is_text(kind) for is_text in text):
            raise ValueError(
                f"{file}: column {column!r} holds {kind}, not text: name one that does with "
                f"{reader}.field"
            )


def rows(batch: pa.RecordBatch, columns: list[str], where: str, first: int) -> Iterator[Row | Bad]:
    """The rows of a record batch, whose first has the number `first` in what `where` says.

    columns: that of the text, after that of a prompt if there is one.
    """
    for start in range(0, batch.num_rows, ROWS):
        part = batch.slice(start, ROWS)
        texts = [values(part.column(column)) for column in columns]
        for i, found in enumerate(zip(*texts, strict=True), first + start):
            name = f"{where} row {i}"
            if None in found:
                yield Bad(f"{name}: column {columns[found.index(None)]!r} is null")
            elif len(found) == 1:
                yield Row(name, found[0])
            else:
                yield Row(name, found[0] + found[1], len(found[0]))


def values(column: pa.Array) -> list[bytes | None]:
    """The bytes of each text, None for null. They are not decoded."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary()).to_pylist()
