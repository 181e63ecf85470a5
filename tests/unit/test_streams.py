"""Streams: packed, remote and columnar files give every document once, and go on exactly."""

import ast
import gzip
import io
import itertools
import json
import lzma
import pathlib
import pickle
import re
import tracemalloc
import warnings

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from array_record.python import array_record_module

from hlm import config, registry
from hlm.data import in_order
from hlm.data.contents import of_records
from hlm.data.formats import text as text_format
from hlm.data.formats import tfds
from hlm.data.formats.stream import Share
from hlm.data.in_order import InOrder
from hlm.data.pack import Budget
from hlm.data.pipeline import Data, batches, documents
from hlm.data.source import (
    ArrayRecord,
    Arrow,
    Beginning,
    JsonLines,
    Parquet,
    Stream,
    Streamed,
    TextFiles,
    Tfds,
)
from hlm.split import Words
from hlm.vocab import Bytes

# long, short, empty, with every kind of escape; of three files
TEXTS = [
    ["one", "zwei é " * 40, "", 'a "quoted\\ \n\ttext\U0001f600\u2028 ' * 9],
    [f"text {i} " * (i % 7) for i in range(40)],
    ["end \x00\x1f of it" * 30, "漢字" * 100],
]
BYTES = [text.encode() for texts in TEXTS for text in texts]


def lines(texts):
    """JSON lines, escaped in two ways, with blank lines between."""
    return b"\n\n".join(
        json.dumps(
            {"n": i, "text": text, "z": [1, {"text": "no"}]}, ensure_ascii=bool(i % 2)
        ).encode()
        for i, text in enumerate(texts)
    )


def parquet(texts, **options):
    out = io.BytesIO()
    table = pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string())})
    pq.write_table(table, out, **{"row_group_size": 7} | options)
    return out.getvalue()


def arrow(texts, new=pa.ipc.new_stream):
    out = io.BytesIO()
    table = pa.table({"text": pa.array(texts, pa.large_string()), "id": list(range(len(texts)))})
    with new(out, table.schema) as writer:
        writer.write_table(table, 7)
    return out.getvalue()


def records(texts, folder):
    path = folder / "made.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for text in texts:
        writer.write(text.encode())
    writer.close()
    return path.read_bytes()


def zstd(data):
    """Two frames, with one to skip between them."""
    pack, half = zstandard.ZstdCompressor().compress, len(data) // 2
    return pack(data[:half]) + b"\x50*M\x18\x04\0\0\0skip" + pack(data[half:])


FORMATS = {
    "gz": (JsonLines, ".jsonl.gz", lambda t: gzip.compress(lines(t))),
    "xz": (JsonLines, ".jsonl.xz", lambda t: lzma.compress(lines(t))),
    "zst": (JsonLines, ".jsonl.zst", lambda t: zstd(lines(t))),
    "plain": (lambda paths, **o: Streamed(JsonLines(paths, **o)), ".jsonl", lines),
    "parquet": (Parquet, ".parquet", parquet),
    "datasets": (Arrow, ".arrow", arrow),
    "ipc": (Arrow, ".arrow", lambda t: arrow(t, pa.ipc.new_file)),
    "text": (
        lambda paths, **o: TextFiles(paths, "\0<end>\n", **o),
        ".txt.zst",
        lambda t: zstd("\0<end>\n".join(t).encode()),
    ),
    "array_record": (lambda paths, **o: Streamed(ArrayRecord(paths)), ".array_record", None),
}


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    """A folder to write to, and its address."""
    if request.param == "local":
        yield tmp_path, str(tmp_path)
        return
    system = fsspec.filesystem("memory")
    yield tmp_path, "memory://bucket/deep"
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)


def write(folder, name, data):
    with fsspec.open(f"{folder[1]}/{name}", "wb") as file:
        file.write(data)
    return f"{folder[1]}/{name}"


