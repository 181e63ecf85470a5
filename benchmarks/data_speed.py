"""How fast text becomes batches: MB of text a second for one core, from every format, on the corpus
that ships with the package.

    python benchmarks/data_speed.py [OUT.json] [--seconds 2]

Three tables. Formats: opening, reading at random or in the order of the files, splitting, encoding
and packing in one thread, of files that are written for it: one document of all text ("novels") and
one for each 3 KB or so ("pages"). Parts: each part alone. Pipeline: as a training run sees it, with
its workers running beside (its MB/s are of the wall clock and of all workers together). Two
minutes.
"""

import argparse
import gzip
import json
import lzma
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from rich.console import Console
from rich.table import Table

from hlm.data.formats.pieces import cuts
from hlm.data.formats.stream import Stream
from hlm.data.pack import Budget, Packer
from hlm.data.pipeline import Data, batches, documents
from hlm.data.source import ArrayRecord, Arrow, JsonLines, Parquet, Source, Streamed, TextFiles
from hlm.split import Fixed, HatSplitter, SpaceLike, Unsplit, WordGroups, Words
from hlm.vocab import Bytes

SOURCES = {
    "English": TextFiles(("corpus:mobydick/train.txt", "corpus:sotu/train.txt")),
    "21 languages": TextFiles(("corpus:udhr",)),
}
SPLITTERS = (
    Unsplit(),
    Fixed(6),
    SpaceLike(),
    Words(),
    Words(eow=True),
    WordGroups(),
    HatSplitter(),
)
LENGTH, ROWS = 8192, 8
BUDGET = Budget(LENGTH, (LENGTH // 3,))
CODEC = Bytes(Words())


def rate(sizes: Callable[[], Iterator[int]], seconds: float) -> float:
    """MB/s of the texts that `sizes` works through, once to warm up and then again and again: of
    the processor's time, so that other programs disturb little.
    """
    for _ in sizes():
        pass
    done, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        done += sum(sizes())
    return done / spent / 1e6


def parts(source: TextFiles, seconds: float) -> dict[str, float]:
    """Each part alone."""
    texts = [record.text for record in source.open()]
    arrays = [np.frombuffer(text, np.uint8) for text in texts]
    encoded = [CODEC.encode(text) for text in texts]

    def split(splitter) -> Callable[[], Iterator[int]]:
        return lambda: (len(splitter.levels(array, True)) for array in arrays)

    def pack() -> Iterator[int]:
        packer = Packer(BUDGET)
        for text, symbols in zip(texts, encoded, strict=True):
            packer.add(symbols)
            yield len(text)

    work = {f"split: {splitter}": split(splitter) for splitter in SPLITTERS}
    work |= {
        f"encode: {CODEC.split}": lambda: (len(text) for text in texts if CODEC.encode(text)),
        "pack": pack,
    }
    return {name: rate(sizes, seconds / 4) for name, sizes in work.items()}


def write(texts: list[bytes], folder: pathlib.Path) -> dict[str, Source]:
    """The documents in every format."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir()
    words = [text.decode() for text in texts]
    lines = b"\n".join(json.dumps({"id": i, "text": text}).encode() for i, text in enumerate(words))
    table = pa.table({"id": list(range(len(words))), "text": words})
    pq.write_table(table, folder / "a.parquet", row_group_size=1000, compression="zstd")
    with pa.OSFile(str(folder / "a.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as w:
        w.write_table(table, 1000)
    packed = {
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".zst": zstandard.ZstdCompressor().compress,
        "": bytes,
    }
    for ending, pack in packed.items():
        (folder / f"a.jsonl{ending}").write_bytes(pack(lines))
    (folder / "a.txt").write_bytes(b"\0\0".join(texts))
    (folder / "a.txt.zst").write_bytes(packed[".zst"](b"\0\0".join(texts)))
    writer = ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for text in texts:
        writer.write(text)
    writer.close()
    at = {path.name: (str(path),) for path in folder.iterdir()}
    found: dict[str, Source] = {
        "text": TextFiles(at["a.txt"], "\0\0", any_bytes=True),
        "text, zst": TextFiles(at["a.txt.zst"], "\0\0", any_bytes=True),
        "JSON lines": JsonLines(at["a.jsonl"]),
        "JSON lines, in order": Streamed(JsonLines(at["a.jsonl"])),
    }
    for ending in (".gz", ".xz", ".zst"):
        found[f"JSON lines, {ending[1:]}"] = JsonLines(at[f"a.jsonl{ending}"])
    return found | {
        "Parquet": Parquet(at["a.parquet"]),
        "Arrow": Arrow(at["a.arrow"]),
        "ArrayRecord": ArrayRecord(at["a.array_record"]),
    }


def packed_text(source: Source) -> Callable[[], Iterator[int]]:
    """Read, split and pack: at random if the format has that, opened before; else as a stream."""
    opened = source.open()
    order = (
        None if isinstance(opened, Stream) else np.random.default_rng(0).permutation(len(opened))
    )

    def work() -> Iterator[int]:
        packer = Packer(BUDGET)
        for record in opened if order is None else map(opened.__getitem__, order.tolist()):
            packer.add(CODEC.encode(record.text, complete=record.complete))
            yield len(record.text)

    return work


def pages(text: bytes) -> list[bytes]:
    """A text in documents of 3 KB or so."""
    ends = cuts(text, 0, len(text), 4000)
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def formats(seconds: float) -> dict[str, dict[str, float]]:
    """{kind of documents: {format: MB/s}}."""
    found: dict[str, dict[str, float]] = {}
    for name, source in SOURCES.items():
        novels = [text * 4 for _, text in documents(source)]
        made = {f"{name}, novels": novels, f"{name}, pages": [p for t in novels for p in pages(t)]}
        for kind, texts in made.items():
            with tempfile.TemporaryDirectory() as folder:
                sources = write(texts, pathlib.Path(folder) / "x")
                found[kind] = {
                    title: rate(packed_text(each), seconds / 4) for title, each in sources.items()
                }
    return found


def pipeline(source: TextFiles, workers: int, seconds: float) -> float:
    """MB/s of all workers together, once they are running."""
    data = Data(source, LENGTH, workers=workers)
    iterator = batches(data, CODEC, BUDGET, ROWS, seed=0)
    # what was ready before the clock starts does not count
    for _ in range(2 * data.prefetch * max(workers, 1) + 1):
        next(iterator)
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        done += int(next(iterator)["nbytes"].sum())
    iterator.close()
    return done / spent / 1e6


def show(title: str, columns: dict[str, dict[str, float]]) -> None:
    table = Table("MB/s", *columns, title=title)
    for row in next(iter(columns.values())):
        table.add_row(row, *(f"{column[row]:.1f}" for column in columns.values()))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast text becomes batches.")
    parser.add_argument("out", nargs="?", help="JSON file to write")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="to time the pipeline for; all else takes a quarter each",
    )
    given = parser.parse_args()
    tables = {
        "read, split and packed, one thread": formats(given.seconds),
        "parts": {name: parts(source, given.seconds) for name, source in SOURCES.items()},
        "pipeline": {
            name: {
                f"workers={workers}": pipeline(source, workers, given.seconds) for workers in (0, 2)
            }
            for name, source in SOURCES.items()
        },
    }
    for title, columns in tables.items():
        show(f"{title}; rows of {LENGTH}, {os.cpu_count()} cores", columns)
    if given.out:
        with open(given.out, "w") as file:
            settings = {"length": LENGTH, "rows": ROWS, "cores": os.cpu_count()}
            json.dump(settings | {"megabytes_per_second": tables}, file, indent=1)


if __name__ == "__main__":
    main()
