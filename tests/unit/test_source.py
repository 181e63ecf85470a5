"""Sources give every byte of every document exactly once, and say what is wrong with bad input."""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import pickle
import sqlite3
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.data import local_text
from hlm.data.contents import fingerprint
from hlm.data.pipeline import documents
from hlm.data.records import ArrayRecord, Tfds
from hlm.data.source import JsonLines, Mixture, Record, Records, TextFiles, cuts
from hlm.evals import inputs

NASTY = "naïve\r\nline 二行目\u2028x\n\n".encode() + bytes(range(256)) + b"\xff\xfe no end"


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def texts(source):
    return [text for _, text in documents(source)]


# --- text files


@pytest.mark.parametrize(
    ("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")]
)
@pytest.mark.parametrize("piece", [1, 3, 7, 64, 10_000])
def test_a_file_comes_through_byte_for_byte(tmp_path, pack, ending, piece):
    path = write(tmp_path, "a.txt" + ending, pack(NASTY))
    records = TextFiles((path,), piece=piece).open()
    assert b"".join(record.text for record in records) == NASTY
    assert [record.complete for record in records] == [False] * (len(records) - 1) + [True]
    assert all(0 < len(record.text) <= piece for record in records)
    assert len({records.name(i) for i in range(len(records))}) == 1


@settings(max_examples=60, deadline=None)
@given(
    text=st.binary(min_size=1, max_size=200) | st.text("añ \n二🙂", min_size=1).map(str.encode),
    piece=st.integers(1, 40),
)
def test_pieces_lose_nothing_and_keep_characters_whole(text, piece):
    ends = cuts(text, 0, len(text), piece)
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert b"".join(pieces) == text
    assert all(0 < len(p) <= piece for p in pieces)
    try:
        text.decode()
    except UnicodeDecodeError:
        return
    if piece >= 4:
        for p in pieces:
            p.decode()


def test_pieces_end_at_newlines_then_at_blanks():
    text = b"aaa bbb\nccc ddd eee fff"
    ends = cuts(text, 0, len(text), 10)
    assert [text[a:b] for a, b in zip([0, *ends], ends, strict=False)] == [
        b"aaa bbb\n",
        b"ccc ddd ",
        b"eee fff",
    ]


def test_separated_documents(tmp_path):
    path = write(tmp_path, "a.txt", b"\n\none\n\n\n\ntwo\nlines\n\nthree")
    source = TextFiles((path,), separator="\n\n")
    assert list(source.open()) == [Record(t, True) for t in (b"one", b"two\nlines", b"three")]
    assert [name for name, _ in documents(source)] == [f"{path}#0", f"{path}#1", f"{path}#2"]


def test_folders_globs_and_order(tmp_path):
    for name in ("b/2.txt", "b/deep/1.txt", "a.txt", "b/3.md"):
        write(tmp_path, name, name.encode())
    write(tmp_path, "b/4.txt.gz", gzip.compress(b"b/4.txt.gz"))
    assert texts(TextFiles((str(tmp_path / "b"), str(tmp_path / "a.txt")))) == [
        b"b/2.txt",
        b"b/4.txt.gz",
        b"b/deep/1.txt",
        b"a.txt",
    ]
    assert texts(TextFiles((str(tmp_path / "*.txt"),))) == [b"a.txt"]
    assert texts(TextFiles((str(tmp_path / "**" / "1.txt"),))) == [b"b/deep/1.txt"]


def test_the_corpus_ships_with_the_package():
    records = TextFiles(("corpus:mobydick/train.txt",)).open()
    assert sum(len(record.text) for record in records) == 1_032_202
    assert max(len(record.text) for record in records) <= 8192
    assert len(texts(TextFiles(("corpus:udhr",)))) == 21


def test_missing_empty_broken_and_doubled_files_are_named(tmp_path):
    empty = write(tmp_path, "empty.txt", b"")
    broken = write(tmp_path, "broken.txt.gz", gzip.compress(b"x" * 1000)[:-9])
    blank = write(tmp_path, "blank.txt", b"\n\n\n\n")
    with pytest.raises(FileNotFoundError, match=r"nonesuch\.txt"):
        TextFiles((str(tmp_path / "nonesuch.txt"),)).open()
    with pytest.raises(FileNotFoundError, match=r"corpus:moby\.txt"):
        TextFiles(("corpus:moby.txt",)).open()
    with pytest.raises(FileNotFoundError, match=r"no \.jsonl"):
        JsonLines((str(tmp_path),)).open()
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        TextFiles((empty,)).open()
    with pytest.raises(ValueError, match=r"broken\.txt\.gz cannot be unpacked"):
        TextFiles((broken,)).open()
    with pytest.raises(ValueError, match=r"blank\.txt has no text between"):
        TextFiles((blank,), separator="\n\n").open()
    with pytest.raises(ValueError, match="named by both"):
        TextFiles((blank, str(tmp_path / "bl*.txt"))).open()
    with pytest.raises(ValueError, match=r"nonesuch://b/a.txt' cannot be reached.*hlm\[data\]"):
        TextFiles(("nonesuch://b/a.txt",)).open()