def source_of(folder, kind, **options):
    make, ending, pack = FORMATS[kind]
    for i, texts in enumerate(TEXTS):
        data = records(texts, folder[0]) if kind == "array_record" else pack(texts)
        write(folder, f"part-{i}{ending}", data)
    (folder[0] / "made.array_record").unlink(missing_ok=True)
    return make((f"{folder[1]}/part-*{ending}",), **options)


def texts(source):
    return [text for _, text in documents(source)]


def wanted(kind):
    return [text for text in BYTES if text] if kind == "text" else BYTES


# --- reading


@pytest.mark.parametrize("kind", FORMATS)
def test_every_document_comes_once_in_order(folder, kind):
    source = source_of(folder, kind, **({} if kind == "array_record" else {"piece": 40}))
    assert texts(source) == wanted(kind)
    assert texts(registry.expression(repr(source), "data.source")) == wanted(kind)
    opened = source.open()
    assert isinstance(opened, Stream)
    whole = list(opened)
    assert [opened[i] for i in (5, 5, 6, 0, len(opened) - 1)] == [
        whole[i] for i in (5, 5, 6, 0, -1)
    ]
    assert opened.name(0).startswith(folder[1])
    assert list(pickle.loads(pickle.dumps(opened))) == whole
    with pytest.raises(IndexError):
        opened[len(whole)]
    if kind != "array_record":
        assert max(len(record.text) for record in whole) <= 40


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_goes_on_from_any_place(folder, kind):
    source = source_of(folder, kind, **({} if kind == "array_record" else {"piece": 64}))
    opened = source.open()
    for seed in (None, 3):
        whole = list(opened.read(1, seed=seed))
        assert sorted(r.text for _, _, r in whole) == sorted(
            r.text for _, _, r in opened.read(1, seed=4)
        )
        for i in (0, 1, 9, len(whole) - 2, len(whole) - 1):
            assert list(opened.read(1, whole[i][0], seed)) == whole[i + 1 :]
    shared = [list(opened.read(1, share=Share(i, 3))) for i in range(3)]
    assert sorted(n for n, _, _ in itertools.chain(*shared)) == [n for n, _, _ in opened.read(1)]


@pytest.mark.parametrize("kind", ["parquet", "ipc", "array_record"])
def test_what_can_be_read_apart_is_shuffled(tmp_path, kind):
    opened = source_of((tmp_path, str(tmp_path)), kind).open()
    orders = {tuple(name for _, name, _ in opened.read(1, seed=seed)) for seed in range(5)}
    assert len(orders) == 5


def test_large_text_is_cut_as_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_format, "BLOCK", 5000)
    rng = np.random.default_rng(0)
    words = rng.choice([b"a ", b"word ", b"\n", "é漢".encode(), b"\r\n\r\n", b"\n\n"], 20_000)
    text = b"".join(words.tolist())
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text, 1))
    for separator in (None, "\n\n", "word \n"):
        plain, packed = (
            list(TextFiles((str(tmp_path / name),), separator, 500).open())
            for name in ("a.txt", "a.txt.gz")
        )
        assert plain == packed


