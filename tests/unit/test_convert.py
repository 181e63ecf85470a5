"""Converting keeps every document, goes on where it was killed, and says what does not fit."""

import concurrent.futures
import contextlib
import gzip
import itertools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hlm.data import convert
from hlm.data.pipeline import documents
from hlm.data.source import ArrayRecord, JsonLines, Parquet, TextFiles

TEXTS = [[f"text {i} of {n} " * (i % 9) for i in range(30)] for n in range(5)]
BYTES = [text.encode() for texts in TEXTS for text in texts]


@pytest.fixture
def parquet(tmp_path):
    for n, texts in enumerate(TEXTS):
        pq.write_table(pa.table({"text": texts}), tmp_path / f"{n}.parquet")
    return Parquet((f"{tmp_path}/*.parquet",), piece=50)


def made(folder):
    return [text for _, text in documents(ArrayRecord((f"{folder}/*.array_record",)))]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_becomes_a_shard_with_all_documents(parquet, tmp_path, capsys):
    convert.main([repr(parquet), str(tmp_path / "out"), "--processes", "1"])
    assert "5 shards" in capsys.readouterr().out
    assert made(tmp_path / "out") == BYTES
    first = files(tmp_path / "out")
    assert len(first) == 6
    os.remove(tmp_path / "out" / "text-00003-of-00005.array_record")
    convert.main([repr(parquet), str(tmp_path / "out"), "--processes", "1"])
    assert "1 of them new, with 30 documents" in capsys.readouterr().out
    assert files(tmp_path / "out") == first


@pytest.mark.parametrize("shards", [1, 3, 40])
@pytest.mark.parametrize("piece", [20, 1000])
def test_sources_that_are_read_at_random_are_dealt_out(tmp_path, shards, piece):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text.decode()}) for text in BYTES))
    convert.convert(JsonLines((str(path),), piece=piece), str(tmp_path / "out"), 1, shards)
    assert made(tmp_path / "out") == BYTES
    assert len(files(tmp_path / "out")) == shards + 1


def test_to_a_bucket(parquet, tmp_path):
    try:
        convert.convert(parquet, "memory://bucket/out/", 1)
        assert made("memory://bucket/out") == BYTES
        assert "0 of them new" in convert.convert(parquet, "memory://bucket/out", 1)
    finally:
        fsspec.filesystem("memory").rm("bucket", recursive=True)


def test_what_does_not_fit_is_said(parquet, tmp_path, capsys):
    out = str(tmp_path / "out")
    convert.convert(parquet, out, 1)
    for arguments, said in (
        ([repr(Parquet(parquet.paths, piece=9)), out], "another conversion, whose source differs"),
        (["Parquets(1)", out], "no public class Parquets"),
        (["FIM(0.5)", out], "no source of text"),
        ([repr(parquet), out, "--shards", "2"], "every one of the 5 files becomes a shard"),
        ([repr(parquet), out, "--processes", "0"], "give at least 1"),
        ([f"Mixture(({parquet!r},), (1.0,))", out], "convert its sources one by one"),
        ([repr(Parquet((str(tmp_path / "no"),))), out], "no such file"),
    ):
        with pytest.raises(SystemExit, match=said):
            convert.main(arguments)
    pq.write_table(pa.table({"text": ["other"]}), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match="whose contents differs"):
        convert.convert(parquet, out, 1)
    os.remove(tmp_path / "out" / convert.PLAN)
    with pytest.raises(ValueError, match="shards of something else"):
        convert.convert(parquet, out, 1)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": "why", "text": "so"}'))
    with pytest.raises(ValueError, match="has a prompt"):
        convert.convert(JsonLines((str(path),), prompt="q"), str(tmp_path / "out2"), 1)


