"""ArrayRecord files and TFDS data sets, and local text that becomes one."""

import gzip
import json
import pathlib
import pickle
import re
import resource
import sys
import tempfile

import fsspec
import numpy as np
import pytest

from hlm.data import local_text
from hlm.data.formats.files import may_open
from hlm.data.records import ArrayRecord, Tfds
from hlm.data.source import Record, Streamed, TextFiles
from tests.unit.source_files import LINES, NASTY, PLAIN, array_record, texts, write


def test_array_records(tmp_path):
    source = ArrayRecord((array_record(tmp_path, [b"one", NASTY]),))
    records = source.open()
    assert list(records) == [Record(b"one", True), Record(NASTY, True)]
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        ArrayRecord(source.paths, field="text").open()


def example(text):
    from tensorflow_datasets.proto import tf_example_pb2

    made = tf_example_pb2.Example()
    made.features.feature["text"].bytes_list.value.append(text)
    return made.SerializeToString()


def test_array_records_of_examples(tmp_path):
    path = array_record(tmp_path, [example(NASTY)])
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
    with pytest.raises(ValueError, match=r"b\.array_record cannot be read: .*is it complete"):
        ArrayRecord((write(tmp_path, "b.array_record", whole[:-300]),)).open()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.8])
def test_a_damaged_file_among_others_is_named(tmp_path, stream, place):
    rng = np.random.default_rng(0)
    whole = [rng.bytes(1000) for _ in range(600)]
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        array_record(tmp_path / name, whole)
    data = bytearray((tmp_path / "b" / "a.array_record").read_bytes())
    source = ArrayRecord((str(tmp_path),))
    source = Streamed(source) if stream else source
    at = int(len(data) * place)
    for damaged in (data[:at] + b"!" * 40 + data[at + 40 :], data[:at], data[:-1]):
        write(tmp_path, "b/a.array_record", bytes(damaged))
        with pytest.raises(ValueError, match=r"/b/a\.array_record\S* (is damaged|cannot be read)"):
            list(source.open())


@pytest.mark.parametrize("kind", [ArrayRecord, Tfds])
def test_more_files_than_a_process_may_have_open(tmp_path, kind):
    """Each that was read from stays open; the limit is raised, as far as that goes."""
    builder = tmp_path / "many" / "1.0.0"
    builder.mkdir(parents=True)
    one = pathlib.Path(array_record(tmp_path, [example(b"text")])).read_bytes()
    for i in range(100):
        (builder / f"many-train.array_record-{i:05d}-of-00100").write_bytes(one)
    (builder / "features.json").write_text(
        '{"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict", '
        '"featuresDict": {"features": {"text": {"pythonClassName": '
        '"tensorflow_datasets.core.features.text_feature.Text", "text": {}}}}}'
    )
    split = {"name": "train", "numBytes": "1", "shardLengths": ["1"] * 100}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"fileFormat": "array_record", "name": "many", "splits": [split], "version": "1.0.0"}
    (builder / "dataset_info.json").write_text(json.dumps(info))
    source = {
        ArrayRecord: ArrayRecord((f"{builder}/many-train*",), "text"),
        Tfds: Tfds("many", data_dir=str(tmp_path)),
    }[kind]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
        assert len(list(source.open())) == 100
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
        if hard == resource.RLIM_INFINITY or hard > 10**6:
            return
        with pytest.raises(ValueError, match=rf"{hard} files are to be open .* allows {hard}"):
            may_open(hard, "ArrayRecord.paths")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_remote_file_leaves_nothing_behind(tmp_path, monkeypatch):
    """A process that is killed cannot remove what it fetched."""
    path = array_record(tmp_path, [b"text %d" % i for i in range(200)])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "away"))
    (tmp_path / "away").mkdir()
    with open(path, "rb") as here, fsspec.open("memory://bucket/a.array_record", "wb") as there:
        there.write(here.read())
    try:
        records = iter(ArrayRecord(("memory://bucket/a.array_record",)).open())
        assert next(records).text == b"text 0"
        assert not list((tmp_path / "away").iterdir())
        assert len(list(records)) == 199
    finally:
        fsspec.filesystem("memory").rm("bucket", recursive=True)


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
    for split in ("test", "train[:0]", "train[9:", ""):
        with pytest.raises(ValueError, match=rf"^Tfds\.split: '{re.escape(split)}' .*$"):
            Tfds("my_text", split, data_dir=source.data_dir).open()
    info = next(tmp_path.rglob("dataset_info.json"))
    written = info.read_text()
    info.write_text(written.replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"^Tfds\.name: .* no random access; prepare it again.*$"):
        source.open()
    info.write_text(written)
    next(tmp_path.rglob("my_text-train*")).unlink()
    with pytest.raises(ValueError, match=r"^Tfds\.split: .*|^my_text/train\[0\] cannot be read.*$"):
        source.open()


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
