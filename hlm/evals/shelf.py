"""Files of benchmarks: a folder, or the small made-up sample that ships (hlm/evals/samples).

A file is asked for by its name there, such as eval/piqa_val.jsonl, and may be packed (.xz, .gz).
The sample has the same names and fields as the folder, so every suite runs on either.
"""

import gzip
import hashlib
import json
import lzma
import os
import pathlib
from typing import Any

import numpy as np

SAMPLES = pathlib.Path(__file__).parent / "samples"
PACKED = {"": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress}


class Missing(Exception):
    """Data that a suite needs is not there."""


class Shelf:
    """A folder of benchmark files; it remembers the SHA-256 of each that was read."""

    def __init__(self, folder: str | os.PathLike[str] | None):
        self.folder = None if folder is None else pathlib.Path(folder).expanduser()
        self.digests: dict[str, str] = {}  # of the unpacked content

    @property
    def is_sample(self) -> bool:
        return self.folder == SAMPLES

    def has(self, name: str) -> bool:
        return self._file(name) is not None

    def _file(self, name: str) -> pathlib.Path | None:
        if self.folder is None:
            return None
        files = (self.folder / f"{name}{packed}" for packed in PACKED)
        return next((file for file in files if file.is_file()), None)

    def names(self, pattern: str) -> list[str]:
        """Names of files that are there, by a glob pattern without the ending of packing."""
        found = set()
        for packed in PACKED if self.folder else ():
            for file in self.folder.glob(pattern + packed):  # type: ignore
                name = file.relative_to(self.folder).as_posix()  # type: ignore
                found.add(name.removesuffix(packed) if packed else name)
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The content of a file; raises `Missing`, or ValueError if it cannot be unpacked."""
        file = self._file(name)
        if file is None:
            where = f"in {self.folder}" if self.folder else "without a folder of benchmarks"
            raise Missing(
                f"no {name} {where}; give a folder that has it with --benchmarks, or "
                "--benchmarks sample for a small made-up sample"
            )
        try:
            content = PACKED["" if file.name == pathlib.Path(name).name else file.suffix](
                file.read_bytes()
            )
        except (lzma.LZMAError, EOFError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}); get it again") from None
        self.digests[name] = hashlib.sha256(content).hexdigest()
        return content

    def lines(self, name: str) -> list[str]:
        """Lines of a text file without those that are empty."""
        content = self.read(name)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._file(name)} is no UTF-8 text: {error}") from None
        return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Objects of a file of JSON lines."""
        found = []
        for i, line in enumerate(self.lines(name), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{self._file(name)}:{i} is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{self._file(name)}:{i} is no JSON object")
            found.append(row)
        return found


def some(items: list[Any], most: int | None, seed: int = 0) -> list[Any]:
    """At most so many items, in their order, drawn by the seed."""
    if most is None or len(items) <= most:
        return items
    chosen = np.sort(np.random.default_rng(seed).permutation(len(items))[:most])
    return [items[i] for i in chosen]
