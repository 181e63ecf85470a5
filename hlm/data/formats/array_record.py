"""ArrayRecord files."""

import dataclasses
import pathlib
import re
import warnings

from hlm.data import kinds
from hlm.data.formats.example import example_feature, example_features
from hlm.data.formats.files import check_paths, find
from hlm.data.formats.record import Record, Records


@dataclasses.dataclass(frozen=True)
class ArrayRecord:
    """ArrayRecord files.

    Field None: a record is the text itself; else it is a tf.train.Example and this is its feature.
    """

    paths: tuple[str, ...]
    field: str | None = None

    def __post_init__(self):
        check_paths(self)

    def open(self) -> Records:
        return ArrayRecords(self)


class ArrayRecords(Records):
    def __init__(self, source: ArrayRecord):
        # here: only those who use it pay for the import
        from array_record.python import array_record_data_source

        self.files = find(source.paths, ".array_record")
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

    def locations(self) -> list[pathlib.Path]:
        return self.files


def check_array_record(path: pathlib.Path) -> None:
    """ValueError if the file is something else."""
    with open(path, "rb") as file:
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
