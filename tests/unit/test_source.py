"""Sources give every byte of every document exactly once, and say what is wrong with bad input."""

import gzip
import json
import lzma
import pickle
import sys

import pytest
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.data import local_text
from hlm.data.pipeline import documents
from hlm.data.records import ArrayRecord, Tfds
from hlm.data.source import JsonLines, Mixture, Record, TextFiles, cuts

NASTY = "naïve\r\nline 二行目\u2028x\n\n".encode() + bytes(range(256)) + b"\xff\xfe no end"


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def texts(source):
    return [text for _, text in documents(source)]


# --- text files


@pytest.mark.parametrize(("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")])
@pytest.mark.parametrize("piece", [1, 3, 7, 64, 10_000])
def test_a_file_comes_through_byte_for_byte(tmp_path, pack, ending, piece):
    path = write(tmp_path, "a.txt" + ending, pack(NASTY))
    records = TextFiles((path,), piece=piece).open()
    assert b"".join(record.text for record in records) == NASTY
    assert [record.complete for record in records] == [False] * (len(records) - 1) + [True]
    assert all(0 < len(record.text) <= piece for record in records)
    assert len({records.name(i) for i in range(len(records))}) == 1


@settings(max_examples=60, deadline=None)
@given(text=st.binary(min_size=1, max_size=200) | st.text("añ \n二🙂", min_size=1).map(str.encode), piece=st.integers(1, 40))
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
    assert [text[a:b] for a, b in zip([0, *ends], ends, strict=False)] == [b"aaa bbb\n", b"ccc ddd ", b"eee fff"]


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
    with pytest.raises(ValueError, match="is remote"):
        TextFiles(("gs://bucket/a.txt",)).open()


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


@pytest.mark.parametrize(("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_json_lines(tmp_path, pack, ending):
    wanted = ["short", "ünï\n二\u2028" * 30, "", "end of the file " * 9]
    lines = "\n\n".join(json.dumps({"id": i, "body": text}, ensure_ascii=bool(i % 2)) for i, text in enumerate(wanted))
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
    ],
)
def test_bad_json_lines_are_named(tmp_path, line, message):
    path = write(tmp_path, "a.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    records = JsonLines((path,)).open()
    assert records[0] == Record(b"fine", True)
    with pytest.raises(ValueError, match=message):
        records[1]


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
        ArrayRecord(source.paths, field="text").open()[1]


def test_array_records_of_examples(tmp_path):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["text"].bytes_list.value.append(NASTY)
    path = array_record(tmp_path, [example.SerializeToString()])
    assert ArrayRecord((path,), field="text").open()[0] == Record(NASTY, True)
    with pytest.raises(ValueError, match=r"feature 'body'; its features are \['text'\]"):
        ArrayRecord((path,), field="body").open()[0]


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
    one, two = (TextFiles((write(tmp_path, name, name.encode() * 9),), piece=10) for name in ("a.txt", "b.txt"))
    assert texts(Mixture((one, two), (9.0, 0.1))) == [b"a.txt" * 9, b"b.txt" * 9]
