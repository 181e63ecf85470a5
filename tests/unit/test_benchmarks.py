"""The benchmarks' own arithmetic, and that what fails in one section leaves the others."""

import functools
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.laws.subjects import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_sections  # type: ignore
import scaling  # type: ignore
import score_speed  # type: ignore
from sized import FAMILIES, near_chunks_only, sized  # type: ignore

import gpu  # type: ignore

TRAINED = {
    "model": "hat:1b",
    "seconds": 0.5,
    "peak_gib": 9.0,
    "bytes_per_second": 200_000,
    "rows": 2,
    "length": 16384,
    "compile_seconds": 30,
    "loss": 5.0,
}
COST = {"model": "hat:1b", "flops_per_byte": 2e9, "parameters": 1_100_000_000}
PRINT = "import json; print('RESULT ' + json.dumps({}))"


def test_one_section_fails_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    """One prints results, one dies behind its first, one hangs; all that was found is reported."""
    programs = {
        "reference": PRINT.format(COST),
        "check": PRINT.format({"device": "NVIDIA H100 80GB HBM3", "platform": "gpu"}),
        "train hat:1b": PRINT.format(TRAINED),
        "generate": PRINT.format({"model": "hat", "rows": 8, "bytes_per_second": 9, "peak_gib": 1})
        + "; raise MemoryError('no room\\nat all')",
        "real hat": "import time; print('STAGE waiting', flush=True); time.sleep(100)",
    }

    def section(name, limit, args, **environment):
        command = [sys.executable, "-c", programs[name]]
        return gpu.Section(command, 1.5 if name == "real hat" else 60, args.out / name[:4])

    monkeypatch.setattr(gpu, "section", section)
    gpu.main([str(tmp_path), "--only", *[name for name in programs if name != "reference"]])
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert {name: bool(s["failed"]) for name, s in found.items()} == {
        "check": False,
        "train hat:1b": False,
        "generate": True,
        "real hat": True,
        "reference": False,
    }
    assert found["generate"]["failed"].startswith("exit status 1: ")
    assert len(found["generate"]["results"]) == 1
    assert found["real hat"]["failed"] == "more than 2 s, while waiting"
    text = (tmp_path / "gpu.md").read_text()
    # 2e9 FLOPs for each of 200,000 bytes a second, of 989e12
    assert "| hat:1b | 1,100.0 | 2 x 16384 | 200,000 |  | 400 | 40.4% | 9.0 | 5.00 | 30 |" in text
    assert "- real hat: more than 2 s" in text
    assert text in capsys.readouterr().out


def test_what_has_no_time_left_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "section", lambda name, limit, args, **_: no_section(args.out))
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    gpu.main([str(tmp_path), "--minutes", "0.1"])
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert found.keys() == {*gpu.LIMITS, "reference"}
    for name in gpu.LIMITS:
        why = "torch is not installed" if name == "pytorch" else "s were left"
        assert why in found[name]["failed"]


def test_who_is_told_to_stop_writes_what_there_is_and_leaves_nothing_running(tmp_path):
    """Sections are in sessions of their own, so nobody else would end them."""
    late = """
import pathlib, time
while not pathlib.Path("generate.out").exists():  # so that no earlier section ends behind it
    time.sleep(0.02)
"""
    stages = {"reference": late + PRINT.format(COST), "train hat:1b": PRINT.format(TRAINED)}
    stages["generate"] = """
import os, pathlib, time
while "RESULT" not in pathlib.Path("reference.out").read_text():
    time.sleep(0.02)
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(100)
"""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import gpu
def section(name, limit, args, **environment):
    code = {stages!r}[name]
    return gpu.Section([sys.executable, "-c", code], 60, args.out / name.split(":")[0])
