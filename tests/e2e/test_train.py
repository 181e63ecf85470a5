"""The whole of train.py as a process: interrupted, damaged, diverging, mistyped."""

import json
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
    """Killed behind a checkpoint, then asked to stop, then left alone: every loss and parameter is
    the same to the last bit.
    """
    run, settings = tmp_path / "run", overrides(tmp_path)
    process = start(run, settings)
    wait_for(process, lambda: (run / "checkpoints" / "20").exists() and last_step(run) > 21)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = last_step(run)
    assert 21 < killed < STEPS

    process = start(run, settings)
    wait_for(process, lambda: last_step(run) > max(25, killed))  # so it is the second's step
    process.send_signal(signal.SIGTERM)
    printed = finish(process, expected=1)
    stopped = max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())
    assert 25 <= stopped < STEPS
    assert (
        f"stopped at step {stopped}, saved; start the same command again to continue"
        in " ".join(printed.split())
    )
    assert last_step(run) == stopped

    finish(start(run, settings))
    assert metrics(run) == metrics(uninterrupted)
    newest = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])
    assert all(newest["seconds"][kind] > 0 for kind in ("steps", "again", "away", "saving"))
    assert 0 < newest["goodput"] < 1
    assert [line["step"] for line in metrics(run) if line["kind"] == "train"] == list(
        range(1, STEPS + 1)
    )
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
    with pytest.warns(
        UserWarning, match=rf"checkpoint .*/{STEPS} cannot be read, trying an older one"
    ):
        assert hlm.load(str(run)).step == STEPS - 20
    with (
        pytest.raises(ValueError, match="can be read"),
        pytest.warns(UserWarning, match="cannot be read"),
    ):
        hlm.load(str(run), step=STEPS)


def test_loaded_model_works(uninterrupted):
    lm = hlm.load(str(uninterrupted))
    assert lm.step == STEPS
    assert hlm.load(str(uninterrupted), step=STEPS - 20).step == STEPS - 20
    text = corpus()[6000:7000]
    (score,) = lm.score(text)
    assert score.bits_per_byte == pytest.approx(
        metrics(uninterrupted)[-1]["bits_per_byte"], rel=1e-5
    )
    assert b"".join(lm.chunks(text)) == text
    assert len(lm.embed(text)[0]) > 100
    prompts = ["", "It is a ", "Häuser".encode()[:2], corpus()[:40]]
    made = lm.generate(prompts, max_bytes=8)
    assert made == lm.generate(prompts, max_bytes=8)
    assert all(len(m) <= 8 for m in made)
    assert lm.generate("It", 8, temperature=1.0, seed=1) != lm.generate(
        "It", 8, temperature=1.0, seed=2
    )


def test_load_errors(uninterrupted, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoints in .*: give the --workdir of a training run"
    ):
        hlm.load(str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"step: .* has no checkpoint of step 7; it has \[{STEPS - 20}, {STEPS}\]"
    ):
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
    assert {name: kept[name].tobytes() for name in kept} == {
        name: a.tobytes() for name, a in wanted.items()
    }
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.peek=1", "optim.peek: AdamW has no field 'peek'; it has peak, warmup"),
        ("rows=two", "rows: 'two' is not int"),
        ("model.trunk.backbone.block.mixer.heads=5", "heads: 5 does not divide the width 256"),
        (
            "optim.multipliers={'trunk/back': 0.5}",
            "optim.multipliers: no parameter path starts with trunk/back",
        ),
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


def saved_steps(run: pathlib.Path) -> list[int]:
    return sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())


def test_a_diverged_update_is_not_resumed(uninterrupted, tmp_path):
    """Finite but huge weights are saved, and the loss shows it one step later: the run goes back to
    the checkpoint before.
    """
    run, settings = tmp_path / "run", overrides(tmp_path, steps=STEPS + 4, **{"every.save": 1})
    shutil.copytree(uninterrupted, run)
    printed = " ".join(finish(start(run, [*settings, "optim.peak=1e38"]), expected=1).split())
    assert f"since step {STEPS}: optim.peak was" in printed
    assert (
        f"since step {STEPS}: steps was {STEPS} and is {STEPS + 4}: the learning rate goes on at"
        in printed
    )
    assert f"checkpoint {STEPS + 1} is diverged; it is kept as" in printed
    assert f"the loss of step {STEPS + 1} is " in printed
    assert f"the newest sound checkpoint is {STEPS}, where the same command begins again" in printed
    assert saved_steps(run)[-1] == STEPS
    finish(start(run, settings))
    assert saved_steps(run)[-1] == STEPS + 4
    assert all(np.isfinite(line["loss"]) for line in metrics(run) if line["kind"] == "train")


