"""Any source as ArrayRecord files of whole documents, which are read at random.

    python -m hlm.data.convert 'Parquet(("gs://bucket/fineweb/*.parquet",))' /data/fineweb

It pays where a corpus is read for several epochs and has to be shuffled well, or where packed files
are fewer than the workers that read them; else train on the files as they are. A file of the source
that is a stream becomes one shard, other sources as many as --shards says. Started again, it goes
on: shards that are there are kept, a shard is there only when it is whole. The destination may be a
bucket.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hlm.data.contents import of_records
from hlm.data.formats.files import file_system, local
from hlm.data.formats.record import Records
from hlm.data.formats.stream import Stream
from hlm.data.source import Mixture, Source
from hlm.files import said
from hlm.registry import expression, from_json, to_json

PLAN = "convert.json"  # what a folder is made of
ENDING = ".array_record"
UNFINISHED = ".unfinished"
SHARD = 1 << 28  # stored bytes of the source for a shard, where they are known


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where shards go: a local folder, or one in a bucket."""

    address: str

    @property
    def remote(self) -> bool:
        return "://" in self.address

    def names(self) -> set[str]:
        if not self.remote:
            os.makedirs(self.address, exist_ok=True)
            return set(os.listdir(self.address))
        system, path = file_system(self.address)
        with contextlib.suppress(FileNotFoundError):
            return {name.rsplit("/", 1)[-1] for name in system.ls(path, detail=False)}
        return set()

    def read(self, name: str) -> bytes:
        if not self.remote:
            return (pathlib.Path(self.address) / name).read_bytes()
        system, path = file_system(f"{self.address}/{name}")
        return system.cat_file(path)

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[str]:
        """A local path to write to; the file has its name only when it is whole.

        No other process writes to this path, so that a conversion may be started while an older
        one, or what is left of it, is still at work.
        """
        with tempfile.TemporaryDirectory(prefix="hlm-") as away:
            own = f"{name}.{uuid.uuid4().hex[:8]}{UNFINISHED}"
            here = os.path.join(away if self.remote else self.address, own)
            try:
                yield here
                if self.remote:
                    system, path = file_system(f"{self.address}/{name}")
                    system.put_file(here, path)
                elif os.path.exists(here) or name not in self.names():  # else another one was here
                    os.replace(here, os.path.join(self.address, name))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.remove(here)
                raise

    def clean(self) -> None:
        """Remove what killed conversions left, now that every file is there."""
        for name in () if self.remote else os.listdir(self.address):
            if name.endswith(UNFINISHED):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self.address, name))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is converted, into how many shards; a conversion goes on only if it is the same."""

    source: Any  # as JSON
    contents: Any  # its fingerprint
    shards: int

    def name(self, shard: int) -> str:
        return f"text-{shard:05d}-of-{self.shards:05d}{ENDING}"


def plan(source: Source | Mixture, folder: Folder, shards: int | None) -> Plan:
    """The plan of a folder: a new one, or that which is there. ValueError if it is another."""
    if isinstance(source, Mixture):
        raise ValueError("SOURCE is a Mixture: convert its sources one by one, and mix the results")
    records = source.open()
    if isinstance(records, Stream):
        if shards not in (None, len(records.files)):
            raise ValueError(
                f"--shards {shards}: every one of the {len(records.files)} files becomes a shard; "
                "leave it out"
            )
        shards = len(records.files)
    else:
        stored = sum(file.size() for file in records.locations())
        shards = min(shards or -(-stored // SHARD) or 1, len(records))
    made = Plan(json.loads(json.dumps(to_json(source))), of_records(records), shards)
    names = folder.names()
    if PLAN in names:
        try:
            there = Plan(**json.loads(folder.read(PLAN)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"DEST {folder.address}: its {PLAN} is damaged; choose another folder"
            ) from error
        if there != made:
            parts = (f.name for f in dataclasses.fields(Plan))
            other = [name for name in parts if getattr(there, name) != getattr(made, name)]
            raise ValueError(
                f"DEST {folder.address} is of another conversion, whose {', '.join(other)} differs "
                f"(its {PLAN}); choose another folder"
            )
    elif any(name.endswith(ENDING) for name in names):
        raise ValueError(f"DEST {folder.address} holds shards of something else; choose another")
    else:
        with folder.new(PLAN) as path:
            pathlib.Path(path).write_text(json.dumps(dataclasses.asdict(made), indent=1))
    return made


def documents(records: Records, shard: int, shards: int) -> Iterator[bytes]:
    """The whole documents of a shard, in order: of a stream's file, else those that begin in an
    equal part of the records.
    """
    if isinstance(records, Stream):
        if shard:
            records.check(shard)
        found = (record for _, _, record in records.read(shard))
    else:
        first, last = (len(records) * (shard + i) // shards for i in range(2))
        while first and first < last and not records[first - 1].complete:
            first += 1
        while first < last < len(records) and not records[last - 1].complete:
            last += 1
        found = (records[i] for i in range(first, last))
    pieces: list[bytes] = []
    for record in found:
        if record.prompt:
            raise ValueError(
                "SOURCE has a prompt, which ArrayRecord files do not keep; leave it out"
            )
        pieces.append(record.text)
        if record.complete:
            yield b"".join(pieces)
            pieces = []


class Work:
    """What a process converts with."""

    def __init__(self, source: Any, folder: Folder, shards: Plan, done: Any):
        self.records: Records = from_json(source).open()
        self.folder, self.plan, self.done = folder, shards, done

    def shard(self, number: int) -> tuple[int, int]:
        """Write a shard: how many documents and bytes it has."""
        count = nbytes = 0
        name = self.plan.name(number)
        shown = f"{self.folder.address}/{name}"
        with self.folder.new(name) as path, written(path, shown) as write:
            for text in documents(self.records, number, self.plan.shards):
                write(text)
                count, nbytes = count + 1, nbytes + len(text)
                with self.done.get_lock():
                    self.done.value += len(text)
        return count, nbytes


@contextlib.contextmanager
def written(path: str, shard: str) -> Iterator[Callable[[bytes], None]]:
    """What writes records to a file. OSError if that fails: the library has RuntimeErrors."""
    from array_record.python.array_record_module import ArrayRecordWriter

    def cannot(error: RuntimeError) -> OSError:
        return OSError(
            f"{shard} cannot be written: {said(error)}; mend that, and the same command goes on"
        )

    def write(text: bytes) -> None:
        try:
            writer.write(text)
        except RuntimeError as error:
            raise cannot(error) from error

    try:
        writer = ArrayRecordWriter(path, "group_size:1")
    except RuntimeError as error:
        raise cannot(error) from error
    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    try:
        writer.close()
    except RuntimeError as error:
        raise cannot(error) from error


WORK: list[Work] = []  # of this process, when it is one of several


def begin(*arguments: Any) -> None:
    """Make this process one that converts, as long as the first one lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one ends it
    threading.Thread(target=end_with_parent, daemon=True).start()
    WORK[:] = [Work(*arguments)]


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def one(number: int) -> tuple[int, int]:
    return WORK[0].shard(number)