gpu.section = section
gpu.main([".", "--only", "train hat:1b", "generate"])
"""
    told = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    for _ in range(600):
        if (tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text()):
            break
        time.sleep(0.05)
    told.terminate()
    assert told.wait(20) == 1
    assert not pathlib.Path(f"/proc/{pid}").exists()
    assert "| 200,000 |" in (tmp_path / "gpu.md").read_text()
    assert "1,100.0" in (tmp_path / "gpu.md").read_text()  # what the CPU had said until then


def test_a_loss_that_is_no_number_is_a_failure(tmp_path):
    result = PRINT.format(TRAINED).replace("5.0}", "float('nan')}")
    section = gpu.Section([sys.executable, "-c", result], 60, tmp_path / "nan")
    assert section.end()["failed"] == "the loss is nan"


def test_figures_of_small_sizes_stand_beside_nothing(tmp_path):
    section = {"results": [TRAINED | {"model": "flat:1b"}], "failed": "", "seconds": 1}
    for small in (True, False):
        report = gpu.Report(tmp_path, small, {"train flat:1b": section})
        assert ("47,000" in report.markdown()) != small
        assert ("Sizes are small" in report.markdown()) == small


def no_section(folder):
    return gpu.Section([sys.executable, "-c", "pass"], 60, folder / "none")


def test_answers_of_a_device_are_compared_with_the_cpu(tmp_path):
    exact = {"hat/float32/loss": np.array(5.0), "hat/float32/gradient": np.arange(9.0)}
    half = {"hat/bfloat16/loss": np.array(5.01), "hat/bfloat16/gradient": np.arange(9.0) + 0.1}
    np.savez(tmp_path / "reference.npz", **exact, **half)
    for change, equal in ((0.0, True), (0.01, False), (np.nan, False)):
        other = exact | {"hat/float32/gradient": np.arange(9.0) * (1 + change)}
        np.savez(tmp_path / "device.npz", **other, **half)
        first, second = gpu.differences(tmp_path)
        assert (first["dtype"], first["equal"]) == ("bfloat16", True)
        assert (second["dtype"], second["equal"]) == ("float32", equal)


def test_sections_and_their_limits_are_the_same():
    assert gpu_sections.SECTIONS.keys() == {*gpu.LIMITS, "reference"}
    assert sum(least for _, least in gpu.LIMITS.values()) < 60 * 7.7


def test_a_small_model_trains_as_a_section(tmp_path, capsys):
    """As on a GPU, at sizes for a CPU."""
    gpu_sections.run("train flat:1b", gpu_sections.Sizes(small=True, seconds=1), tmp_path)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    assert result.keys() >= TRAINED.keys()
    assert 0 < result["loss"] < 10
    assert result["bytes_per_second"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_any_size(family):
    exp = sized(family, width=128, depth=3, length=512, rows=4, dtype="bfloat16")
    assert (exp.rows, exp.data.length, exp.model.dtype) == (4, 512, "bfloat16")
    trunk = exp.model.trunk
    if family == "flat":
        assert (trunk.depth, exp.model.embed.width) == (3, 128)
    else:
        assert (trunk.backbone.depth, exp.model.embed.width) == (3, 64)
        assert sized(family, 128, 3, 512, 4, chunks=77).model.trunk.capacity == 77
        near = near_chunks_only(exp, 16).model.trunk
        assert near.backbone.block.mixer.window == 16
        assert near.encoder == trunk.encoder
    with pytest.raises(ValueError, match="family: 'other'"):
        sized("other", 64, 1, 128, 1)


def test_exponents_are_slopes():
    points = [{"size": 2.0**i, "seconds": 3 * 2.0 ** (1.5 * i)} for i in range(1, 6)]
    points[0]["seconds"] = 100.0  # what a call costs by itself
    assert scaling.exponents(points, "seconds") == pytest.approx((1.5, 1.5))
    assert scaling.exponents(points[:2], "seconds") is None


def test_curves_are_shown_and_drawn(tmp_path, capsys):
    points = [{"size": 2**i, "seconds": 2.0**i, "mebibytes": 4.0**i} for i in range(10, 14)]
    found = {
        f"{model}/{what}/{axis}": {"points": points, "stopped": "" if model == "hat" else "late"}
        for model, what, axis in (("hat", "train", "length"), ("flat", "score", "width"))
    }
    (tmp_path / "found.json").write_text(json.dumps(found))
    arguments = [str(tmp_path / "found.json"), "--report", "--picture", str(tmp_path / "a.png")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scaling.py", *arguments])
        scaling.main()
    printed = capsys.readouterr().out
    assert "1,024 to 8,192" in printed
    assert "flat/score/width: late" in printed
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_curve_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(scaling, "__file__", str(ROOT / "missing.py"))
    points, why = scaling.measured(scaling.Curve("hat", "train", "length"), [1024], 60)
    assert points == []
    assert "missing.py" in why


def test_all_kinds_of_text_are_the_same_text():
    text = bytes(range(256)) * 40
    kinds = score_speed.kinds(text)
    assert all(b"".join(texts) == text for texts in kinds.values())
    assert [len(kinds[kind]) for kind in score_speed.KINDS] == [103, 21, len(kinds["mixed"]), 1]


def test_a_share_is_a_median_of_pairs():
    turn = functools.partial(score_speed.Turn, 1000)
    pairs = [("mixed", turn(1.0, 2.0), turn(wall, 4.0)) for wall in (2.0, 1.25, 100.0)]
    case = score_speed.Case(None, {}, [], 1000, [*pairs, ("other", turn(1.0, 1.0), turn(9.0, 9.0))])
    assert case.share("mixed", "wall") == pytest.approx(0.5)
    assert case.share("mixed", "processor") == pytest.approx(0.5)
