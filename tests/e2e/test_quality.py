"""benchmarks/quality.py on a budget of three steps."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from hlm import BPE, Unigram, config, flops
from tests.e2e.runs import ROOT, environment

sys.path.insert(0, str(ROOT / "benchmarks"))
import budgeted  # type: ignore
import quality  # type: ignore
from budgeted import Recipe, best_peak, folder, made, plan  # type: ignore

NAME = "flat:tiny"
BUDGET = 2.2e10


def run(out: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/quality.py", str(out), *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.slow
def test_a_benchmark_trains_reports_and_goes_on(tmp_path, monkeypatch, capsys):
    options = ("--only", NAME, "--flops", str(BUDGET))
    first = run(tmp_path, *options)
    assert first.returncode == 0, first.stdout + first.stderr
    found = json.loads((tmp_path / "results.json").read_text())["models"]["flat:tiny"][0]
    assert found["steps"] == 3
    assert 0.8 < found["spent"] / BUDGET < 1.2
    assert found["perplexity"]["bytes"] == len(
        (ROOT / "hlm/data/corpus/mobydick/test.txt").read_bytes()
    )
    assert (
        f"| flat:tiny | 0.92 | 7.28 | 3 | 0.00 | {found['spent'] / BUDGET:.0%} | - | 0.004 |"
        in (tmp_path / "results.md").read_text()
    )
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")

    log = folder(tmp_path, NAME) / "train.log"
    before = log.read_text()
    (tmp_path / "results.md").unlink()
    monkeypatch.setattr(sys, "argv", ["quality.py", str(tmp_path), *options])
    quality.main()
    assert log.read_text() == before
    assert "flat:tiny" in (tmp_path / "results.md").read_text()
    monkeypatch.setattr(
        sys, "argv", ["quality.py", str(tmp_path), "--only", NAME, "--flops", "1e10"]
    )
    with pytest.raises(SystemExit, match="2"):
        quality.main()
    assert "has runs of 2.2e+10 FLOPs" in capsys.readouterr().err


def test_steps_and_schedule_follow_from_the_budget():
    planned = plan("hat:tiny", 1e12)
    exp = config.load(budgeted.file("hat:tiny"), planned.overrides)
    assert planned.cost["training"] * planned.cost["bytes_per_step"] * exp.steps == pytest.approx(
        1e12, rel=0.01
    )
    assert exp.optim.warmup / exp.steps == pytest.approx(100 / 1700, rel=0.1)
    assert exp.rows * planned.held.nbytes == pytest.approx(budgeted.STEP, rel=0.1)
    bpe = plan("bpe:tiny", 1e12)
    assert bpe.cost["bytes_per_step"] == pytest.approx(budgeted.STEP, rel=0.5)
    many = flops.Rows(
        planned.held.nbytes,
        (planned.held.elements[0], 2 * planned.held.elements[1]),
        planned.held.known,
    )
    assert plan("hat:tiny", 1e12, many).steps < 0.85 * planned.steps


def test_chunks_are_those_that_training_logged():
    held = flops.Rows(500.0, (512.0, 100.0, 30.0), ("packed text", "aim", "aim"))
    lines = [
        {"elements_per_chunk": 2.0, "above/elements_per_chunk": 4.0},
        {"elements_per_chunk": 4.0, "above/elements_per_chunk": 4.0},
    ]
    assert made(held, lines).elements == (512, 512 * (1 / 2 + 1 / 4) / 2, 512 * 3 / 8 / 4)


@pytest.mark.parametrize(
    ("best", "runs"), [(0.004, 4), (0.002, 4), (0.001, 5), (0.016, 6), (1e9, 7), (1e-9, 7)]
)
def test_a_sweep_follows_the_best_outwards(best, runs, tmp_path, monkeypatch):
    """Losses with one valley: it is found, or BEYOND further peaks are tried."""
    seen = []
    monkeypatch.setattr(budgeted, "train", lambda planned, run: seen.append(planned))

    def logged(run, kind):
        peak = float(run.name.removeprefix("peak-"))
        return [{"bits_per_byte": abs(math.log(peak / best)) if peak < 0.1 else math.nan}]

    monkeypatch.setattr(budgeted, "logged", logged)
    found = best_peak(Recipe(NAME, ()), BUDGET, 4, tmp_path)
    assert len(found.tried) == len(seen) == runs
    assert found.value == min(found.tried, key=lambda peak: abs(math.log(peak / best)))
    asked = sorted(float(planned.overrides[0].removeprefix("optim.peak=")) for planned in seen)
    assert asked == list(found.tried)


def test_subwords_are_those_of_the_text_that_is_trained_on(tmp_path):
    text = "corpus:udhr/deu_1996.txt"
    given = (f"data.source=TextFiles(('{text}',))", f"valid=TextFiles(('{text}',))")
    for name, kind in (("bpe:tiny", BPE), ("bpe:tiny_unigram", Unigram)):
        (handed,) = budgeted.learned_codec(name, tmp_path, given)
        codec = config.load(budgeted.file(name), (*given, handed)).model.codec
        assert type(codec) is kind
        own = config.load(budgeted.file(name)).model.codec
        words = b"Jeder hat das Recht auf Freiheit"
        assert len(codec.encode(words).token) < 0.8 * len(own.encode(words).token)
        assert budgeted.learned_codec(name, tmp_path, given) == (handed,)
    assert budgeted.learned_codec(NAME, tmp_path, given) == ()
