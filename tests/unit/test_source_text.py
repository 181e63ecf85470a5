"""Text files: every byte of every document comes once, in pieces; wrong paths are named."""

import gzip
import lzma
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.data import local_text
from hlm.data.pipeline import documents
from hlm.data.records import ArrayRecord, Tfds
from hlm.data.source import JsonLines, Mixture, Record, TextFiles, cuts
from tests.unit.source_files import NASTY, texts, write


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


def test_documents_of_a_mixture_come_once_each(tmp_path):
    one, two = (
        TextFiles((write(tmp_path, name, name.encode() * 9),), piece=10)
        for name in ("a.txt", "b.txt")
    )
    assert texts(Mixture((one, two), (9.0, 0.1))) == [b"a.txt" * 9, b"b.txt" * 9]


# --- ends of lines


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


# --- paths


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