@pytest.mark.parametrize("kind", ["gz", "xz", "zst", "text"])
def test_a_packed_file_that_is_cut_off_is_an_error(folder, kind):
    make, ending, pack = FORMATS[kind]
    rng = np.random.default_rng(0)
    long = ["".join(map(chr, rng.integers(97, 123, 3000))) for _ in range(100)]
    data = pack(long)
    for cut in (len(data) - 1, len(data) - 9, len(data) // 3):
        path = write(folder, f"cut{ending}", data[:cut])
        with pytest.raises(ValueError, match=rf"{path} cannot be unpacked as \.\w+"):
            list(make((path,)).open())


def test_memory_does_not_grow_with_a_file(tmp_path, monkeypatch):
    """What is unpacked at once is a few blocks, however much is in the file."""
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        for i in range(3000):
            file.write(json.dumps({"text": f"{i} " * 1000}).encode() + b"\n")
    tracemalloc.start()
    count = sum(1 for _ in JsonLines((str(path),)).open())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3000
    assert peak < 6e6 < 3000 * 4000


def test_files_are_opened_when_their_turn_comes(folder):
    source = source_of(folder, "parquet")
    write(folder, "part-2.parquet", b"PAR1 not so")
    running = documents(source)
    assert len([next(running) for _ in range(sum(map(len, TEXTS[:2])))]) == 44
    with pytest.raises(ValueError, match=r"part-2\.parquet cannot be read as Parquet"):
        next(running)


# --- what is wrong with files

TWICE = io.BytesIO()
pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), TWICE)
TWICE = TWICE.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "source", "said"),
    [
        ("a.parquet", b"", lambda p: TextFiles((p,)), "is empty|read it with Parquet"),
        ("a.bin", parquet(["a"]), lambda p: TextFiles((p,)), "parquet table.*read it with Parquet"),
        ("a.jsonl.zst", parquet(["a"]), lambda p: JsonLines((p,)), "unpacked.*parquet"),
        ("a.jsonl", parquet(["a"]), lambda p: JsonLines((p,)), "read it with Parquet"),
        ("a.jsonl", arrow(["a"]), lambda p: JsonLines((p,)), "read it with Arrow"),
        ("a.parquet", arrow(["a"], pa.ipc.new_file), lambda p: Parquet((p,)), "read it with Arrow"),
        ("a.parquet", lines(["a"]), lambda p: Parquet((p,)), "read it with JsonLines"),
        ("a.parquet", b"some words", lambda p: Parquet((p,)), "cannot be read as Parquet"),
        ("a.parquet", parquet(["a"])[:-3], lambda p: Parquet((p,)), "cannot be read as Parquet"),
        ("a.parquet", parquet([]), lambda p: Parquet((p,)), "has no rows"),
        ("a.arrow", parquet(["a"]), lambda p: Arrow((p,)), "read it with Parquet"),
        ("a.arrow", b"some words", lambda p: Arrow((p,)), "cannot be read as Arrow"),
        ("a.arrow", arrow(["abc"] * 9)[:-90], lambda p: Arrow((p,)), "cannot be read as Arrow"),
        ("a.jsonl", zstd(b"{}"), lambda p: JsonLines((p,)), r"let its name end in \.zst"),
        ("a.array_record", parquet(["a"]), lambda p: ArrayRecord((p,)), "read it with Parquet"),
        ("a.parquet", parquet(["a"]), lambda p: Parquet((p,), "body"), "has no column 'body'; it"),
        ("a.parquet", TWICE, lambda p: Parquet((p,)), "several columns 'text'"),
        ("a.parquet", parquet(["a"]), lambda p: Parquet((p,), "id"), "'id' holds int64, not text"),
        ("a.arrow", arrow(["a"]), lambda p: Arrow((p,), "body"), "has no column 'body'; it has"),
        ("a.arrow", arrow(["a"]), lambda p: Arrow((p,), "id"), "'id' holds int64, not text"),
        ("a.txt", b"\xef\xbb\xbf", lambda p: Streamed(TextFiles((p,))), "has no text behind"),
        ("a.jsonl", b"\n \n", lambda p: Streamed(JsonLines((p,))), "no lines but blank"),
        ("sub/a.parquet", b"PAR1", lambda p: JsonLines((p[:-10],)), "read it with Parquet"),
    ],
)
def test_wrong_files_are_named_with_their_reader(folder, name, data, source, said):
    path = write(folder, name, data)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as raised:
        list(source(path).open())
    assert path in str(raised.value) or path[:-10] in str(raised.value)
    assert "\n" not in str(raised.value)


NULLS = ["fine", None, "good", None, "end"]


