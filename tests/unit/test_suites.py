"""Every suite on the shipped sample, sums that can be done by hand, and the files that are read."""

import json
import lzma
import math
import re
import types

import numpy as np
import pytest

from hlm.data.source import Mixture, Streamed, TextFiles
from hlm.data.unchosen import Unchosen
from hlm.evals import choice, cost, cute, efficiency, inputs, misspell
from hlm.evals.shelf import SAMPLES, Missing, Shelf, some
from hlm.evals.suite import SUITES, named
from tests.unit.minute_models import language_model
from tests.unit.suite_settings import DOCUMENTS, found, setting


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One speed, of a few bytes, is as good a test as two of many."""
    for name, value in {"ROWS": (1,), "REPEATS": 1, "WRITTEN": 3}.items():
        monkeypatch.setattr(efficiency, name, value)


@pytest.mark.parametrize(
    "suite", [name for name in SUITES if name not in ("fill", "masked", "lm_eval", "adaptation")]
)
@pytest.mark.parametrize("model", ["words", "bpe"])
def test_every_suite_runs_on_the_sample(suite, model):
    lm = language_model(model)
    if not named(suite).fits(lm):
        pytest.skip("does not fit")
    grids = found(suite, model).grids
    measures = [m for grid in grids.values() for row in grid.values() for m in row.values()]
    assert measures
    for measure in measures:
        assert np.isfinite(measure.total).all()
        assert np.isfinite(measure.weight).all()
        assert measure.chance is None or 0 <= measure.chance <= 1


@pytest.mark.parametrize("suite", ["choice", "fairness", "boundaries"])
def test_without_its_data_a_suite_is_missing(suite, tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(Missing):
            named(suite).evaluate(language_model("words"), setting(folder))


# --- sums


def test_words_are_counted_by_the_training_text():
    rows = found("perplexity", "words").grids["words by frequency in the training text"]
    assert set(rows) >= {"unseen", "common: 100 times or more", "numbers"}
    assert rows["numbers"]["count"].value == 1
    text = b" ".join(document.text for document in DOCUMENTS)
    every = re.findall(rb"[A-Za-z\x80-\xff]+", text)
    counted = [row["count"].value for name, row in rows.items() if "byte" not in name]
    assert sum(counted) == len(every) + 1
    assert rows["common: 100 times or more"]["count"].value == every.count(b"water")


def test_words_are_counted_in_what_the_runs_were_trained_on(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("one two three " * 50)
    here, other = TextFiles((str(path),)), TextFiles(("corpus:mobydick/test.txt",))
    given = {}

    def trained(*sources, format=None):
        names = [f"{i}" for i in range(len(sources))]
        given.update(zip(names, sources, strict=True))
        return inputs.own_training([inputs.Reference(name, format=format) for name in names])

    def experiment(reference):
        data = types.SimpleNamespace(source=given[reference.path])
        return types.SimpleNamespace(data=data)

    monkeypatch.setattr(inputs.Reference, "experiment", experiment)
    assert trained(here, here) == [path.read_bytes()]
    monkeypatch.setattr(inputs, "TRAINING", 100)
    assert 50 < len(trained(here)[0]) <= 100
    far = TextFiles(("gs://nobody/asked/*.txt",))
    for sources in (
        (here, other),
        (far,),
        (Streamed(far),),
        (Mixture((here, other), (1, 1)),),
        (TextFiles((str(tmp_path / "none.txt"),)),),
        (Unchosen(),),
    ):
        assert trained(*sources) == []
    assert trained(here, format="llama") == []


def test_units_add_up_to_documents():
    lm = language_model("words")
    every = found("perplexity", "words").grids
    assert set(every["perplexity by domain"]) == {"eng", "deu"}
    scores = lm.score([document.text for document in DOCUMENTS])
    got = every["perplexity"][""]
    nbytes = sum(len(document.text) for document in DOCUMENTS)
    characters = sum(len(document.text.decode()) for document in DOCUMENTS)
    nats = sum(score.nats for score in scores)
    assert got["bits_per_byte"].value == pytest.approx(nats / math.log(2) / nbytes, rel=1e-6)
    assert got["bits_per_character"].value == pytest.approx(
        got["bits_per_byte"].value * nbytes / characters
    )
    assert got["bytes_per_chunk"].value == pytest.approx(nbytes / sum(s.chunks for s in scores))


def test_premiums_are_sums_over_the_same_sentences():
    grid = found("fairness", "words").grids["fairness against English"]
    size = {
        code: sum(map(len, Shelf(SAMPLES).read(f"ntrex-128/{code}.txt").split(b"\n")))
        for code in ("eng", "rus")
    }
    assert grid["rus"]["premium in bytes"].value == pytest.approx(size["rus"] / size["eng"])
    assert {m.value for name, m in grid["eng"].items() if "premium" in name} == {1.0}
    # words of at most 8 bytes with their blank: no Chinese sentence is one, nor "stopped."
    assert grid["zho-CN"]["share of words cut"].value == 1
    assert grid["eng"]["share of words cut"].value == pytest.approx(1 / 21)
    assert grid["rus"]["premium in FLOPs"].value > 1


def test_costs_are_those_of_the_chunks():
    row = found("efficiency", "words").grids["efficiency"][""]
    lm = language_model("words")
    scores = lm.score(list(setting().excerpt))
    of_symbol, of_chunk = cost.price(lm)
    flops = sum(of_symbol * s.symbols + of_chunk * s.chunks for s in scores)
    assert row["FLOPs_per_byte"].value == pytest.approx(flops / sum(s.nbytes for s in scores))
    assert of_symbol > 0 < of_chunk
    bits = sum(s.nats for s in scores) / math.log(2) / sum(s.nbytes for s in scores)
    expected = (8 - bits) / math.log2(row["FLOPs_per_byte"].value)
    assert row["saved_bits_per_log_flop"].value == pytest.approx(expected)
    assert row["bytes_per_second_reading_1"].value > 0
    assert row["peak_memory_MiB"].value > row["parameters_MiB"].value > 0
    assert cost.price(language_model("bpe"))[1] == 0


# --- files


def test_a_shelf_reads_packed_files_and_remembers_them(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "a.jsonl.xz").write_bytes(lzma.compress(b'{"a": 1}\r\n\n{"a": 2}\n'))
    (tmp_path / "eval" / "b.jsonl.xz").write_bytes(b"not packed")
    (tmp_path / "eval" / "c.jsonl").write_text('{"a": 1}\n[2]\n')
    shelf = Shelf(tmp_path)
    assert shelf.rows("eval/a.jsonl") == [{"a": 1}, {"a": 2}]
    assert list(shelf.digests) == ["eval/a.jsonl"]
    assert shelf.names("eval/*.jsonl") == ["eval/a.jsonl", "eval/b.jsonl", "eval/c.jsonl"]
    with pytest.raises(ValueError, match=r"b.jsonl.xz is damaged"):
        shelf.rows("eval/b.jsonl")
    with pytest.raises(ValueError, match=r"c.jsonl:2 is no JSON object"):
        shelf.rows("eval/c.jsonl")
    with pytest.raises(Missing, match="--benchmarks sample"):
        shelf.read("eval/d.jsonl")


def test_a_row_without_its_fields_is_named(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "piqa_val.jsonl").write_text(json.dumps({"goal": "x"}) + "\n")
    with pytest.raises(ValueError, match=r"piqa_val.jsonl:1: no question of piqa .*sol1"):
        choice.read("piqa", Shelf(tmp_path), None, 0)


def test_some_items_are_drawn_in_order():
    items = list(range(100))
    assert some(items, 10, 0) == some(items, 10, 0) == sorted(some(items, 10, 0))
    assert some(items, 10, 0) != some(items, 10, 1)
    assert some(items, None) == some(items, 100) == items


def test_real_files_are_read(shared):
    shelf = Shelf(shared / "data")
    for name, task in choice.TASKS.items():
        if name not in ("blimp", "turblimp") and not name.startswith("clams"):
            items = choice.read(name, shelf, 20, 0)
            assert len(items) == 20
            assert all(0 <= item.answer < len(item.options) for item in items), task.file
    assert len(misspell.read(shelf)) > 5000
    for name in cute.ASK:
        assert len(cute.read(name, shelf, 5, np.random.default_rng(0))) == 5
