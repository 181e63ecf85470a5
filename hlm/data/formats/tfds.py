"""Data sets of TensorFlow Datasets."""

import dataclasses
import os
from typing import Any

from hlm.data.formats.array_record import ArrayRecordStream
from hlm.data.formats.fields import check_types
from hlm.data.formats.files import File, may_open
from hlm.data.formats.record import Record, Records
from hlm.files import said


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A prepared TensorFlow Datasets data set in a random-access file format; TensorFlow itself is
    not needed.

    split: also a part, such as "train[:10%]". data_dir None: $TFDS_DATA_DIR or
    ~/tensorflow_datasets. From a bucket only whole splits are read, as remote ArrayRecord files.
    """

    name: str
    split: str = "train"
    field: str = "text"
    data_dir: str | None = None

    def __post_init__(self):
        check_types(self)

    def open(self) -> Records:
        builder = prepared(self)
        if "://" not in str(builder.data_path):
            return TfdsRecords(self, builder)
        if self.split not in builder.info.splits:
            raise ValueError(
                f"Tfds.split: {self.split!r} is no whole split of {builder.data_path}; it has "
                f"{', '.join(builder.info.splits)}"
            )
        paths = builder.info.splits[self.split].filepaths
        return ArrayRecordStream([File(str(path)) for path in paths], self.field, "Tfds")


def prepared(source: Tfds) -> Any:
    """The builder of a data set that has been prepared and has the field."""
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
    return builder


class TfdsRecords(Records):
    def __init__(self, source: Tfds, builder: Any):
        self.source = source
        try:
            self.files = [File(str(path)) for path in builder.info.splits[source.split].filepaths]
            may_open(len(self.files), "Tfds.name")
            self.data = builder.as_data_source(split=source.split)
        except NotImplementedError as error:
            raise ValueError(
                f"Tfds.name: {source.name!r} is prepared in {builder.data_path} in a format that "
                "has no random access; prepare it again in another folder, with "
                "file_format='array_record'"
            ) from error
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"Tfds.split: {source.split!r} of {builder.data_path} cannot be read: {said(error)}"
            ) from error
        if len(self.data):
            self[0]  # a feature that is no text is to be found now

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        try:
            text = self.data[index][self.source.field]
        except RuntimeError as error:
            raise ValueError(
                f"{self.name(index)} cannot be read: {said(error)}; are its files complete?"
            ) from error
        if not isinstance(text, bytes):
            raise TypeError(
                f"{self.name(index)}: feature {self.source.field!r} is a "
                f"{type(text).__name__}, not a text"
            )
        return Record(text, True)

    def name(self, index: int) -> str:
        return f"{self.source.name}/{self.source.split}[{index}]"

    def locations(self) -> list[File]:
        return self.files