@pytest.mark.parametrize(
    ("kind", "data", "where"),
    [
        ("parquet", parquet(NULLS, row_group_size=2), "row 1: column 'text' is null"),
        ("datasets", arrow(NULLS), "row 1: column 'text' is null"),
        (
            "gz",
            gzip.compress(
                b'{"text": "fine"}\noops\n{"text": "good"}\n{"text": 1}\n{"text": "end"}'
            ),
            "line 2 is not JSON",
        ),
    ],
    ids=["parquet", "datasets", "gz"],  # packed bytes hold the time: two workers would differ
)
def test_bad_rows_are_errors_or_counted(folder, kind, data, where):
    make, ending, _ = FORMATS[kind]
    path = write(folder, "a" + ending, data)
    with pytest.raises(
        ValueError, match=rf"{path} {where}.*leave out up to so many with .*bad_lin"
    ):
        texts(make((path,)))
    with pytest.raises(ValueError, match=r"bad_lines is 1, and there are 2 of this file"):
        texts(make((path,), bad_lines=1))
    with pytest.warns(UserWarning, match=rf"bad_lines: 2 left out of {path}"):
        assert texts(make((path,), bad_lines=2)) == [b"fine", b"good", b"end"]
    with pytest.raises(ValueError, match="bad_lines is -1"):
        make((path,), bad_lines=-1)


def test_prompts_of_columns(tmp_path):
    table = pa.table({"q": ["why? ", "é" * 30], "a": ["because", "no " * 20]})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
    columns = list(Parquet((str(tmp_path),), "a", 20, prompt="q").open())
    assert columns == list(JsonLines((str(tmp_path),), "a", 20, prompt="q").open())
    assert columns[0].prompt == 5


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_columns_of_other_types_of_text(tmp_path, kind):
    table = pa.table({"text": pa.array(["a", "é", "a"]).cast(kind)})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as w:
        w.write_table(table)
    assert texts(Arrow((str(tmp_path),))) == [b"a", "é".encode(), b"a"]