def test_wrong_fields_are_named():
    with pytest.raises(TypeError, match=r"paths=\('a.txt',\)"):
        TextFiles("a.txt")  # type: ignore
    with pytest.raises(ValueError, match="paths is empty"):
        ArrayRecord(())
    with pytest.raises(ValueError, match="piece is 0"):
        JsonLines(("a.jsonl",), piece=0)
    with pytest.raises(ValueError, match="separator"):
        TextFiles(("a.txt",), separator="")
    a = TextFiles(("a.txt",))
    with pytest.raises(ValueError, match="weights has 1"):
        Mixture((a, a), (1.0,))
    with pytest.raises(ValueError, match="above 0"):
        Mixture((a, a), (1.0, 0.0))


def test_a_file_that_shrinks_is_an_error(tmp_path):
    path = write(tmp_path, "a.txt", b"a" * 100)
    records = TextFiles((path,)).open()
    write(tmp_path, "a.txt", b"a" * 50)
    with pytest.raises(OSError, match="changed while in use"):
        records[0]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_records_travel_to_other_processes_without_their_content(tmp_path, ending, pack):
    path = write(tmp_path, "a.txt" + ending, pack(b"word " * 10_000))
    records = TextFiles((path,)).open()
    assert len(pickle.dumps(records)) < 2000
    assert list(pickle.loads(pickle.dumps(records))) == list(records)


# --- JSON lines


