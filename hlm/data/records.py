"""Sources in record formats, which other libraries read: ArrayRecord files and TensorFlow
Datasets.
"""

import dataclasses
import os
import pathlib
import re
import warnings
from typing import Any

from hlm.data import kinds
from hlm.data.source import Record, Records, check_paths, find


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


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A prepared TensorFlow Datasets data set in a random-access file format; TensorFlow itself is
    not needed.

    split: also a part, such as "train[:10%]". data_dir None: $TFDS_DATA_DIR or
    ~/tensorflow_datasets.
    """

    name: str
    split: str = "train"
    field: str = "text"
    data_dir: str | None = None

    def open(self) -> Records:
        return TfdsRecords(self)


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


class TfdsRecords(Records):
    def __init__(self, source: Tfds):
        import tensorflow_datasets as tfds  # here: a slow import

        where = "" if source.data_dir is None else f", data_dir={source.data_dir!r}"
        fix = (
            f"prepare it with tfds.builder({source.name!r}{where}, "
            "file_format='array_record').download_and_prepare(), "
            f"or from text of your own with python -m hlm.data.local_text"
        )
        try:
            builder: Any = tfds.builder(
                source.name, data_dir=source.data_dir and os.path.expanduser(source.data_dir)
            )
        except tfds.core.DatasetNotFoundError:
            raise FileNotFoundError(
                f"Tfds.name: no data set {source.name!r} in "
                f"{source.data_dir or 'the data folder'}; {fix}"
            ) from None
        if not builder.is_prepared():
            raise FileNotFoundError(
                f"Tfds.name: {source.name!r} is not prepared in {builder.data_path}; {fix}"
            )
        if source.field not in builder.info.features:
            raise ValueError(
                f"Tfds.field: {source.name!r} has no feature {source.field!r}; it has "
                f"{sorted(builder.info.features)}"
            )
        self.data = builder.as_data_source(split=source.split)
        self.source = source
        self.files = [pathlib.Path(path) for path in builder.info.splits[source.split].filepaths]
        if len(self.data):
            self[0]  # a feature that is no text is to be found now

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        text = self.data[index][self.source.field]
        if not isinstance(text, bytes):
            raise TypeError(
                f"{self.name(index)}: feature {self.source.field!r} is a "
                f"{type(text).__name__}, not a text"
            )
        return Record(text, True)

    def name(self, index: int) -> str:
        return f"{self.source.name}/{self.source.split}[{index}]"

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


def example_features(record: bytes) -> list[str]:
    """The names of the features of what may be a serialised tf.train.Example; none if it is not."""
    # Features and its first entry, each behind a size
    if record[:1] != b"\n" or b"\n" not in record[1:12]:
        return []
    from tensorflow_datasets.proto import tf_example_pb2 as proto  # here: a slow import

    try:
        example = proto.Example.FromString(record)  # type: ignore
    except Exception:  # the protobuf runtime in use decides the type
        return []
    return sorted(example.features.feature) if example.SerializeToString() else []


def example_feature(record: bytes, field: str, where: str) -> bytes:
    """The one bytes value of a feature of a serialised tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2 as proto  # here: a slow import

    try:
        features = proto.Example.FromString(record).features.feature  # type: ignore
    except Exception as error:  # the protobuf runtime in use decides the type
        raise ValueError(
            f"{where} is not a tf.train.Example: {error}; use field=None if a record is the "
            "text itself"
        ) from error
    if field not in features or len(features[field].bytes_list.value) != 1:
        raise ValueError(
            f"{where} has no single text in feature {field!r}; its features are {sorted(features)}"
        )
    return features[field].bytes_list.value[0]
