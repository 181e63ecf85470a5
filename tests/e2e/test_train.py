"""The whole of train.py as a process: interrupted, damaged, diverging, mistyped."""

import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest

import hlm
from hlm import config
from hlm.data import pipeline
from tests.e2e.runs import CONFIG, STEPS, finish, last_step, metrics, overrides, start, wait_for
from tests.laws.subjects import ROOT, budget, corpus


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(start(folder / "run", overrides(folder)))
    return folder / "run"


def bits(run: pathlib.Path):
    return jax.tree.map(lambda a: np.asarray(a).tobytes(), hlm.load(str(run)).params)


def test_interrupted_run_is_the_uninterrupted_one(uninterrupted, tmp_path):
    """Killed behind a checkpoint, then asked to stop, then left alone: every loss and parameter is the same to the last bit."""
    run, settings = tmp_path / "run", overrides(tmp_path)
    process = start(run, settings)
    wait_for(process, lambda: (run / "checkpoints" / "20").exists() and last_step(run) > 21)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 21 < last_step(run) < STEPS

    process = start(run, settings)
    wait_for(process, lambda: last_step(run) > 25 and not (run / "checkpoints" / "40").exists())
    process.send_signal(signal.SIGTERM)
    printed = finish(process, expected=1)
    stopped = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())
    assert 25 <= stopped < STEPS
    assert f"stopped at step {stopped}, saved; start the same command again to continue" in " ".join(printed.split())
    assert last_step(run) == stopped

    finish(start(run, settings))
    assert metrics(run) == metrics(uninterrupted)
    assert [line["step"] for line in metrics(run) if line["kind"] == "train"] == list(range(1, STEPS + 1))
    assert bits(run) == bits(uninterrupted)
    assert (run / "loss.png").stat().st_size > 1000
    # Once more: there is nothing left to do, and nothing changes.
    finish(start(run, settings))
    assert metrics(run) == metrics(uninterrupted)


def test_training_helps(uninterrupted):
    lines = metrics(uninterrupted)
    assert lines[0]["bits_per_byte"] > 6
    assert lines[-1]["kind"] == "valid"
    assert lines[-1]["bits_per_byte"] < 5


def test_damaged_checkpoint_gives_way_to_an_older_one(uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for path in (run / "checkpoints" / str(STEPS) / "params").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=rf"checkpoint .*/{STEPS} cannot be read, trying an older one"):
        assert hlm.load(str(run)).step == STEPS - 20
    with pytest.raises(ValueError, match="can be read"), pytest.warns(UserWarning, match="cannot be read"):
        hlm.load(str(run), step=STEPS)


def test_loaded_model_works(uninterrupted):
    lm = hlm.load(str(uninterrupted))
    assert lm.step == STEPS
    assert hlm.load(str(uninterrupted), step=STEPS - 20).step == STEPS - 20
    text = corpus()[6000:7000]
    (score,) = lm.score(text)
    assert score.bits_per_byte == pytest.approx(metrics(uninterrupted)[-1]["bits_per_byte"], rel=1e-5)
    assert b"".join(lm.chunks(text)) == text
    assert len(lm.embed(text)[0]) > 100
    prompts = ["", "It is a ", "Häuser".encode()[:2], corpus()[:40]]
    made = lm.generate(prompts, max_bytes=8)
    assert made == lm.generate(prompts, max_bytes=8)
    assert all(len(m) <= 8 for m in made)
    assert lm.generate("It", 8, temperature=1.0, seed=1) != lm.generate("It", 8, temperature=1.0, seed=2)


def test_load_errors(uninterrupted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoints in .*: give the --workdir of a training run"):
        hlm.load(str(tmp_path))
    with pytest.raises(ValueError, match=rf"step: .* has no checkpoint of step 7; it has \[{STEPS - 20}, {STEPS}\]"):
        hlm.load(str(uninterrupted), step=7)


@pytest.mark.parametrize("steps", [6, 2], ids=["while training", "at the last step"])
def test_divergence_stops_and_keeps_the_batch(steps, tmp_path):
    """The first update makes the parameters huge; the loss of the step after it is not a number."""
    settings = overrides(tmp_path, steps=steps, **{"optim.peak": 1e30, "optim.warmup": 0})
    printed = " ".join(finish(start(tmp_path / "run", settings), expected=1).split())
    assert "the loss of step 1 is nan" in printed
    kept = np.load(tmp_path / "run" / "bad_batch_0.npz")
    exp = config.load(str(ROOT / CONFIG), settings)
    data = pipeline.batches(exp.data, exp.model.codec, budget(exp), exp.rows, exp.seed)
    wanted = [next(data) for _ in range(2)][1]
    data.close()
    assert {name: kept[name].tobytes() for name in kept} == {name: a.tobytes() for name, a in wanted.items()}
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.peek=1", "optim.peek: AdamW has no field 'peek'; it has peak, warmup"),
        ("rows=two", "rows: 'two' is not int"),
        ("model.trunk.backbone.block.mixer.heads=5", "heads: 5 does not divide the width 256"),
        ("optim.multipliers={'trunk/back': 0.5}", "optim.multipliers: no parameter path starts with trunk/back"),
        ("mesh.data=3", "mesh: 1 x 3 x 1 devices (replica x data x model) but there are 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_compiled(setting, message, tmp_path, monkeypatch):
    """In this process, so that the time of starting one does not count: compiling is forbidden."""
    import train

    def forbidden(*_):
        raise AssertionError("compiled")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("jax._src.compiler.backend_compile_and_load", forbidden)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    with pytest.raises(ValueError, match=re.escape(message)):
        train.main([CONFIG, "--workdir", str(tmp_path / "run"), *overrides(tmp_path), setting])
    assert not (tmp_path / "run").exists()


def test_a_mistake_ends_the_process(tmp_path):
    printed = finish(start(tmp_path / "run", ["optim.peek=1"]), expected=1)
    assert "optim.peek: AdamW has no field 'peek'" in printed