@pytest.mark.parametrize(
    ("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")]
)
def test_json_lines(tmp_path, pack, ending):
    wanted = ["short", "ünï\n二\u2028" * 30, "", "end of the file " * 9]
    lines = "\n\n".join(
        json.dumps({"id": i, "body": text}, ensure_ascii=bool(i % 2))
        for i, text in enumerate(wanted)
    )
    path = write(tmp_path, "a.jsonl" + ending, pack(lines.replace("\n\n", "\n\r\n", 1).encode()))
    source = JsonLines((path,), field="body", piece=40)
    records = source.open()
    assert texts(source) == [text.encode() for text in wanted]
    assert all(len(record.text) <= 40 for record in records)
    assert len(records) > 10
    assert records.name(len(records) - 1) == f"{path}:7"
    assert list(pickle.loads(pickle.dumps(records))) == list(records)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "line 2 is not JSON"),
        (b'{"body": "a"}', r"line 2 has no text field 'text'; its fields are \['body'\]"),
        (b'{"text": 3}', "line 2 has no text field"),
        (b"[1]", "it is a list"),
        (b'{"text": "\\ud800"}', "line 2: field 'text' has half"),
        (b'{"text": "\xff"}', "line 2 is not JSON"),
        (b'{"text": "a"}{"text": "b"}', "line 2 is not JSON"),
        (b"\0" * 100, "line 2 is not JSON"),
        (b"[" * 8000, "line 2 is not JSON"),
        (b'{"text": null}', "it is a NoneType"),
    ],
)
def test_bad_json_lines_are_named(tmp_path, line, message):
    path = write(tmp_path, "a.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=message):
        JsonLines((path,)).open()
    records = JsonLines((path,), bad_lines=None).open()  # found when drawn
    assert records[0] == Record(b"fine", True)
    with pytest.raises(ValueError, match=message):
        records[1]
    with pytest.warns(UserWarning, match=f"1 left out, the first: .*{message}"):
        records = JsonLines((path,), bad_lines=1).open()
    assert list(records) == [Record(b"fine", True)]


# --- ArrayRecord and TFDS


def array_record(folder, records):
    path = str(folder / "a.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def test_array_records(tmp_path):
    source = ArrayRecord((array_record(tmp_path, [b"one", NASTY]),))
    records = source.open()
    assert list(records) == [Record(b"one", True), Record(NASTY, True)]
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        ArrayRecord(source.paths, field="text").open()


def test_array_records_of_examples(tmp_path):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["text"].bytes_list.value.append(NASTY)
    path = array_record(tmp_path, [example.SerializeToString()])
    assert ArrayRecord((path,), field="text").open()[0] == Record(NASTY, True)
    with pytest.raises(ValueError, match=r"feature 'body'; its features are \['text'\]"):
        ArrayRecord((path,), field="body").open()


def test_local_text_becomes_a_tfds_data_set(tmp_path, capsys):
    path = write(tmp_path, "a.txt", b"one\n\n" + NASTY)
    arguments = ["my_text", path, "--data-dir", str(tmp_path / "tfds"), "--separator", r"\n\n"]
    local_text.main(arguments)
    assert "3 documents" in capsys.readouterr().out
    source = Tfds("my_text", data_dir=str(tmp_path / "tfds"))
    assert texts(source) == texts(TextFiles((path,), separator="\n\n"))
    assert texts(Tfds("my_text", "train[:1]", "name", source.data_dir)) == [f"{path}#0".encode()]
    records = source.open()
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    assert "tensorflow" not in sys.modules
    with pytest.raises(SystemExit):
        local_text.main(arguments)
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no feature 'body'; it has \['name', 'text'\]"):
        Tfds("my_text", field="body", data_dir=source.data_dir).open()
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        Tfds("my_text", split="test", data_dir=source.data_dir).open()


def test_data_sets_that_are_not_prepared_say_how(tmp_path):
    for name in ("nonesuch_at_all", "mnist"):
        with pytest.raises(FileNotFoundError, match="download_and_prepare"):
            Tfds(name, data_dir=str(tmp_path)).open()


def test_documents_of_a_mixture_come_once_each(tmp_path):
    one, two = (
        TextFiles((write(tmp_path, name, name.encode() * 9),), piece=10)
        for name in ("a.txt", "b.txt")
    )
    assert texts(Mixture((one, two), (9.0, 0.1))) == [b"a.txt" * 9, b"b.txt" * 9]


# --- lines


def test_bad_lines_beyond_those_allowed(tmp_path):
    lines = [b'{"text": "%d"}' % i for i in range(9)]
    lines[2], lines[5], lines[7] = b"oops", b'{"text": "cut of', b"{}"
    path = write(tmp_path, "a.jsonl", b"\n".join(lines))
    with pytest.raises(
        ValueError,
        match=r"bad_lines is 2, and there are more: the first is .*a\.jsonl line 3 is not "
        r"JSON.*line 8",
    ):
        JsonLines((path,), bad_lines=2).open()
    with pytest.warns(UserWarning, match="3 left out"):
        found = texts(JsonLines((path,), bad_lines=3))
    assert found == [b"0", b"1", b"3", b"4", b"6", b"8"]
    with pytest.raises(ValueError, match="no lines but blank and bad ones"):
        JsonLines((write(tmp_path, "b.jsonl", b"x\n\n"),), bad_lines=9).open()
    with pytest.raises(ValueError, match="bad_lines is -1"):
        JsonLines((path,), bad_lines=-1)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_end_as_they_like(tmp_path, end):
    path = write(
        tmp_path,
        "a.jsonl",
        end.join(['{"text": "a"}', "", "  ", '{"text": "b\\r\\n"}', ""]).encode(),
    )
    assert texts(JsonLines((path,))) == [b"a", b"b\r\n"]
    assert texts(JsonLines((path,), bad_lines=None)) == [b"a", b"b\r\n"]


@pytest.mark.parametrize("separator", ["\n\n", "\n", "\n--\n", "--", "\r\n\r\n"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_newline_in_a_separator_is_any_end_of_a_line(tmp_path, separator, end):
    text = b"one\ntwo\n\nthree\n--\nfour\n\n\n\nfive -- six\n"
    path = write(tmp_path, "a.txt", text.replace(b"\n", end))
    if "\r" in separator:  # exact
        wanted = text.replace(b"\n", end).split(b"\r\n\r\n")
    else:
        wanted = [part.replace(b"\n", end) for part in text.split(separator.encode())]
    for source in (TextFiles((path,), separator), TextFiles((path,), separator, piece=3)):
        assert texts(source) == [part for part in wanted if part]
    exact = [part for part in text.replace(b"\n", end).split(separator.encode()) if part]
    assert texts(TextFiles((path,), separator, any_bytes=True)) == exact


def test_ends_of_lines_may_differ_within_a_file(tmp_path):
    path = write(tmp_path, "a.txt", b"a\n\nb\r\n\r\nc\r\n\nd\n\r\ne\rf\r\rg")
    assert texts(TextFiles((path,), "\n\n")) == [b"a", b"b", b"c", b"d", b"e\rf\r\rg"]
    packed = write(tmp_path, "a.txt.gz", gzip.compress(b"a\r\n\r\nb"))
    assert texts(TextFiles((packed,), "\n\n")) == [b"a", b"b"]


@pytest.mark.parametrize(("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz")])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, pack, ending):
    mark = b"\xef\xbb\xbf"
    path = write(tmp_path, "a.txt" + ending, pack(mark + b"one\n\n" + mark + b"two"))
    assert texts(TextFiles((path,))) == [b"one\n\n" + mark + b"two"]
    assert texts(TextFiles((path,), "\n\n", piece=2)) == [b"one", mark + b"two"]
    assert texts(TextFiles((path,), any_bytes=True)) == [mark + b"one\n\n" + mark + b"two"]
    path = write(
        tmp_path, "a.jsonl" + ending, pack(mark + b'{"text": "a"}\n{"text": "\xef\xbb\xbfb"}')
    )
    assert texts(JsonLines((path,))) == [b"a", mark + b"b"]
    for sep in (None, "\n"):
        with pytest.raises(ValueError, match=r"c\.txt.* has no text"):
            TextFiles((write(tmp_path, "c.txt" + ending, pack(mark)),), sep).open()


# --- prompts


@pytest.mark.parametrize("piece", [1, 3, 5, 8, 40, 1000])
def test_pieces_carry_their_share_of_the_prompt(tmp_path, piece):
    rows = [
        ("", "text"),
        ("question? ", "answer"),
        ("q" * 20, ""),
        ("", ""),
        ("é漢", "字"),
        ("a b c " * 9, "d " * 30),
    ]
    lines = "\n".join(json.dumps({"q": q, "a": a}) for q, a in rows)
    source = JsonLines((write(tmp_path, "a.jsonl", lines.encode()),), "a", piece, prompt="q")
    assert texts(source) == [(q + a).encode() for q, a in rows]
    learned, document = [], b""
    for record in source.open():
        assert 0 <= record.prompt <= len(record.text) <= piece
        assert not (document and record.prompt), (
            "a prompt goes on only behind a piece that is all prompt"
        )
        document += record.text[record.prompt :]
        if record.complete:
            learned.append(document)
            document = b""
    assert learned == [a.encode() for _, a in rows]
    assert list(pickle.loads(pickle.dumps(source.open()))) == list(source.open())


def test_a_line_without_its_prompt_is_bad(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n')
    with pytest.raises(
        ValueError, match=r"line 1 has no text field 'q'; its fields are \['text'\]"
    ):
        JsonLines((path,), prompt="q").open()
    with pytest.raises(ValueError, match="prompt is 'text', and so is field"):
        JsonLines((path,), prompt="text")


# --- files of other kinds


def tfrecord(folder):
    from tensorboardX.record_writer import RecordWriter

    path = folder / "tfrecord"
    writer = RecordWriter(str(path))
    for text in (b"some text " * 5, b"more"):
        writer.write(text)
    writer.close()
    return path.read_bytes()


def table(folder, kind):
    pa = pytest.importorskip("pyarrow")
    data = pa.table({"text": ["some text", "more of it"]})
    path = folder / kind
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(data, path)
    elif kind == "orc":
        pytest.importorskip("pyarrow.orc").write_table(data, path)
    elif kind == "feather":
        pytest.importorskip("pyarrow.feather").write_feather(data, path)
    else:
        with pa.ipc.new_stream(path, data.schema) as writer:
            writer.write_table(data)
    return path.read_bytes()


def in_memory(write_to):
    stream = io.BytesIO()
    write_to(stream)
    return stream.getvalue()


def archive(stream):
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(__file__, "a.txt")


def zipped(stream):
    with zipfile.ZipFile(stream, "w") as zip:
        zip.writestr("a.txt", "some text")


def old_archive(stream):
    """Without the letters "ustar"."""
    block = bytearray(in_memory(archive))
    block[257:265] = bytes(8)
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    stream.write(block)


def database(folder):
    path = folder / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("create table texts (text)")
    connection.commit()
    connection.close()
    return path.read_bytes()


def compressed(codec):
    pa = pytest.importorskip("pyarrow")
    return pa.compress(PLAIN, codec=codec, asbytes=True)


PLAIN = "Some text, naïve and long enough to be packed. ".encode() * 40
LINES = b"".join(json.dumps({"id": i, "text": "words " * i}).encode() + b"\n" for i in range(40))
OTHERS = {
    "gzip": lambda folder: gzip.compress(PLAIN),
    "xz": lambda folder: lzma.compress(PLAIN),
    "lzma alone": lambda folder: lzma.compress(PLAIN, lzma.FORMAT_ALONE),
    "bzip2": lambda folder: bz2.compress(PLAIN),
    "bzip2, fast": lambda folder: bz2.compress(PLAIN, 1),
    "zlib": lambda folder: zlib.compress(PLAIN),
    "zlib, fast": lambda folder: zlib.compress(PLAIN, 1),
    "zstd": lambda folder: compressed("zstd"),
    "zstd, skippable": lambda folder: b"\x53*M\x18\x04\0\0\0abcd" + bytes.fromhex("28b52ffd"),
    "lz4": lambda folder: compressed("lz4"),
    "zip": lambda folder: in_memory(zipped),
    "npz": lambda folder: in_memory(lambda stream: np.savez(stream, a=np.arange(9))),
    "npy": lambda folder: in_memory(lambda stream: np.save(stream, np.arange(9))),
    "tar": lambda folder: in_memory(archive),
    "old tar": lambda folder: in_memory(old_archive),
    "7z": lambda folder: b"7z\xbc\xaf\x27\x1c\0\x04",
    "parquet": lambda folder: table(folder, "parquet"),
    "orc": lambda folder: table(folder, "orc"),
    "feather": lambda folder: table(folder, "feather"),
    "arrow stream": lambda folder: table(folder, "arrow"),
    "avro": lambda folder: b"Obj\x01\x04\x14avro.codec",
    "array record": lambda folder: pathlib.Path(array_record(folder, [PLAIN])).read_bytes(),
    "tfrecord": tfrecord,
    "sqlite": database,
    "hdf5": lambda folder: b"\x89HDF\r\n\x1a\n\0\0\0\0",
    "safetensors": lambda folder: safetensors.numpy.save({"a": np.ones(3)}),
    "pickle": lambda folder: pickle.dumps(["text"]),
    "pickle, protocol 2": lambda folder: pickle.dumps(["text"], 2),
    "gguf": lambda folder: b"GGUF\x03\0\0\0",
    "pdf": lambda folder: b"%PDF-1.7\n%\xc7\xec\x8f\xa2\n",
    "rtf": lambda folder: b"{\\rtf1\\ansi some text}",
    "png": lambda folder: pathlib.Path("docs/pictures/loss.png").read_bytes(),
    "jpeg": lambda folder: b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "gif": lambda folder: b"GIF89a\x01\0\x01\0\x80\0\0",
    "bmp": lambda folder: b"BM\x46\0\0\0\0\0\0\0",
    "wav": lambda folder: b"RIFF\x24\0\0\0WAVEfmt ",
    "mp3": lambda folder: b"ID3\x04\0\0\0\0\0\0",
    "mp4": lambda folder: b"\0\0\0\x20ftypisom\0\0\2\0",
    "program": lambda folder: pathlib.Path(sys.executable).resolve().read_bytes()[:5000],
    "windows program": lambda folder: b"MZ\x90\0\x03\0\0\0",
    "utf-16": lambda folder: PLAIN.decode().encode("utf-16"),
    "utf-16-be": lambda folder: b"\xfe\xff" + PLAIN.decode().encode("utf-16-be"),
    "utf-16-le, no mark": lambda folder: PLAIN.decode().encode("utf-16-le"),
    "utf-16-be, no mark": lambda folder: PLAIN.decode().encode("utf-16-be"),
    "utf-32": lambda folder: PLAIN.decode().encode("utf-32"),
    "utf-32-be": lambda folder: b"\0\0\xfe\xff" + PLAIN.decode().encode("utf-32-be"),
    "utf-32-le, no mark": lambda folder: PLAIN.decode().encode("utf-32-le"),
    "lfs": lambda folder: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    ),
    "json array": lambda folder: b'[\n  {"text": "a"},\n  {"text": "b"}\n]',
}
OF_LINES = {
    "json lines": LINES,
    "one json line": b'{"text": "a"}',
    "a long json line": json.dumps({"text": "words " * 20_000}).encode() + b"\n" + LINES,
    "json lines of windows": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_kinds_are_refused_by_their_bytes(tmp_path, kind):
    content = OTHERS[kind](tmp_path)
    path = write(tmp_path, "a.txt", content)
    gz, xz = (
        write(tmp_path, "b.txt.gz", gzip.compress(content)),
        write(tmp_path, "c.txt.xz", lzma.compress(content)),
    )
    for file in (path, gz, xz):
        with pytest.raises(
            ValueError, match=r"^\S+ is .*, not for TextFiles: .*TextFiles\.any_bytes=True$"
        ) as refused:
            TextFiles((file,)).open()
        assert file in str(refused.value)
        with pytest.raises(ValueError, match="not for JsonLines: "):
            JsonLines((file,)).open()
        assert texts(TextFiles((file,), any_bytes=True)) == [content]
        if kind != "array record" or file != path:
            with pytest.raises(ValueError, match=r"not for ArrayRecord: "):
                ArrayRecord((file,)).open()


@pytest.mark.parametrize("kind", OF_LINES)
def test_json_lines_are_no_text(tmp_path, kind):
    for name, pack in (
        ("a.txt", bytes),
        ("noname", bytes),
        ("a.txt.gz", gzip.compress),
        ("a.txt.xz", lzma.compress),
    ):
        path = write(tmp_path, name, pack(OF_LINES[kind]))
        with pytest.raises(
            ValueError, match="JSON lines, not for TextFiles: read it with JsonLines"
        ):
            TextFiles((path,)).open()
        assert texts(TextFiles((path,), any_bytes=True)) == [OF_LINES[kind]]
        if "." in name:
            assert len(texts(JsonLines((path,)))) >= 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.jsonl", "JsonLines"),
        ("a.jsonl.gz", "JsonLines"),
        ("A.JSONL.xz", "JsonLines"),
        ("a.ndjson", "JsonLines"),
        ("a.json", "JsonLines"),
        ("a.jsonl.zst", "JsonLines"),
        ("a.txt.bz2", "unpack it"),
        ("a.arrow", "Arrow"),
        ("a.txt.br", "unpack it"),
        ("a.parquet", "Parquet"),
        ("a.parquet.gz", "Parquet"),
        ("a.array_record", "ArrayRecord"),
        ("a.array_record-00000-of-00002", "Tfds"),
        ("a.tfrecord-00000-of-00002", "ArrayRecord"),
        ("a.pdf", "convert it"),
    ],
)
def test_files_of_other_kinds_are_refused_by_their_names(tmp_path, name, said):
    pack = (
        gzip.compress
        if name.endswith(".gz")
        else lzma.compress
        if name.endswith(".xz")
        else zstandard.ZstdCompressor().compress
        if name.endswith(".zst")
        else bytes
    )
    path = write(tmp_path, name, pack(PLAIN))
    with pytest.raises(ValueError, match=rf"is by its name .*not for TextFiles: .*{said}"):
        TextFiles((path,)).open()
    assert texts(TextFiles((path,), any_bytes=True)) == [PLAIN]


@pytest.mark.parametrize(
    "content",
    [
        NASTY,
        "Größe, naïve".encode("latin-1"),
        "ÿþ is no mark of UTF-16 here".encode("latin-1")[1:],
        "日本語のテキスト".encode("shift-jis"),
        "Привет, мир".encode("koi8-r"),
        b"ACGTNNACGT" * 20,
        b"PAR1 begins a parquet table",
        b"BM\tBMP\nMZ",
        b"MZ and PK are initials",
        b"ORC\n",
        b"GIF89a is a format",
        b"RIFF raff\x1b[0m",
        b"%PDF is a word, BZh too",
        b"BZh9 is one, too",
        b"x^2 + y^2 = z^2, and so on. " * 9,
        b"x",
        b"\n",
        b"[1] A footnote",
        b"{a set}",
        b'{"a": 1 is the beginning of JSON, which goes on',
        b'{\n  "a": 1\n}\n',
        b'{"a": 1}\nand then text',
        bytes(range(255, 0, -1)),
        b"\x93\x94quotes of Windows\x94",
    ],
)
def test_text_in_any_encoding_and_bytes_without_a_mark_are_read(tmp_path, content):
    assert texts(TextFiles((write(tmp_path, "a.txt", content),))) == [content]


def test_files_named_for_another_packing(tmp_path):
    path = write(tmp_path, "a.txt.gz", bz2.compress(PLAIN))
    with pytest.raises(
        ValueError, match=r"cannot be unpacked as \.gz: .*its bytes are packed by bzip2"
    ):
        TextFiles((path,)).open()
    with pytest.raises(ValueError, match=r"cannot be unpacked as \.xz: .*its bytes are JSON lines"):
        JsonLines((write(tmp_path, "a.jsonl.xz", LINES),)).open()
    with pytest.raises(ValueError, match=r"cannot be unpacked as \.xz: .*packed so at all"):
        TextFiles((write(tmp_path, "b.txt.xz", PLAIN),)).open()


def test_plain_text_is_not_for_other_readers(tmp_path):
    path = write(tmp_path, "a.txt", PLAIN)
    with pytest.raises(ValueError, match=r"line 1 is not JSON: .*is it text for TextFiles\?"):
        JsonLines((path,)).open()
    with pytest.raises(ValueError, match="not an ArrayRecord file; read text with TextFiles"):
        ArrayRecord((path,)).open()
    with pytest.raises(FileNotFoundError, match=r"folder has no \.jsonl .*below it"):
        JsonLines((str(tmp_path),)).open()
    write(tmp_path, "lines/a.jsonl", LINES)
    with pytest.raises(FileNotFoundError, match=r"by name JSON lines: read it with JsonLines"):
        TextFiles((str(tmp_path / "lines"),)).open()


def test_array_records_that_are_no_texts_or_broken(tmp_path):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["body"].bytes_list.value.append(PLAIN)
    with pytest.raises(
        ValueError, match=r"tf\.train\.Example, not a text: .*ArrayRecord\.field, one of \['body'\]"
    ):
        ArrayRecord((array_record(tmp_path, [example.SerializeToString()]),)).open()
    with pytest.warns(UserWarning, match=r"packed by gzip, not a text, and is read as it is"):
        ArrayRecord((array_record(tmp_path, [gzip.compress(PLAIN)]),)).open()
    for text in (b"\n" + PLAIN, b"\n\n\n", b"\n"):
        assert texts(ArrayRecord((array_record(tmp_path, [text]),))) == [text]
    whole = pathlib.Path(array_record(tmp_path, [PLAIN])).read_bytes()
    with pytest.raises(ValueError, match=r"cannot be read: .*are the files complete"):
        ArrayRecord((write(tmp_path, "b.array_record", whole[:-300]),)).open()


# --- paths


def test_brackets_in_names(tmp_path):
    names = ["data[1].txt", "data1.txt", "set [a-c]/x.txt", "seta/x.txt", "b[/y.txt"]
    for name in names:
        write(tmp_path, name, name.encode())
    for name in names:
        assert texts(TextFiles((str(tmp_path / name),))) == [name.encode()]
    assert texts(TextFiles((str(tmp_path / "set [a-c]" / "*.txt"),))) == [b"set [a-c]/x.txt"]
    assert texts(TextFiles((str(tmp_path / "b[" / "*.txt"),))) == [b"b[/y.txt"]
    assert texts(TextFiles((str(tmp_path / "set [a-c]"),))) == [b"set [a-c]/x.txt"]
    assert texts(TextFiles((str(tmp_path / "data[0-9].txt"),))) == [b"data1.txt"]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "texts/a.txt", b"a")
    write(tmp_path, "texts/a.jsonl", b'{"text": "b"}')
    for path in ("~/texts/a.txt", "~/texts", "~/texts/*.txt"):
        assert texts(TextFiles((path,))) == [b"a"]
    assert texts(JsonLines(("~/texts/a.jsonl",))) == [b"b"]
    with pytest.raises(FileNotFoundError, match="nosuchuser"):
        TextFiles(("~nosuchuser/a.txt",)).open()
    local_text.main(["mine", "~/texts/a.txt", "--data-dir", "~/tfds"])
    assert (tmp_path / "tfds" / "mine").is_dir()
    assert texts(Tfds("mine", data_dir="~/tfds")) == [b"a"]


