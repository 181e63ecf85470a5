"""python -m hlm.generate and benchmarks/generate_speed.py on a checkpoint with random
parameters.
"""

import io
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
    assert f"\nCall me {made.decode(errors='replace')[:2]}" in (out := capsys.readouterr().out)
    assert "\n────┘──┘" in out  # "Call " is longer by one


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
    with pytest.raises(SystemExit, match="an Infill, but the model was not made to fill any"):
        generate.main([str(run), "--prompt", "Call ", "--suffix", " Ishmael"])


def test_the_reason_of_its_end_is_told(run, capsys):
    for options, reason in (
        (["--max-bytes", "500"], "the context is full"),
        (["--max-bytes", "3"], "the most bytes are reached"),
    ):
        generate.main([str(run), *options, "--temperature", "1"])
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-p", "2"], r"top_p: 2\.0 must be at most 1"),
        (["--temperature", "nan"], "temperature: nan must be finite"),
        (["--max-bytes", "-5"], "max_bytes: -5 must be a whole number of at least 0"),
        (["--seed", str(2**40)], r"seed: \d+ must be at most 4294967295; "),
        (["--top-k", "0"], "top_k: 0 must be a whole number of at least 1, or None"),
        (["--stop", ""], "stop: an empty text stops nothing"),
    ],
)
def test_mistakes_are_told(run, capsys, options, message):
    with pytest.raises(SystemExit, match=message) as raised:
        generate.main([str(run), "--prompt", "shown", *options])
    assert "\n" not in str(raised.value)
    assert not capsys.readouterr().out


def test_a_run_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SystemExit, match=r"no checkpoints in .*none"):
        generate.main([str(tmp_path / "none")])


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_an_open_character_is_shown_once(run, monkeypatch, capsys, cut):
    """What is made may close it or break it, as in the bytes of `generate`."""
    prompt = b"A " + "🐋".encode()[:cut]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(prompt)))
    options = ["--max-bytes", "9", "--temperature", "1", "--seed", "4"]
    generate.main([str(run), "--prompt", "-", *options])
    (made,) = hlm.load(str(run)).generate(prompt, 9, temperature=1.0, seed=4)
    assert capsys.readouterr().out == (prompt + made).decode(errors="replace") + "\n"


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
    assert [line["of_limit"] is not None for line in lines] == [False, False, True] * 2
    assert all(line["of_limit"] > 0 for line in lines[2::3])
    assert "bytes/backbone" in capsys.readouterr().out
