"""ArrayRecord files."""

import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np

from hlm.data import kinds
from hlm.data.formats.example import example_feature, example_features
from hlm.data.formats.files import File, file_system
from hlm.data.formats.find import check_paths, find
from hlm.data.formats.record import Record, Records
from hlm.data.formats.stream import Row, Stream

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
        try:
            self.data = array_record_data_source.ArrayRecordDataSource(
                [str(path) for path in self.files]
            )
        except RuntimeError as error:
            raise ValueError(
                f"ArrayRecord.paths {source.paths} cannot be read: {error}; are the files complete?"
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
        record = self.data[index]
        return Record(
            record if self.field is None else example_feature(record, self.field, self.name(index)),
            True,
        )

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
        from array_record.python.array_record_module import ArrayRecordReader

        path = self.files[file]
        with tempfile.TemporaryDirectory(prefix="hlm-") as folder:
            local = path.address
            if path.remote:
                local = str(pathlib.Path(folder) / "a.array_record")
                system, inner = file_system(path.address)
                system.get_file(inner, local)
            try:
                reader = ArrayRecordReader(local, "readahead_buffer_size:0")
            except RuntimeError as error:
                raise ValueError(f"{path} cannot be read: {error}; is it complete?") from error
            order = np.arange(reader.num_records())
            if seed is not None:
                order = np.random.default_rng(seed).permutation(order)
            for start in range(skip, len(order), BATCH):
                some = order[start : start + BATCH].tolist()
                for i, record in zip(some, reader.read(some), strict=True):
                    name = f"{path}[{i}]"
                    if self.field is not None:
                        record = example_feature(record, self.field, name)
                    elif not start and not skip and i == some[0]:
                        check_text(record, name)
                    yield Row(name, record)
            reader.close()


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
