"""Parquet tables."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hlm.data.formats import table
from hlm.data.formats.fields import FieldFiles
from hlm.data.formats.files import File
from hlm.data.formats.find import find
from hlm.data.formats.record import Records
from hlm.data.formats.stream import Bad, Empty, Row, Stream


@dataclasses.dataclass(frozen=True)
class Parquet(FieldFiles):
    """Parquet tables, as FineWeb and most of the Hugging Face hub: the text is in column `field`.

    `paths`, `piece`, `prompt` and `bad_lines` (rows whose text is null, of each file) as in
    JsonLines; a folder means every *.parquet below. Only the named columns are read, a row group
    after the other, and shuffled data takes row groups in random order. Always a Stream.
    """

    def open(self) -> Records:
        return self.stream()

    def stream(self) -> Stream:
        return ParquetStream(self, find(self.paths, ".parquet", ".pq"))


class ParquetStream(Stream):
    def __init__(self, source: Parquet, files: list[File]):
        self.columns = [name for name in (source.prompt, source.field) if name is not None]
        super().__init__(files, "Parquet", source.piece, source.bad_lines)

    def rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row | Bad]:
        path = self.files[file]
        with path.open() as stored:
            try:
                # buffered: a row group of a gigabyte is not read whole
                opened = pq.ParquetFile(stored, buffer_size=1 << 20)
                sizes = [
                    opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)
                ]
                table.check_columns(opened.schema_arrow, self.columns, path, "Parquet")
                first = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).tolist()
                if not first[-1]:
                    raise Empty(path)
                order = np.arange(len(sizes))
                if seed is not None:
                    order = np.random.default_rng(seed).permutation(order)
                for group in order.tolist():
                    if skip >= sizes[group]:
                        skip -= sizes[group]
                        continue
                    at = first[group]
                    for batch in opened.iter_batches(
                        table.ROWS, row_groups=[group], columns=self.columns, use_threads=False
                    ):
                        left = batch.slice(min(skip, batch.num_rows))
                        at, skip = at + batch.num_rows, skip - (batch.num_rows - left.num_rows)
                        yield from table.rows(left, self.columns, str(path), at - left.num_rows)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise ValueError(
                    f"{path} cannot be read as Parquet: {' '.join(str(error).split())}; "
                    "is it complete?"
                ) from error