def convert(
    source: Source | Mixture, address: str, processes: int, shards: int | None = None
) -> str:
    """Convert what is not converted yet; what was done, in one line."""
    address = local(address)
    folder = Folder(address.rstrip("/") if "://" in address else os.path.expanduser(address))
    made = plan(source, folder, shards)
    names = folder.names()
    left = [i for i in range(made.shards) if made.name(i) not in names]
    # each process opens the source by itself
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Value("q", 0)
    processes = min(processes, len(left))
    arguments = made.source, folder, made, done
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    found: list[tuple[int, int]] = []
    with Progress(*columns, TimeRemainingColumn(), refresh_per_second=2) as progress:
        task = progress.add_task("shards", total=made.shards, completed=made.shards - len(left))

        def show() -> None:
            text = f"{done.value / 1e6:,.0f} MB of text, shards"
            progress.update(task, completed=made.shards - len(left) + len(found), description=text)

        if processes < 2:  # here
            work = Work(*arguments) if left else None
            for number in left:
                assert work is not None
                found.append(work.shard(number))
                show()
        else:
            with concurrent.futures.ProcessPoolExecutor(processes, spawn, begin, arguments) as pool:
                waiting = {pool.submit(one, number) for number in left}
                try:
                    while waiting:
                        ended, waiting = concurrent.futures.wait(
                            waiting, 0.5, concurrent.futures.FIRST_COMPLETED
                        )
                        found += [future.result() for future in ended]
                        show()
                except concurrent.futures.BrokenExecutor as error:
                    raise OSError(
                        "a process was killed from outside, maybe for its memory: give fewer "
                        "--processes; the same command goes on"
                    ) from error
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):  # else shards that are begun are kept
                        for process in multiprocessing.active_children():
                            process.terminate()
                    pool.shutdown(cancel_futures=True)
                    raise
    folder.clean()
    count, nbytes = map(sum, zip(*found, strict=True)) if found else (0, 0)
    return (
        f"{made.shards} shards in {folder.address}, {len(found)} of them new, with {count:,} "
        f"documents of {nbytes:,} bytes; read them with "
        f"ArrayRecord(('{folder.address}/*{ENDING}',))"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hlm.data.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="such as 'Parquet((\"gs://bucket/*.parquet\",))'")
    parser.add_argument("dest", help="folder to write to, local or gs://..., s3://...")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core"
    )
    parser.add_argument(
        "--shards", type=int, help="of a source that is no stream (default: one for 256 MB)"
    )
    given = parser.parse_args(arguments)
    try:
        if given.processes < 1 or (given.shards or 1) < 1:
            raise ValueError("--processes and --shards: give at least 1")
        source = expression(given.source, "SOURCE")
        if not isinstance(source, (Source, Mixture)):
            raise ValueError(f"SOURCE is {given.source!r}, which is no source of text")
        print(convert(source, given.dest, given.processes, given.shards))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: stopped; the same command goes on with what is left")


if __name__ == "__main__":
    main()