def test_folders_of_datasets(folder):
    """As `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write them."""
    write(folder, "set/dataset_dict.json", b'{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        write(folder, f"set/{split}/data-00000-of-00001.arrow", arrow([split]))
        write(folder, f"set/{split}/cache-1a2b.arrow", arrow(["again"]))
        write(folder, f"set/{split}/state.json", b"{}")
    for path in (f"{folder[1]}/set", f"{folder[1]}/set/", folder[1]):
        with pytest.raises(ValueError, match=r"splits, test, train: .*/set/train'$"):
            Arrow((path,)).open()
    assert texts(Arrow((f"{folder[1]}/set/train",))) == [b"train"]
    assert len(texts(Arrow((f"{folder[1]}/set/*/data-*",)))) == 2, "files that are chosen by name"


def test_folders_of_the_cache_of_datasets(folder):
    """As `load_dataset` writes them: all splits in one folder, some in several files."""
    where = f"{folder[1]}/wiki/plain/0.0.0/1a2b"
    names = ("train-00000-of-00002", "train-00001-of-00002", "test", "validation")
    for name in names:
        write((None, where), f"wiki-{name}.arrow", arrow([name]))
    info = {"splits": {name: {"name": name} for name in ("train", "validation", "test")}}
    write((None, where), "dataset_info.json", json.dumps(info).encode())
    for path in (where, folder[1]):
        with pytest.raises(ValueError, match="splits, test, train, validation: name one") as raised:
            Arrow((path,)).open()
    one = ast.literal_eval(str(raised.value).rpartition("such as ")[2])
    assert texts(Arrow((one,))) == [b"train-00000-of-00002", b"train-00001-of-00002"]
    # what save_to_disk writes has such a file, too, of the data set that it was a part of
    write((None, f"{folder[1]}/saved"), "data-00000-of-00001.arrow", arrow(["saved"]))
    write((None, f"{folder[1]}/saved"), "dataset_info.json", json.dumps(info).encode())
    assert texts(Arrow((f"{folder[1]}/saved",))) == [b"saved"]


EMPTY = {
    "gz": lambda: gzip.compress(b""),
    "xz": lambda: lzma.compress(b""),
    "zst": lambda: zstandard.ZstdCompressor().compress(b""),
    "parquet": lambda: parquet([]),
    "datasets": lambda: arrow([]),
    "ipc": lambda: arrow([], pa.ipc.new_file),
    "text": lambda: zstandard.ZstdCompressor().compress(b""),
    "array_record": None,
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", EMPTY)
def test_a_file_without_rows_is_left_out_if_there_are_others(tmp_path, kind, place):
    """What filters write. A run does not end when it comes to one."""
    empty = EMPTY[kind]
    data = records([], tmp_path) if empty is None else empty()
    source = source_of((tmp_path, str(tmp_path)), kind)
    path = write((None, str(tmp_path)), f"part-{place - 1}a{FORMATS[kind][1]}", data)
    with pytest.warns(UserWarning, match=f"{path} has no rows and is left out"):
        assert texts(source) == wanted(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        iterator = iter(InOrder(source.open(), 0, 0, 1, "source"))
        drawn = [next(iterator)[1].text for _ in range(3 * len(wanted(kind)))]
        assert sorted(drawn) == sorted(3 * wanted(kind))
    with pytest.raises(ValueError, match=f"{path} has no rows; remove it"):
        FORMATS[kind][0]((path,)).open()


# --- remote


def test_remote_folders_globs_and_refusals(tmp_path):
    folder = (tmp_path, "memory://bucket")
    for name in ("b/2.txt", "b/deep/1.txt", "a.txt", "b/3.md"):
        write(folder, name, name.encode())
    try:
        assert texts(TextFiles(("memory://bucket/b", "memory://bucket/a.txt"))) == [
            b"b/2.txt", b"b/deep/1.txt", b"a.txt",
        ]  # fmt: skip
        assert texts(TextFiles(("memory://bucket/**/1.txt",))) == [b"b/deep/1.txt"]
        for path in ("memory://bucket/c.txt", "memory://bucket/c*.txt"):
            with pytest.raises(FileNotFoundError, match="no such file, folder or match"):
                TextFiles((path,)).open()
        with pytest.raises(FileNotFoundError, match=r"folder has no \.jsonl"):
            JsonLines(("memory://bucket/b",)).open()
        with pytest.raises(ValueError, match="named by both"):
            TextFiles(("memory://bucket/b/2.txt", "memory://bucket/b")).open()
    finally:
        fsspec.filesystem("memory").rm("bucket", recursive=True)


def test_data_sets_of_tensorflow_in_a_bucket(folder, monkeypatch):
    from tensorflow_datasets.proto import tf_example_pb2

    path = folder[0] / "x.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for text in BYTES:
        example = tf_example_pb2.Example()
        example.features.feature["text"].bytes_list.value.append(text)
        writer.write(example.SerializeToString())
    writer.close()

    class Builder:
        data_path = "memory://bucket/set/1.0.0"
        where = write(folder, "set.array_record", path.read_bytes())

    class Split:
        filepaths = (Builder.where,)

    Builder.info = type("Info", (), {"splits": {"train": Split}})
    monkeypatch.setattr(tfds, "prepared", lambda source: Builder)
    assert texts(Tfds("set")) == BYTES
    with pytest.raises(ValueError, match=r"'train\[:9\]' is no whole split .*it has train"):
        Tfds("set", "train[:9]").open()


def test_fingerprints_of_many_files_take_few_samples(folder, monkeypatch):
    for i in range(40):
        write(folder, f"{i:02d}.jsonl.gz", gzip.compress(b'{"text": "%d"}' % i))
    source = JsonLines((folder[1],))
    before = of_records(source.open())
    assert before["sum"].startswith("40 files")
    assert of_records(source.open()) == before
    write(folder, "07.jsonl.gz", gzip.compress(b'{"text": "another size"}'))
    assert of_records(source.open()) != before


# --- the beginning of a source


def test_the_beginning_of_a_source(tmp_path):
    folder = (tmp_path, str(tmp_path))
    source = source_of(folder, "gz", piece=64)
    size = len(BYTES[0]) + len(BYTES[1]) + len(BYTES[2])
    for nbytes, count in ((3, 1), (size - 1, 1), (size, 3), (10**9, len(BYTES))):
        assert texts(Beginning(source, nbytes)) == BYTES[:count]
    assert texts(Beginning(Streamed(TextFiles(("corpus:mobydick/valid.txt",))), 500))[0].endswith(
        (b" ", b"\n")
    )
    assert len(texts(Beginning(TextFiles(("corpus:mobydick/valid.txt",)), 500))[0]) > 250
    with pytest.raises(ValueError, match=r"Beginning\.nbytes is 0"):
        Beginning(source, 0)
    with pytest.raises(ValueError, match=r"Beginning\.each is 0"):
        Beginning(source, 1, each=0)


@pytest.mark.parametrize("piece", [16, 64, 10**6])
@pytest.mark.parametrize("each", [1, 20, 64, 10**6])
def test_the_beginning_of_every_document(tmp_path, piece, each):
    source = source_of((tmp_path, str(tmp_path)), "gz", piece=piece)
    found = texts(Beginning(source, 10**9, each))
    assert len(found) == len(BYTES)
    for text, whole in zip(found, BYTES, strict=True):
        assert whole.startswith(text)
        assert len(text) <= each
        assert text == whole or len(text) > each - 16 or b" " not in whole[: each + 1]
    first = sum(map(len, found[:3]))
    assert texts(Beginning(source, first, each)) == found[:3]


# --- the pipeline

CODEC, BUDGET = Bytes(Words()), Budget(64, (64,))


def start(data, process=0, processes=1):
    return batches(data, CODEC, BUDGET, 2, 5, process, processes)


def same(a, b):
    for x, y in zip(a, b, strict=True):
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


@pytest.mark.parametrize(("kind", "shuffle"), [*((kind, True) for kind in FORMATS), ("zst", False)])
def test_a_saved_state_goes_on_exactly(tmp_path, kind, shuffle, monkeypatch):
    monkeypatch.setattr(in_order, "WINDOW", 9)
    options = {} if kind == "array_record" else {"piece": 50}
    data = Data(source_of((tmp_path, str(tmp_path)), kind, **options), 64, shuffle, window=3)
    running, again = start(data), start(data)
    states, made = [], []
    for _ in range(40):  # several epochs
        states.append(json.dumps(running.get_state()))
        made.append(next(running))
    for n in (35, 1, 20):
        again.set_state(json.loads(states[n]))
        same([next(again) for _ in range(3)], made[n : n + 3])
    assert max(map(len, states)) < 5000


def test_workers_go_on_exactly(tmp_path):
    data = Data(source_of((tmp_path, str(tmp_path)), "parquet"), 64, window=3, workers=2)
    running = start(data)
    for _ in range(7):
        next(running)
    state = json.dumps(running.get_state())
    made = [next(running) for _ in range(6)]
    running.set_state(json.loads(state))
    same([next(running) for _ in range(6)], made)
    running.close()


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_readers_share_all_documents_without_overlap(tmp_path, readers, seed):
    opened = source_of((tmp_path, str(tmp_path)), "gz").open()
    for epochs in (1, 2):
        drawn = []
        for reader in range(readers):
            iterator = iter(InOrder(opened, seed, reader, readers, "source"))
            while True:
                _, record = next(iterator)
                if iterator.get_state()["epoch"] == epochs:
                    break
                if iterator.get_state()["epoch"] == epochs - 1:
                    drawn.append(record.text)
        assert sorted(drawn) == sorted(BYTES)


def test_workers_are_readers_like_processes(tmp_path):
    opened = source_of((tmp_path, str(tmp_path)), "gz").open()
    for process, worker in itertools.product(range(2), range(2)):
        data = InOrder(opened, 0, process, 2, "source")
        data.set_slice(slice(worker, None, 2))
        assert (data.reader, data.readers) == (process + 2 * worker, 4)


def test_a_reader_without_a_record_is_an_error(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}'))
    opened = JsonLines((str(tmp_path),)).open()
    iterator = iter(InOrder(opened, 0, 1, 2, "source"))
    with pytest.raises(ValueError, match=r"source: reader 1 of 2 .*hlm\.data\.convert"):
        next(iterator)


def test_another_kind_of_access_cannot_take_a_state(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(TEXTS[1]))
    plain, stream = JsonLines((str(path),)), Streamed(JsonLines((str(path),)))
    with pytest.raises(ValueError, match="streams was"):
        start(Data(stream, 64)).set_state(start(Data(plain, 64)).get_state())
    with pytest.raises(ValueError, match="streams was"):
        start(Data(plain, 64)).set_state(start(Data(stream, 64)).get_state())


# --- pieces of long lines of plain files


@pytest.mark.parametrize("first", ['{"text": "a"}\n', "\ufeff"])
@pytest.mark.parametrize("ascii_", [True, False])
@pytest.mark.parametrize("piece", [1, 3, 4, 7, 64, 1000])
def test_pieces_of_a_long_line_are_read_from_their_own_bytes(
    tmp_path, ascii_, piece, first, monkeypatch
):
    rows = [
        {"text": "no" * 50, "id": {"text": [1.5, "]}"]}, "z": None, "text ": 'x"'},
        {"é": "\\", "text": 'a "b\\c" \u2028\n é漢\U0001f600\t\x00 \\u0041 ' * 30, "end": True},
        {"text": "word " * 300},
    ]
    data = "\n".join(json.dumps(row, ensure_ascii=ascii_) for row in rows)
    data += '\n{"text": "first", "text" : "\\/ last\\u0041\\n' + "y" * 90 + '"}\n'
    path = tmp_path / "a.jsonl"
    path.write_text(first + data)
    source = JsonLines((str(path),), piece=piece)
    assert texts(source) == [
        json.loads(line)["text"].encode()
        for line in (first + data).removeprefix("\ufeff").split("\n")
        if line
    ]
    opened = source.open()
    assert list(opened) == list(Streamed(source).open())
    parsed = []
    monkeypatch.setattr(
        type(opened.line), "text", lambda self, where, *_: parsed.append(where) or (b"", 0)
    )
    list(opened)
    if piece >= 4 and first:  # a smaller one may end within a character
        assert len(parsed) == len(set(parsed)), "a line that has pieces is not parsed again"


def test_sources_of_the_guide_are_read():
    guide = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    block = re.findall(r"```python\n(.*?)```", guide, re.S)[0]
    found = [ast.unparse(node) for node in ast.parse(block).body]
    found += re.findall(r"data\.source='(.*?)'", guide, re.S) + re.findall(
        r"valid='(.*?)'", guide, re.S
    )
    assert len(found) >= 10
    for text in found:
        registry.expression(text, "docs/data.md")
    assert set(re.findall(r"^\| `(\w+)", guide, re.M)) <= set(registry.CLASSES)


def test_old_configs_and_the_command_line():
    old = {"_": "JsonLines", "paths": ["a.jsonl.gz"], "field": "text", "piece": 64, "prompt": None}
    assert registry.from_json(old) == JsonLines(("a.jsonl.gz",), piece=64)
    for source in (
        Parquet(("gs://b/*.parquet",), "body"),
        Arrow(("s3://b/set/train",)),
        Streamed(JsonLines(("/data",))),
        Beginning(Parquet(("hf://datasets/a/b/*.parquet",)), 1000),
        {"english": Beginning(TextFiles(("a.txt",)), 9), "code": Tfds("c4/en")},
    ):
        assert registry.from_json(json.loads(json.dumps(registry.to_json(source)))) == source
        assert config.parse(repr(source), config.Any, "valid") == source
