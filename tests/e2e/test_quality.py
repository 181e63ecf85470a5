"""benchmarks/quality.py on a budget of three steps."""

import json
import pathlib
import subprocess
import sys

import pytest

from hlm import config, flops
from tests.e2e.runs import ROOT, environment

sys.path.insert(0, str(ROOT / "benchmarks"))
import quality  # type: ignore
from quality import folder, made, plan  # type: ignore

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
    found = json.loads((tmp_path / "results.json").read_text())["models"]["flat-tiny"]
    assert found["steps"] == 3
    assert 0.8 < found["spent"] / BUDGET < 1.2
    assert found["perplexity"]["bytes"] == len(
        (ROOT / "hlm/data/corpus/mobydick/test.txt").read_bytes()
    )
    assert (
        f"| flat-tiny | 0.92 | 7.28 | 3 | 0.00 | {found['spent'] / BUDGET:.0%} | - |"
        in (tmp_path / "results.md").read_text()
    )
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")

    log = folder(tmp_path, NAME) / "train.log"
    before = log.read_text()
    (tmp_path / "results.md").unlink()
    monkeypatch.setattr(sys, "argv", ["quality.py", str(tmp_path), *options])
    quality.main()
    assert log.read_text() == before
    assert "flat-tiny" in (tmp_path / "results.md").read_text()
    monkeypatch.setattr(
        sys, "argv", ["quality.py", str(tmp_path), "--only", NAME, "--flops", "1e10"]
    )
    with pytest.raises(SystemExit, match="2"):
        quality.main()
    assert "has runs of 2.2e+10 FLOPs" in capsys.readouterr().err


def test_steps_and_schedule_follow_from_the_budget():
    planned = plan("hat:tiny", 1e12)
    exp = config.load(quality.file("hat:tiny"), planned.overrides)
    assert planned.cost["training"] * planned.cost["bytes_per_step"] * exp.steps == pytest.approx(
        1e12, rel=0.01
    )
    assert exp.optim.warmup / exp.steps == pytest.approx(100 / 1700, rel=0.1)
    assert exp.rows * planned.held.nbytes == pytest.approx(quality.STEP, rel=0.1)
    bpe = plan("bpe:tiny", 1e12)
    assert bpe.cost["bytes_per_step"] == pytest.approx(quality.STEP, rel=0.5)
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
