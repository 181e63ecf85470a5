"""Two processes of train.py on this machine, talking by gloo, are one run on both their shares of
the data.
"""

import json
import shutil
import socket
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hlm
from hlm import config, sharding
from hlm.data import pipeline
from hlm.seq import Batch
from hlm.train import step
from tests.e2e.runs import CONFIG, command, environment, metrics, overrides
from tests.laws.subjects import ROOT, budget

STEPS = 10
CLOSE = 1e-4


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(workdir, settings) -> list[str]:
    """What both processes print.

    They find each other as under Slurm, which jax.distributed knows by its variables.
    """
    port = free_port()
    processes = [
        subprocess.Popen(
            command(workdir, settings, "--distributed"),
            cwd=ROOT,
            env=environment(
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
                SLURM_JOB_ID="1",
                SLURM_STEP_NODELIST="localhost",
                SLURM_NTASKS="2",
                SLURM_STEP_NUM_NODES="1",
                SLURM_PROCID=str(i),
                SLURM_LOCALID=str(i),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        out = [p.communicate(timeout=900)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(text[-4000:] for text in out)
    return out


def alone(settings, count=2):
    """(losses of steps, parameters, (spike, checkpoint) of each time that it went back) of the same
    run in this process: its shares, one below the other, on a mesh of two devices.
    """
    exp = config.load(str(ROOT / CONFIG), settings)
    mesh = exp.mesh.make(jax.devices()[:2])
    _, shardings, make_state = step.init_state(exp, mesh)
    rows = exp.rows // count
    shares = [
        pipeline.batches(exp.data, exp.model.codec, budget(exp), rows, exp.seed, i, count)
        for i in range(count)
    ]
    run, state, losses = step.compiled_train_step(exp, mesh, shardings), make_state(), {}
    saved, back, n = {}, [], 0
    while n < exp.steps:
        if n and n % exp.every.save == 0:
            saved[n] = jax.tree.map(jnp.copy, state)
        read = [next(share) for share in shares]
        assert len({share["token"].tobytes() for share in read}) == count
        batch = Batch(**{name: np.concatenate([share[name] for share in read]) for name in read[0]})
        with jax.set_mesh(mesh):
            state, m = run(state, sharding.put(batch, mesh))
        losses[n] = m["loss"].value()
        n += 1
        if exp.guard is not None and m["spikes"].value():
            back.append((n - 1, max(step for step in saved if step < n - 1)))
            n = back[-1][1]
            state = jax.tree.map(jnp.copy, saved[n])
            for share in shares:  # a spike is known when the next text has been read
                next(share)
    for share in shares:
        share.close()
    return [losses[step] for step in range(exp.steps)], state.params, back


def damage(file, how):
    content = file.read_bytes()
    file.write_bytes(
        content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]
        if how == "flipped"
        else content[: len(content) // 2]
    )


def bits(run):
    return jax.tree.map(lambda a: np.asarray(a).tobytes(), hlm.load(str(run)).params)


def four_steps(folder):
    changes = {"every.save": 2, "optim.warmup": 1, "optim.eps": 1e-5, "mesh.model": 2}
    return overrides(folder, rows=4, steps=4, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two processes with checkpoints 2 and 4, each with half of the weights."""
    folder = tmp_path_factory.mktemp("trained")
    together(folder / "run", four_steps(folder))
    return folder


def test_two_with_half_of_the_weights_each_read_the_same_rows(trained):
    """All rows of the batch, as one process with both devices does; bytes count once."""
    losses, params, _ = alone(four_steps(trained), count=1)
    lines = metrics(trained / "run")
    found = [line["loss"] for line in lines if line["kind"] == "train"]
    np.testing.assert_allclose(found, losses, rtol=CLOSE)
    lm = hlm.load(str(trained / "run"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=CLOSE), lm.params, params)
    nbytes = sum(line["bytes_per_row"] * 4 for line in lines if line["kind"] == "train")
    (read,) = (line["bytes_read/source"] for line in lines if line["kind"] == "valid")
    assert read == pytest.approx(nbytes)


@pytest.mark.parametrize(
    ("part", "how"),
    [("data/process_1-of-2.json", "truncated"), ("params/ocdbt.process_1/d/*", "flipped")],
)
def test_both_take_a_checkpoint_that_both_can_read(part, how, trained, tmp_path):
    """What one process reads of the newest is damaged: none takes it, and the run ends as if
    nothing had been.
    """
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    for file in (run / "checkpoints" / "4").glob(part):
        damage(file, how)
    out = together(run, four_steps(trained))
    assert all(
        "checkpoints/4 cannot be read, trying an older one" in " ".join(text.split())
        for text in out
    )
    assert (run / "checkpoints" / "damaged-4").is_dir()
    assert metrics(run) == metrics(trained / "run")
    assert bits(run) == bits(trained / "run")


def wild_in_places(folder):
    """Text in order of which one process has a wild line, then the other."""
    calm = b"the whale and the sea " * 14, b"a ship is on the water " * 14
    lines = [[text[:299]] * 12 for text in calm]  # of each process, a record each
    wild = np.random.default_rng(0)
    for process, line in ((1, 2), (0, 3)):
        lines[process][line] = wild.integers(33, 127, 299, np.uint8).tobytes()
    text = b"\n".join(line for pair in zip(*lines, strict=True) for line in pair)
    (folder / "text.txt").write_bytes(text)


def test_two_processes_are_one_run(tmp_path):
    """That goes back before spikes, too: both to the same checkpoint, and on with the same text."""
    settings = overrides(
        tmp_path,
        rows=4,
        steps=STEPS,
        **{"data.shuffle": False, "every.save": 2, "optim.warmup": 1, "optim.eps": 1e-5},
        guard="SpikeGuard(norm=1000, loss=3, window=4, then=Rewind(3))",
    )
    wild_in_places(tmp_path)
    losses, params, back = alone(settings)
    assert {spike % 2 for spike, _ in back} == {0, 1}  # heard by a save, and by the next step
    out = together(tmp_path / "run", settings)
    began = json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]
    assert [tuple(went) for went in began["rewound"]] == back
    assert [text.count("was a spike: back to checkpoint") for text in out] == [len(back), 0]
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    np.testing.assert_allclose([line["loss"] for line in lines], losses, rtol=CLOSE)
    lm = hlm.load(str(tmp_path / "run"))
    assert lm.step == STEPS
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=CLOSE), lm.params, params)
    # Evaluated by both together, and the number is that of the saved model alone.
    exp = config.load(str(ROOT / CONFIG), settings)
    scores = lm.score([text for _, text in pipeline.documents(exp.valid)])
    (valid,) = (line for line in metrics(tmp_path / "run") if line["kind"] == "valid")
    expected = sum(s.nats for s in scores) / sum(s.nbytes for s in scores) / np.log(2)
    np.testing.assert_allclose(valid["bits_per_byte"], expected, rtol=CLOSE)
    # Started again, both find the last checkpoint and have nothing to do.
    together(tmp_path / "run", settings)
    assert len([line for line in metrics(tmp_path / "run") if line["kind"] == "train"]) == STEPS
