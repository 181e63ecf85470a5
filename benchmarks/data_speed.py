"""How fast text becomes batches: MB of text a second for one core, on the corpus that ships with
the package.

    python benchmarks/data_speed.py [OUT.json] [--seconds 2]

Reading, splitting, encoding and packing are timed alone in one thread; the pipeline is timed as a
training run sees it, with its workers running beside (its MB/s are of the wall clock and of all
workers together). Under a minute.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from hlm.data.pack import Budget, Packer
from hlm.data.pipeline import Data, batches
from hlm.data.source import TextFiles
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
    """MB/s of the texts that `sizes` works through, once to warm up and then again and again."""
    for _ in sizes():
        pass
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        done += sum(sizes())
    return done / spent / 1e6


def parts(source: TextFiles, seconds: float) -> dict[str, float]:
    opened = source.open()
    texts = [record.text for record in opened]
    arrays = [np.frombuffer(text, np.uint8) for text in texts]
    encoded = [CODEC.encode(text) for text in texts]

    def index() -> Iterator[int]:
        yield sum(len(record.text) for record in source.open())

    def split(splitter) -> Callable[[], Iterator[int]]:
        return lambda: (len(splitter.levels(array, True)) for array in arrays)

    def pack() -> Iterator[int]:
        packer = Packer(BUDGET)
        for text, symbols in zip(texts, encoded, strict=True):
            packer.add(symbols)
            yield len(text)

    def all_of_it() -> Iterator[int]:
        packer = Packer(BUDGET)
        for record in opened:
            packer.add(CODEC.encode(record.text, complete=record.complete))
            yield len(record.text)

    work = {
        "open the files and read": index,
        "read": lambda: (len(record.text) for record in opened),
    }
    work |= {f"split: {splitter}": split(splitter) for splitter in SPLITTERS}
    work |= {
        f"encode: {CODEC.split}": lambda: (len(text) for text in texts if CODEC.encode(text)),
        "pack": pack,
    }
    work |= {"read + encode + pack": all_of_it}
    return {name: rate(sizes, seconds / 4) for name, sizes in work.items()}


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


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast text becomes batches.")
    parser.add_argument("out", nargs="?", help="JSON file to write")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="to time the pipeline for; its parts take a quarter each",
    )
    given = parser.parse_args()
    columns = {name: parts(source, given.seconds) for name, source in SOURCES.items()}
    for workers in (0, 2):
        for name, source in SOURCES.items():
            columns[name][f"pipeline, workers={workers}"] = pipeline(source, workers, given.seconds)
    table = Table(
        "MB/s", *columns, title=f"text to batches, rows of {LENGTH}, {os.cpu_count()} cores"
    )
    for row in next(iter(columns.values())):
        table.add_row(row, *(f"{column[row]:.1f}" for column in columns.values()))
    Console().print(table)
    if given.out:
        with open(given.out, "w") as file:
            json.dump(
                {
                    "length": LENGTH,
                    "rows": ROWS,
                    "cores": os.cpu_count(),
                    "megabytes_per_second": columns,
                },
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
