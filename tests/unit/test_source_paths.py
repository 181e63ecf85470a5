"""What paths name: links, hidden files, other spellings, other file systems."""

import os
import zipfile

import fsspec
import pytest

from hlm.data.source import JsonLines, TextFiles
from tests.unit.source_files import texts, write


@pytest.fixture
def bucket():
    yield "memory://bucket"
    system = fsspec.filesystem("memory")
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)


def put(address, content):
    with fsspec.open(address, "wb") as file:
        file.write(content)


def test_folders_behind_links_are_read_once(tmp_path):
    write(tmp_path, "disk2/b/2.txt", b"2")
    write(tmp_path, "set/a.txt", b"a")
    write(tmp_path, "set/run/r.txt", b"r")
    for name, target in (
        ("b", tmp_path / "disk2"),
        ("latest", "run"),  # what is below it has come
        ("self", "."),
        ("up", tmp_path),
    ):
        (tmp_path / "set" / name).symlink_to(target, target_is_directory=True)
    assert sorted(texts(TextFiles((str(tmp_path / "set"),)))) == [b"2", b"a", b"r"]
    assert texts(TextFiles((str(tmp_path / "set" / "latest"),))) == [b"r"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, "a.txt", b"a")
    write(tmp_path, "closed/b.txt", b"b")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="closed"):
        TextFiles((str(tmp_path),)).open()


@pytest.mark.parametrize("remote", [False, True])
def test_hidden_files_of_a_folder_are_left_out(tmp_path, bucket, remote):
    folder = bucket if remote else str(tmp_path / ".set")
    for name in ("a.txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "b/.cache/c.txt"):
        if remote:
            put(f"{folder}/.set/{name}", b"text")
        else:
            write(tmp_path, f".set/{name}", b"text")
    folder += "/.set" if remote else ""
    assert texts(TextFiles((folder,))) == [b"text"]
    assert texts(TextFiles((f"{folder}/._a.txt",))) == [b"text"], "one that is named is read"
    with pytest.raises(FileNotFoundError, match=r"no \.jsonl"):
        JsonLines((folder,)).open()


def test_a_file_by_two_spellings_is_named_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "set/a.txt", b"a")
    for other in ("set/a.txt", "./set/../set/a.txt", f"file://{path}", "set", "se*/a.txt"):
        with pytest.raises(ValueError, match="named by both"):
            TextFiles((path, other)).open()
    assert texts(TextFiles((f"{tmp_path}/**/**/a.txt",))) == [b"a"], "one glob may find it twice"


def test_files_of_this_machine_by_fsspecs_names(tmp_path):
    path = write(tmp_path, "set/a.txt", b"a")
    for given in (path, f"{tmp_path}/set", f"{tmp_path}/s*/*.txt"):
        for scheme in ("file://", "local://"):
            opened = TextFiles((scheme + given,)).open()
            assert [record.text for record in opened] == [b"a"]
            assert opened.locations()[0].address == path, "it is read at random, as others are"
    with pytest.raises(FileNotFoundError, match="no such file"):
        TextFiles((f"file://{tmp_path}/b.txt",)).open()


def test_chains_of_file_systems(tmp_path, bucket):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.txt", "one " * 9000)
        archive.writestr("in/2.txt", "two")
    put(f"{bucket}/a.zip", (tmp_path / "a.zip").read_bytes())
    put(f"{bucket}/3.txt", b"three")
    for where in (str(tmp_path), bucket):
        assert texts(TextFiles((f"zip://1.txt::{where}/a.zip",))) == [b"one " * 9000]
        assert texts(TextFiles((f"zip://**/*.txt::{where}/a.zip",)))[1:] == [b"two"]
    for given in (
        f"{bucket}/3.txt",
        f"{bucket}/*.txt",
        f"file://{write(tmp_path, '3.txt', b'three')}",
    ):
        assert texts(TextFiles((f"simplecache::{given}",))) == [b"three"]


def test_a_folder_has_one_order_wherever_it_lies(tmp_path, bucket):
    names = ["a/x.txt", "a-b/x.txt", "a.b/x.txt", "a.txt", "a b.txt", "B.txt"]
    for name in names:
        write(tmp_path, name, name.encode())
        put(f"{bucket}/{name}", name.encode())
    assert texts(TextFiles((str(tmp_path),))) == texts(TextFiles((bucket,)))
    assert texts(TextFiles((f"{tmp_path}/**/*.txt",))) == texts(TextFiles((f"{bucket}/**/*.txt",)))


def test_brackets_in_names_of_a_bucket(bucket):
    for name in ("data[1].txt", "data1.txt", "set [a]/x.txt"):
        put(f"{bucket}/{name}", name.encode())
    for name in ("data[1].txt", "set [a]/x.txt", "set [a]/*.txt"):
        wanted = name.replace("*", "x").encode()
        if name == "data[1].txt":  # as a glob it has a match
            wanted = b"data1.txt"
        assert texts(TextFiles((f"{bucket}/{name}",))) == [wanted]


def test_json_files_of_a_folder_are_named(tmp_path, bucket):
    """C4 is JSON lines by the name of .json.gz."""
    write(tmp_path, "c4/c4-train.00000-of-01024.json.gz", b"")
    put(f"{bucket}/c4/a.json", b"")
    for folder in (f"{tmp_path}/c4", f"{tmp_path}/c4/", f"{bucket}/c4"):
        with pytest.raises(FileNotFoundError, match=r"name them: \S+/c4/\*\.json\*$"):
            JsonLines((folder,)).open()
