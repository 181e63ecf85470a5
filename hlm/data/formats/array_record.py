"""ArrayRecord files."""

import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from hlm.data import kinds
from hlm.data.formats.example import example_feature, example_features
from hlm.data.formats.fields import check_types
from hlm.data.formats.files import File, file_system, may_open
from hlm.data.formats.find import check_paths, find
from hlm.data.formats.record import Record, Records
from hlm.data.formats.stream import Empty, Row, Stream
from hlm.files import said

BATCH = 64  # records that are read at once


@dataclasses.dataclass(frozen=True)
class ArrayRecord:
    """ArrayRecord files.

    Field None: a record is the text itself; else it is a tf.train.Example and this is its feature.
    Local files are read at random. If any is remote, all are a Stream: each is fetched whole to the
    temporary folder when its turn comes ($TMPDIR needs room for one of each worker), read in random
    order if data are shuffled, and removed.
    """

    paths: tuple[str, ...]
    field: str | None = None

    def __post_init__(self):
        check_paths(self)
        check_types(self)

    def open(self) -> Records:
        files = find(self.paths, ".array_record")
        if any(file.remote for file in files):
            return ArrayRecordStream(files, self.field)
        return ArrayRecords(self, files)

    def stream(self) -> Stream:
        return ArrayRecordStream(find(self.paths, ".array_record"), self.field)


class ArrayRecords(Records):
    def __init__(self, source: ArrayRecord, files: list[File]):
        # here: only those who use it pay for the import
        from array_record.python import array_record_data_source

        self.files = files
        for path in self.files:
            check_array_record(path)
        may_open(len(files), "ArrayRecord.paths")
        try:
            self.data = array_record_data_source.ArrayRecordDataSource(
                [str(path) for path in self.files]
            )
        except RuntimeError as error:
            for path in self.files:  # which one
                reader_of(path, str(path))
            raise ValueError(
                f"ArrayRecord.paths {source.paths} cannot be read: {said(error)}; are the files "
                "complete?"
            ) from error
        if not len(self.data):
            raise ValueError(f"ArrayRecord.paths {source.paths} has no records")
        self.field = source.field
        self.title = ",".join(source.paths)
        first = self[0].text  # a wrong field is to be found now
        if self.field is None:
            check_text(first, self.name(0))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        try:
            record = self.data[index]
        except RuntimeError as error:
            path, i = self.place(index)
            raise damaged(f"{path}[{i}]", error) from error
        return Record(
            record if self.field is None else example_feature(record, self.field, self.name(index)),
            True,
        )

    def place(self, index: int) -> tuple[File, int]:
        """The file that a record is in, and its number there."""
        for file in self.files:
            size = reader_of(file, str(file)).num_records()
            if index < size:
                return file, index
            index -= size
        raise IndexError(index)

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def locations(self) -> list[File]:
        return self.files


class ArrayRecordStream(Stream):
    """Its rows are records; all of a file can be read by themselves."""

    def __init__(self, files: list[File], field: str | None, reader: str = "ArrayRecord"):
        self.field = field
        super().__init__(files, reader, None)

    def check(self, file: int) -> None:
        check_array_record(self.files[file])

    def rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row]:
        path = self.files[file]
        reader = fetched(path) if path.remote else reader_of(path, path.address)
        order = np.arange(reader.num_records())
        if not len(order):
            raise Empty(path)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        for start in range(skip, len(order), BATCH):
            some = order[start : start + BATCH].tolist()
            try:
                read = reader.read(some)
            except RuntimeError as error:
                raise damaged(str(path), error) from error
            for i, record in zip(some, read, strict=True):
                name = f"{path}[{i}]"
                if self.field is not None:
                    record = example_feature(record, self.field, name)
                elif not start and not skip and i == some[0]:
                    check_text(record, name)
                yield Row(name, record)
        reader.close()


def reader_of(path: File, here: str) -> Any:
    """The library's reader of a file, which lies here. ValueError if that is damaged."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(here, "readahead_buffer_size:0")
        if not reader.ok():  # it would say 0 records of a file that is cut off
            reader.close()  # this says why
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read: {said(error)}; is it complete?") from error
    return reader


def fetched(path: File) -> Any:
    """The reader of a remote file, which has been fetched whole. It has no name any more, so that
    it is gone with the process, however that ends.
    """
    with tempfile.TemporaryDirectory(prefix="hlm-") as folder:
        here = str(pathlib.Path(folder) / "a.array_record")
        system, inner = file_system(path.address)
        system.get_file(inner, here)
        return reader_of(path, here)


def damaged(where: str, error: Exception) -> ValueError:
    return ValueError(f"{where} is damaged: {said(error)}; get or make the file again")


def check_array_record(path: File) -> None:
    """ValueError if the file is something else."""
    with path.open() as file:
        head = file.read(kinds.HEAD)
    kinds.refuse(path, head, "ArrayRecord", named=False)
    if not kinds.ARRAY_RECORD.has(head):
        raise ValueError(
            f"{path} is not an ArrayRecord file; read text with TextFiles and JSON lines with "
            "JsonLines"
        )
    if re.search(r"\[\d+:\d+\]$", str(path)):
        raise ValueError(
            f"{path}: to the library, such a name is a range of records of another file; rename it"
        )


def check_text(record: bytes, where: str) -> None:
    """ValueError if a record that is to be a text itself is a tf.train.Example; a warning if it
    looks otherwise.
    """
    features = example_features(record)
    if features:
        raise ValueError(
            f"{where} is a tf.train.Example, not a text: name its feature in "
            f"ArrayRecord.field, one of {features}"
        )
    kind = kinds.of_bytes(record)
    if kind is not None:
        warnings.warn(
            f"{where} is {kind.name}, not a text, and is read as it is; is that meant?",
            stacklevel=4,
        )