def test_weights_that_are_not_numbers_are_not_saved(tmp_path):
    """eps=0 divides 0 by 0 where the text has no such byte: the loss does not see it, a checkpoint
    would keep it.
    """
    settings = overrides(tmp_path, steps=4, **{"every.save": 1, "optim.eps": 0})
    printed = " ".join(finish(start(tmp_path / "run", settings), expected=1).split())
    assert "the state of step 1 is not saved: params/" in printed
    assert "there is no sound checkpoint" in printed
    assert saved_steps(tmp_path / "run") == []


def begin_here(monkeypatch, *arguments) -> None:
    """train.main in this process, on one device."""
    import train

    one = jax.devices()[:1]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jax, "devices", lambda: one)
    train.main([CONFIG, *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "no_such_run"], "no checkpoints in 'no_such_run'"),
        (["--resume", "{run}@7"], f"has no checkpoint of step 7; it has [{STEPS - 20}, {STEPS}]"),
        (
            ["--init-from", "no_such_run"],
            "--init-from no_such_run: no checkpoints in 'no_such_run'",
        ),
        (["--init-from", "{run}@7"], "has no checkpoint of step 7"),
        (
            ["--init-from", "trunk/backbones={run}"],
            "the parameters have no 'backbones'; there are ",
        ),
        (["--resume", "{run}", "--init-from", "{run}"], "--resume and --init-from: give one"),
        (
            ["--init-from", "{run}", "model.trunk.backbone.block.mixer.heads=2"],
            "the given parameters do not fit: trunk/backbone/",
        ),
        (
            ["--init-from", "trunk/decoder={run}", "model.trunk.decoder.depth=2"],
            "given for trunk/decoder do not fit: block/",
        ),
    ],
)
def test_other_runs_that_do_not_fit_are_named_at_once(
    arguments, message, uninterrupted, tmp_path, monkeypatch
):
    def forbidden(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr("jax._src.compiler.backend_compile_and_load", forbidden)
    given = [a.replace("{run}", str(uninterrupted)) for a in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as error:
        begin_here(monkeypatch, "--workdir", str(tmp_path / "run"), *overrides(tmp_path), *given)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert not (tmp_path / "run").exists()


def test_state_and_parameters_of_another_run(uninterrupted, tmp_path):
    """--resume RUN@STEP is the same run from there on; --init-from PART=RUN takes that part and no
    other.
    """
    settings = overrides(tmp_path)
    printed = finish(
        start(tmp_path / "again", settings, "--resume", f"{uninterrupted}@{STEPS - 20}")
    )
    assert f"since step {STEPS - 20}: data.source.paths was" in printed
    lines = [line for line in metrics(uninterrupted) if line["step"] > STEPS - 20]
    assert metrics(tmp_path / "again") == lines
    assert bits(tmp_path / "again") == bits(uninterrupted)

    few = overrides(tmp_path, steps=1, **{"optim.peak": 0.0})
    finish(start(tmp_path / "part", few, "--init-from", f"trunk/backbone={uninterrupted}"))
    finish(start(tmp_path / "none", few))
    part, none, whole = (bits(run) for run in (tmp_path / "part", tmp_path / "none", uninterrupted))
    assert part["trunk"]["backbone"] == whole["trunk"]["backbone"] != none["trunk"]["backbone"]
    assert part["trunk"]["decoder"] == none["trunk"]["decoder"] != whole["trunk"]["decoder"]


def test_stopped_before_the_first_step(tmp_path, monkeypatch, capsys):
    from hlm.train import log

    def log_and_stop(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return made(*arguments)

    made = log.Log
    monkeypatch.setattr(log, "Log", log_and_stop)
    handlers = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    try:
        with pytest.raises(
            SystemExit,
            match="stopped at step 0, before there was anything to save; start the same command",
        ):
            begin_here(monkeypatch, "--workdir", str(tmp_path / "run"), *overrides(tmp_path))
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert saved_steps(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["steps=30"],
            f"steps: 30, but the checkpoint is of step {STEPS}: give at least {STEPS}, or "
            "another --workdir",
        ),
        (["model.trunk.backbone.block.mixer.heads=2"], "do not fit: trunk/backbone/"),
        (["seed=3"], "seed was 0 and is 3"),
    ],
)
def test_changes_that_cannot_be_meant_are_refused(
    change, message, uninterrupted, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        begin_here(monkeypatch, "--workdir", str(run), *overrides(tmp_path), *change)
    assert "\n" not in str(error.value)
    assert saved_steps(run) == [STEPS - 20, STEPS]
