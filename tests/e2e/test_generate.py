"""python -m hlm.generate and benchmarks/generate_speed.py on a checkpoint with random
parameters.
"""

import json
import runpy
import sys

import pytest

import hlm
from hlm import generate
from tests.e2e.test_eval import TEXTS, save
from tests.laws.subjects import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("generate")
    (root / "test.txt").write_text("\n".join(TEXTS))
    save(root / "words", root / "test.txt", hierarchical=True)
    save(root / "fills", root / "test.txt", hierarchical=False)
    return root / "words"


def test_text_appears_in_the_terminal(run, capsys):
    options = ["--prompt", "Call me ", "--max-bytes", "12", "--temperature", "1", "--seed", "4"]
    generate.main([str(run), *options])
    out, err = capsys.readouterr()
    (made,) = hlm.load(str(run)).generate("Call me ", 12, temperature=1.0, seed=4)
    assert out == "Call me " + made.decode(errors="replace") + "\n"
    assert f"{len(made)} bytes in" in err
    generate.main([str(run), *options, "--color"])
    assert "Call |me |" in capsys.readouterr().out


def test_a_gap_is_filled_in_the_terminal(run, capsys):
    fills = run.parent / "fills"
    generate.main(
        [
            str(fills),
            "--prompt",
            "Call ",
            "--suffix",
            " Ishmael",
            "--max-bytes",
            "12",
            "--temperature",
            "0",
            "--color",
        ]
    )
    (made,) = hlm.load(str(fills)).generate(hlm.Infill("Call ", " Ishmael"), 12)
    shown = "Call " + made.decode(errors="replace") + " Ishmael\n"
    assert capsys.readouterr().out.startswith(shown)
    with pytest.raises(SystemExit, match="a Gap, but the model was not made to fill any"):
        generate.main([str(run), "--prompt", "Call ", "--suffix", " Ishmael"])


def test_mistakes_are_told(run):
    with pytest.raises(SystemExit, match="the context is full"):
        generate.main([str(run), "--max-bytes", "500", "--temperature", "1"])
    with pytest.raises(SystemExit, match=r"top_p: 2\.0 must be at most 1"):
        generate.main([str(run), "--top-p", "2"])


def test_the_benchmark_compares_ways(run, monkeypatch, capsys):
    out = run / "speed.json"
    arguments = [
        str(run),
        "--rows",
        "1",
        "2",
        "--prompt",
        "15",
        "--bytes",
        "8",
        "--rounds",
        "1",
        "--json",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["generate_speed.py", *arguments])
    runpy.run_path(str(ROOT / "benchmarks/generate_speed.py"), run_name="__main__")
    lines = json.loads(out.read_text())
    assert [(line["rows"], line["way"]) for line in lines] == [
        (n, way)
        for n in (1, 2)
        for way in ("whole row for each byte", "caches, together", "caches")
    ]
    assert all(line["bytes_per_s"] > 0 for line in lines)
    assert "bytes/backbone" in capsys.readouterr().out
