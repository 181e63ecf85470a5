"""eval.py on two tiny checkpoints with random parameters."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import hlm
from hlm.checkpoint import Checkpoints
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.evals import fill
from hlm.model.hierarchy import capacities
from hlm.sharding import Mesh
from hlm.train.step import init_state
from tests.unit.test_port import SIZES, weights  # noqa: F401  (a fixture)

SCRIPT = pathlib.Path(__file__).parents[2] / "eval.py"
LENGTH = 64
TEXTS = [
    "Call me Ishmael. Some years ago,\nnever mind how long.",
    "It was the best of times,\nit was the worst of times.",
]


def save(workdir: pathlib.Path, test: pathlib.Path, hierarchical: bool) -> None:
    """A checkpoint of steps 3 and 5; the flat model fills gaps."""
    below, above, last = (
        hlm.Stack(1, hlm.Block(hlm.Attention(2), hlm.SwiGLU(16))) for _ in range(3)
    )
    spacebyte = hlm.Hierarchy(
        below, hlm.Level(1), hlm.pool.Select(16), above, hlm.unpool.Scatter(), last, capacity=32
    )
    codec = (
        hlm.Bytes(hlm.split.SpaceLike())
        if hierarchical
        else hlm.FIMCodec(hlm.Bytes(hlm.split.Unsplit()))
    )
    model = hlm.LM(
        codec=codec,
        embed=hlm.Embed(width=16, size=codec.size),
        trunk=spacebyte if hierarchical else last,
    )
    text = hlm.TextFiles((str(test),))
    exp = hlm.Experiment(
        model=model,
        data=hlm.Data(text, LENGTH),
        valid=text,
        test=text,
        optim=hlm.AdamW(1e-3, warmup=0),
        steps=5,
        rows=4,
    )
    rng = np.random.default_rng(0)
    shapes = init_state(exp, Mesh().make(jax.devices()[:1]))[0].params
    params = jax.tree.map(lambda a: jax.numpy.asarray(rng.normal(0, 0.1, a.shape), a.dtype), shapes)
    data = pipeline.batches(
        exp.data, model.codec, Budget(LENGTH, capacities(model.trunk)), exp.rows, exp.seed
    )
    checkpoints = Checkpoints(str(workdir), keep=2)
    for step in (3, 5):
        checkpoints.save(step, exp, params, (np.zeros(()), {}), data)
    checkpoints.close()
    data.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    (root / "test.txt").write_text("\n".join(TEXTS))
    save(root / "flat", root / "test.txt", hierarchical=False)
    save(root / "words", root / "test.txt", hierarchical=True)
    return root


def evaluate(*arguments) -> None:
    runpy.run_path(str(SCRIPT))["main"]([str(a) for a in arguments])


def values(folder, label, suite, table, row=""):
    """The values of a row of results.json."""
    got = json.loads((folder / "results.json").read_text())
    grid = got["checkpoints"][label][suite]["tables"][table]
    return {name: measure["value"] for name, measure in grid[row].items()}


def test_checkpoints_side_by_side(runs, capsys):
    options = ("--noises", "upper,delete", "--bytes", 40, "--seeds", 1, "--items", 2)
    evaluate(runs / "words", f"{runs / 'flat'}@3", *options, "--benchmarks", "sample")
    folder = runs / "words" / "eval"
    got = json.loads((folder / "results.json").read_text())
    assert list(got["checkpoints"]) == ["words@5", "flat@3"]
    text = (runs / "test.txt").read_bytes()
    assert got["text"]["bytes"] == len(text)
    assert got["excerpt"]["bytes"] == text.index(b"\n") + 1
    assert set(got["versions"]) > {"jax", "python"}
    assert got["benchmarks"]["sample"]
    assert set(got["benchmarks"]["sha256"]) >= {"eval/hellaswag_val.jsonl"}
    printed = capsys.readouterr().out
    for label in got["checkpoints"]:
        lm = hlm.load(str(runs / label[:-2]))
        (score,) = lm.score(text)
        found = values(folder, label, "perplexity", "perplexity")
        assert found["bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=1e-6)
        assert f"{score.bits_per_byte:.4f}" in printed
        curve = got["checkpoints"][label]["robustness"]["curves"]["upper"]
        assert [severity for severity, _ in curve] == [0, 0.25, 0.5, 0.75, 1]
    assert values(folder, "words@5", "perplexity", "perplexity")["bytes_per_chunk"] > 2
    assert {p.name for p in folder.iterdir()} == {
        "results.json",
        "report.html",
        "robustness_curves.png",
    }


def test_a_published_checkpoint_stands_beside_ours(runs, weights, tmp_path):  # noqa: F811
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    options = ("--data", runs / "test.txt", "--out", tmp_path / "out", "--suite")
    evaluate(runs / "words", f"llama:{tmp_path}", *options, "perplexity")
    got = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [c["model"]["format"] for c in got["checkpoints"].values()] == ["hlm", "llama"]
    with pytest.raises(SystemExit, match=r"--suite boundaries: does not fit .*, a LM with codec"):
        evaluate(f"llama:{tmp_path}", *options, "boundaries")
    evaluate(
        runs / "words", f"llama:{tmp_path}", *options, "probes,boundaries", "--benchmarks", "sample"
    )
    got = json.loads((tmp_path / "out" / "results.json").read_text())["checkpoints"]
    assert ["boundaries" in found for found in got.values()] == [True, False]
    with pytest.raises(SystemExit, match="--suite fill: fits none of words@5, "):
        evaluate(runs / "words", f"llama:{tmp_path}", *options, "fill")
    with pytest.raises(SystemExit, match=r"checkpoint .*/none: no weights at"):
        evaluate(f"llama:{tmp_path}/none", *options, "perplexity")


def test_a_context_must_fit_into_a_row(runs):
    with pytest.raises(SystemExit, match="--context: 64; give 0 to 63"):
        evaluate(runs / "flat", "--context", LENGTH, "--suite", "perplexity")


def test_a_suite_without_its_data_is_left_out(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    options = ("--benchmarks", tmp_path / "empty", "--out", tmp_path / "out")
    evaluate(runs / "flat", "--suite", "perplexity,choice", *options)
    assert "choice: left out: no" in capsys.readouterr().out
    got = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(got["checkpoints"]["flat@5"]) == {"model", "perplexity"}
    with pytest.raises(SystemExit, match="--benchmarks: no folder"):
        evaluate(runs / "flat", "--benchmarks", tmp_path / "none")


def test_a_file_that_is_not_what_its_name_says_is_refused(runs, tmp_path):
    packed = tmp_path / "x.jsonl.zst"
    packed.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(range(200)))
    with pytest.raises(SystemExit, match=r"--data: .*x.jsonl.zst cannot be unpacked as .zst"):
        evaluate(runs / "flat", "--data", packed)


def test_gaps_are_filled(runs, monkeypatch, tmp_path, capsys):
    for name, value in {"GAPS": 5, "LONGEST": 2, "AROUND": 6, "MORE": 4}.items():
        monkeypatch.setattr(fill, name, value)
    evaluate(runs / "flat", "--suite", "fill", "--seed", 7, "--out", tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["seed"] == 7
    lm = hlm.load(str(runs / "flat"))
    expected = fill.evaluate(lm, [(runs / "test.txt").read_bytes()], 7)
    got = values(tmp_path, "flat@5", "fill", "fill: what is missing in 5 gaps")
    assert got == {name: pytest.approx(expected[name]) for name in got}
    assert "bits per byte without suffix" in capsys.readouterr().out
    with pytest.raises(
        SystemExit,
        match=r"--suite fill: does not fit words@5, a LM with codec Bytes; "
        r".* --suite perplexity,robustness",
    ):
        evaluate(runs / "words", "--suite", "fill")


def test_one_file_or_two_and_jsonl_give_the_same_numbers(runs, tmp_path):
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)
    (tmp_path / "both.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    )
    found = []
    for files in ([tmp_path / "0.txt", tmp_path / "1.txt"], [tmp_path / "both.jsonl"]):
        evaluate(
            runs / "flat", "--suite", "perplexity", "--out", tmp_path / "out", "--data", *files
        )
        found.append(values(tmp_path / "out", "flat@5", "perplexity", "perplexity"))
    assert found[0] == found[1]
    got = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(got["checkpoints"]["flat@5"]["perplexity"]["documents"]) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--suite", "speed"), "no speed; choose from perplexity,robustness"),
        (("--noises", "upper,rot13"), "no rot13; choose from"),
    ],
)
def test_unknown_names_are_refused(runs, capsys, option, message):
    with pytest.raises(SystemExit):
        evaluate(runs / "flat", *option)
    assert message in capsys.readouterr().err


def test_different_test_texts_are_refused(runs, tmp_path):
    (tmp_path / "other.txt").write_text("Another text.")
    save(tmp_path / "other", tmp_path / "other.txt", hierarchical=False)
    with pytest.raises(SystemExit, match="different test texts, give one with --data"):
        evaluate(runs / "flat", tmp_path / "other")
