"""Masked models, as a user trains and evaluates them."""

import json
import runpy

import pytest

import hlm
from hlm.evals import masked
from tests.e2e.runs import finish, metrics, overrides, start
from tests.laws.subjects import ROOT, corpus

STEPS = 20
BITS = "bits_per_masked_letter"


@pytest.fixture(scope="module", params=["hlm", "byte2word"])
def run(request, tmp_path_factory):
    """(folder of a run of 20 steps, what it printed)."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "test.txt").write_bytes(corpus()[7000:8000])
    settings = {
        "steps": STEPS,
        "every.evaluate": 10,
        "test.paths": (str(folder / "test.txt"),),
        "model.trunk.encoder.depth" if request.param == "hlm" else "model.trunk.backbone.depth": 1,
    }
    given = [
        item
        for item in overrides(folder, **settings)
        if not item.startswith(("model.trunk.encoder.depth", "model.trunk.decoder.depth"))
    ]
    printed = finish(start(folder / "run", given, config=f"configs/{request.param}.py:tiny"))
    return folder / "run", printed


def evaluate(*arguments):
    runpy.run_path(str(ROOT / "eval.py"))["main"]([str(a) for a in arguments])


def test_training_reports_what_is_hidden(run):
    folder, printed = run
    lines = metrics(folder)
    train, valid = ([line for line in lines if line["kind"] == kind] for kind in ("train", "valid"))
    assert [line["step"] for line in valid] == [10, STEPS]
    assert len(train) == STEPS
    assert valid[-1][BITS] < valid[0][BITS] < 8
    assert 0 < valid[-1]["masked_accuracy"] < 1
    assert "bits_per_byte" not in valid[-1]
    assert (
        f"step {STEPS}: valid bits per masked letter {valid[-1][BITS]:.4f}, masked accuracy"
        in printed
    )
    assert (folder / "loss.png").stat().st_size > 1000


def test_eval_measures_accuracy_and_pseudo_likelihood(run, capsys):
    folder, _ = run
    evaluate(folder, "--bytes", 100)
    got = json.loads((folder / "eval" / "results.json").read_text())
    (suites,) = got["checkpoints"].values()
    assert list(suites) == ["model", "masked"]
    lm, text = hlm.load(str(folder)), corpus()[7000:8000]
    together, alone = (
        {name: found["value"] for name, found in grid[""].items()}
        for grid in suites["masked"]["tables"].values()
    )
    expected = masked.measure(lm, [text], masked.TOGETHER)
    letters = len(b"".join(text.split()))
    assert alone["letters_count"] < together["letters_count"] == expected["letters"] == letters
    for name in (BITS, "masked_accuracy", "masked_word_accuracy"):
        assert together[name] == pytest.approx(expected[name])
    assert f"{alone[BITS]:.4f}" in capsys.readouterr().out
    assert lm.embed("Call me Ishmael.")[0].shape[0] == 3


def test_suites_that_do_not_fit_are_refused(run):
    with pytest.raises(
        SystemExit,
        match=r"--suite perplexity: does not fit .*, a MaskedLM with codec Bytes; "
        r"for models like it give --suite .*masked",
    ):
        evaluate(run[0], "--suite", "perplexity")
