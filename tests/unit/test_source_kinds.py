"""Files of other kinds are refused by their bytes and names, and any text is read."""

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

from hlm.data.records import ArrayRecord
from hlm.data.source import JsonLines, TextFiles
from hlm.evals import inputs
from tests.unit.source_files import LINES, NASTY, PLAIN, array_record, texts, write


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
