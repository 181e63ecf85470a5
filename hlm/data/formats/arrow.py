"""Arrow tables: folders of Hugging Face `datasets`, and Arrow IPC files of any origin."""

import contextlib
import dataclasses
import glob
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from hlm.data.formats import table
from hlm.data.formats.fields import FieldFiles
from hlm.data.formats.files import File, file_system, local
from hlm.data.formats.find import find
from hlm.data.formats.find import place as local_place
from hlm.data.formats.record import Records
from hlm.data.formats.stream import Bad, Empty, Row, Stream


@dataclasses.dataclass(frozen=True)
class Arrow(FieldFiles):
    """Arrow tables, such as a folder that `Dataset.save_to_disk` of Hugging Face `datasets` wrote;
    the text is in column `field`.

    `paths`, `piece`, `prompt` and `bad_lines` (rows whose text is null, of each file) as in
    JsonLines; a folder means every *.arrow below. One of several splits (a DatasetDict, or what
    `load_dataset` keeps in its cache) is refused: name the folder or the files of a split. Local
    files are mapped, not read whole. Always a Stream.
    """

    def open(self) -> Records:
        return self.stream()

    def stream(self) -> Stream:
        files = find(self.paths, ".arrow")
        # what `datasets` keeps of a map or filter: the same texts again
        own = [file for file in files if not file.name.startswith("cache-")] or files
        for path in self.paths:
            if is_folder(path):  # else files were chosen by name
                splits = splits_of(find((path,), ".arrow"))
                if len(splits) > 1:
                    one = splits.get("train") or next(iter(splits.values()))
                    raise ValueError(
                        f"Arrow.paths: {path!r} holds several splits, {', '.join(sorted(splits))}: "
                        f"name one, such as {one!r}"
                    )
        return ArrowStream(self, own)


def is_folder(path: str) -> bool:
    if "://" not in local(path):
        return local_place(path).is_dir()
    system, inner = file_system(path)
    return not glob.has_magic(inner) and bool(system.isdir(inner))


def splits_of(files: list[File]) -> dict[str, str]:
    """{split: paths that name it} of files that `datasets` wrote."""
    folders: dict[str, list[File]] = {}
    for file in files:
        folders.setdefault(file.address.rpartition("/")[0], []).append(file)
    found = {}
    for folder, inside in folders.items():
        above, _, name = folder.rpartition("/")
        if above and exists(f"{above}/dataset_dict.json"):
            found[name] = folder
            continue
        names = splits_in(f"{folder}/dataset_info.json")
        for file in inside:
            # NAME-SPLIT.arrow or NAME-SPLIT-00000-of-00002.arrow in the cache; else data-...
            stem = re.sub(r"(-\d{5}-of-\d{5})?\.arrow$", "", file.name)
            split = next((name for name in names if stem.endswith(f"-{name}")), None)
            if split is not None:
                found[split] = f"{folder}/{stem}*.arrow"
    return found


def splits_in(path: str) -> list[str]:
    """The splits that a dataset_info.json names, none if there is no such file."""
    if not exists(path):
        return []
    try:
        with File(path).open() as file:
            return list(json.load(file)["splits"])
    except (ValueError, TypeError, KeyError):  # not of `datasets`
        return []


def exists(path: str) -> bool:
    if "://" not in path:
        return local_place(path).is_file()
    system, inner = file_system(path)
    return bool(system.isfile(inner))


class ArrowStream(Stream):
    def __init__(self, source: Arrow, files: list[File]):
        self.columns = [name for name in (source.prompt, source.field) if name is not None]
        super().__init__(files, "Arrow", source.piece, source.bad_lines)

    def rows(self, file: int, skip: int, seed: int | None) -> Iterator[Row | Bad]:
        path, found = self.files[file], False
        try:
            with opened(path) as stored:
                for where, first, batch in self.batches(path, stored, seed):
                    left = batch.slice(min(skip, batch.num_rows))
                    done = batch.num_rows - left.num_rows
                    skip, found = skip - done, found or bool(batch.num_rows)
                    yield from table.rows(left, self.columns, where, first + done)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(
                f"{path} cannot be read as Arrow: {' '.join(str(error).split())}; is it complete?"
            ) from error
        if not found:
            raise Empty(path)

    def batches(
        self, path: File, stored: Any, seed: int | None
    ) -> Iterator[tuple[str, int, pa.RecordBatch]]:
        """(where it is, number of its first row there, record batch).

        With a seed in random order, if the file says where each one is.
        """
        magic = stored.read(6)
        stored.seek(0)
        if magic != b"ARROW1":
            with pa.ipc.open_stream(stored) as batches:
                table.check_columns(batches.schema, self.columns, path, "Arrow")
                first = 0
                for batch in batches:
                    yield str(path), first, batch
                    first += batch.num_rows
            return
        with pa.ipc.open_file(stored) as batches:
            table.check_columns(batches.schema, self.columns, path, "Arrow")
            order = np.arange(batches.num_record_batches)
            if seed is not None:
                order = np.random.default_rng(seed).permutation(order)
            for i in order.tolist():
                yield f"{path} batch {i}", 0, batches.get_batch(i)


@contextlib.contextmanager
def opened(path: File) -> Iterator[Any]:
    if path.remote:
        with path.open() as raw:
            yield pa.PythonFile(raw, "r")
    else:
        with pa.memory_map(path.address) as mapped:
            yield mapped