def test_a_bad_file_is_named_and_the_others_are_kept(parquet, tmp_path):
    (tmp_path / "4.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"4\.parquet cannot be read as Parquet"):
        convert.convert(parquet, str(tmp_path / "out"), 1)
    assert len(files(tmp_path / "out")) == 5, "four shards and the plan"
    assert len(made(tmp_path / "out")) == 120


def test_killed_and_started_again_it_gives_the_same(tmp_path):
    """The first process alone is killed, with some shards written. Its others end by themselves, or
    they would write on beside the next start, which makes the rest.
    """
    for n in range(6):
        lines = "\n".join(json.dumps({"text": f"{n} {i} " * 300}) for i in range(200 if n else 2))
        (tmp_path / f"{n}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    source = JsonLines((f"{tmp_path}/*.jsonl.gz",))
    convert.convert(source, str(tmp_path / "whole"), 1)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hlm.data.convert", repr(source), str(out), "--processes", "2"]
    running = subprocess.Popen(command, start_new_session=True)
    try:
        while running.poll() is None and not list(out.glob("*.array_record")):
            time.sleep(0.01)
        running.kill()
        running.wait()
        end = time.monotonic() + 60
        while running.pid in sessions() and time.monotonic() < end:
            time.sleep(0.05)
        assert running.pid not in sessions()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    convert.convert(source, str(out), 1)
    assert files(out) == files(tmp_path / "whole")


def test_texts_with_separators(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n\n\n\nthree")
    source = TextFiles((str(tmp_path / "a.txt"),), "\n\n", piece=2)
    convert.convert(source, str(tmp_path / "out"), 1, 2)
    assert made(tmp_path / "out") == [b"one", b"two", b"three"]


def sessions():
    """The session of each process of this machine that runs."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            found += [int(session)] if state != "Z" else []
    return found


def test_interrupted_it_says_so_and_goes_on(parquet, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        documents = convert.documents

        def interrupted(records, shard, shards):
            yield from itertools.islice(documents(records, shard, shards), 30 if shard < 2 else 7)
            if shard == 2:
                raise KeyboardInterrupt

        patch.setattr(convert, "documents", interrupted)
        with pytest.raises(SystemExit, match=r"stopped; the same command goes on with what is"):
            convert.main([repr(parquet), str(out), "--processes", "1"])
    assert len(files(out)) == 3, "two shards and the plan"
    assert "3 of them new" in convert.convert(parquet, str(out), 1)
    assert made(out) == BYTES


class Killed(concurrent.futures.ThreadPoolExecutor):
    """Stands for processes one of which the system kills."""

    def __init__(self, processes, context, begin, arguments):
        super().__init__(processes)

    def submit(self, *_):
        future = concurrent.futures.Future()
        future.set_exception(concurrent.futures.process.BrokenProcessPool("terminated abruptly"))
        return future


def test_a_process_that_is_killed_is_said_in_one_line(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Killed)
    with pytest.raises(SystemExit, match=r"a process was killed from outside.* goes on$"):
        convert.main([repr(parquet), str(tmp_path / "out"), "--processes", "2"])


def test_what_killed_conversions_left_is_removed_in_the_end(parquet, tmp_path):
    out = tmp_path / "out"
    convert.convert(parquet, str(out), 1)
    whole = files(out)
    (out / f"text-00001-of-00005.array_record.0a1b{convert.UNFINISHED}").write_bytes(b"some")
    convert.convert(parquet, str(out), 1)
    assert files(out) == whole


def test_two_at_once_do_not_mix_their_bytes(parquet, tmp_path):
    """One begins while another is in the middle of the same shard."""
    out, other = convert.Folder(str(tmp_path / "out")), tmp_path / "other"
    convert.convert(parquet, str(other), 1)
    whole = files(other)
    out.names()
    name = next(name for name in whole if name.endswith(convert.ENDING))
    with out.new(name) as path, convert.written(path, "x") as write:
        for text in BYTES[:20]:
            write(text)
        convert.convert(parquet, out.address, 1)
        assert made(out.address) == BYTES
        for text in BYTES[20:30]:
            write(text)
    assert files(tmp_path / "out") == whole


def test_a_full_disk_is_said_in_one_line(tmp_path):
    for n in range(2):
        texts = [os.urandom(3000).hex() for _ in range(40)]
        pq.write_table(pa.table({"text": texts}), tmp_path / f"{n}.parquet")
    source, out = Parquet((f"{tmp_path}/*.parquet",)), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(SystemExit, match=r"00000\S+ cannot be written: .* goes on$") as raised:
            convert.main([repr(source), str(out), "--processes", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(raised.value)
    assert list(files(out)) == [convert.PLAN]
    convert.convert(source, str(out), 1)
    assert len(made(out)) == 80


def test_a_damaged_plan_is_named(parquet, tmp_path):
    convert.convert(parquet, str(tmp_path / "out"), 1)
    for content in ("", "[]", "{}", '{"source": 1}'):
        (tmp_path / "out" / convert.PLAN).write_text(content)
        with pytest.raises(ValueError, match=r"its convert\.json is damaged; choose another"):
            convert.convert(parquet, str(tmp_path / "out"), 1)