def test_paths_that_name_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"TextFiles\.paths\[1\] is empty"):
        TextFiles(("a.txt", ""))
    with pytest.raises(TypeError, match=r"JsonLines\.paths\[0\] is .*write it as a text"):
        JsonLines((tmp_path,))
    write(tmp_path, "a.txt", b"a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    for path in (str(tmp_path), str(tmp_path / "*.txt")):
        with pytest.raises(
            FileNotFoundError, match=r"b\.txt is a link to a file that is not there"
        ):
            TextFiles((path,)).open()


# --- local text as a data set


def test_local_text_refuses_in_one_line(tmp_path, capsys):
    lines, data = write(tmp_path, "a.jsonl", LINES), ["--data-dir", str(tmp_path / "tfds")]
    with pytest.raises(SystemExit):
        local_text.main(["lines", lines, *data])
    assert "JSON lines, not for TextFiles: read it with JsonLines" in capsys.readouterr().err
    local_text.main(["lines", lines, *data, "--field", "text"])
    local_text.main(
        [
            "raw",
            write(tmp_path, "a.bin", NASTY),
            write(tmp_path, "b.bin", gzip.compress(PLAIN)),
            *data,
            "--any-bytes",
        ]
    )
    packed = (tmp_path / "b.bin").read_bytes()
    assert texts(Tfds("raw", data_dir=str(tmp_path / "tfds"))) == [NASTY, packed]
    with pytest.raises(SystemExit):
        local_text.main(["both", lines, *data, "--field", "text", "--any-bytes"])


# --- fingerprints


def test_fingerprints_tell_contents_not_places(tmp_path):
    rng = np.random.default_rng(0)
    small, big = PLAIN, rng.integers(32, 127, 300_000, np.uint8).tobytes()

    def of(folder, *contents, **options):
        paths = tuple(
            write(tmp_path, f"{folder}/{i}.txt", content) for i, content in enumerate(contents)
        )
        return fingerprint(TextFiles(paths, **options))

    first = of("a", small, big)
    assert first == of("b", small, big) == of("b", small, big, piece=99)
    changed = [
        of("c", big, small),
        of("c", small),
        of("c", small[:-1] + b"!", big),
        of("c", small, b"!" + big[1:]),
        of("c", small, big[:-1] + b"!"),
        of("c", small, big + b"!"),
        of("c", small, big[:100_000] + bytes(100_000) + big[200_000:]),
        of("c", small + big),
    ]
    assert len({json.dumps(f) for f in [first, *changed]}) == 1 + len(changed)
    lines = write(tmp_path, "a.jsonl", LINES)
    one, two = JsonLines((lines,)), TextFiles((write(tmp_path, "a.txt", PLAIN),))
    both = fingerprint(Mixture((one, Mixture((two, one), (1, 1))), (1, 1)))
    assert list(both) == [
        "source.sources[0]",
        "source.sources[1].sources[0]",
        "source.sources[1].sources[1]",
    ]
    assert (
        both["source.sources[0]"]
        == both["source.sources[1].sources[1]"]
        == fingerprint(one)["source"]
    )
    assert fingerprint(ArrayRecord((array_record(tmp_path, [b"a"]),))) != fingerprint(
        ArrayRecord((array_record(tmp_path, [b"b"]),))
    )


def test_fingerprints_of_sources_without_files():
    class Own(Records):
        def __init__(self, texts):
            self.texts = texts

        def open(self):
            return self

        def __len__(self):
            return len(self.texts)

        def __getitem__(self, index):
            return Record(self.texts[index], True)

        def name(self, index):
            return str(index)

    found = [
        fingerprint(Own(texts))
        for texts in ([b"a", b"b"], [b"ab"], [b"a", b"c"], [b"a"] * 100, [b"a"] * 101, [])
    ]
    assert len({json.dumps(f) for f in found}) == len(found)
    assert fingerprint(Own([b"a", b"b"])) == found[0]


# --- the evaluation's --data


def test_data_of_the_evaluation_goes_to_its_reader(tmp_path):
    def texts_in(path):
        return [text for _, text in inputs.texts_in(path)]

    two = b'{"text": "one"}\n{"text": "two"}\n'
    for name, content in (
        ("a.jsonl", two),
        ("b.jsonl.gz", gzip.compress(two)),
        ("c.ndjson.xz", lzma.compress(two)),
    ):
        assert texts_in(write(tmp_path, name, content)) == [b"one", b"two"]
    assert texts_in(write(tmp_path, "d[1].txt", PLAIN)) == [PLAIN]
    assert texts_in(array_record(tmp_path, [b"one", b"two"])) == [b"one", b"two"]
    wrong = {
        "e.jsonl.zst": (b"\x28\xb5\x2f\xfd" + two, "cannot be unpacked"),
        "f.parquet": (b"PAR1\x15\x04\x15", "cannot be read as Parquet"),
        "g.txt": (two, "read it with JsonLines"),
        "h.jsonl": (PLAIN, "line 1 is not JSON"),
        "i.txt.gz": (gzip.compress(gzip.compress(PLAIN)), "packed by gzip"),
        "j.txt": (b"", "is empty"),
    }
    for name, (content, said) in wrong.items():
        with pytest.raises(inputs.Wrong, match=rf"^--data: .*{said}.*$"):
            texts_in(write(tmp_path, name, content))
    with pytest.raises(inputs.Wrong, match=r"^--data: .*no such file"):
        texts_in(str(tmp_path / "gone.txt"))
