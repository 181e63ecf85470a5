"""ArrayRecord files and TFDS data sets, and local text that becomes one."""

import gzip
import pathlib
import pickle
import sys

import pytest

from hlm.data import local_text
from hlm.data.records import ArrayRecord, Tfds
from hlm.data.source import Record, TextFiles
from tests.unit.source_files import LINES, NASTY, PLAIN, array_record, texts, write


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


# --- TFDS


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
