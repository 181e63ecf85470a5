"""Spikes are found by medians of the last steps and leave nothing behind; averages of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import EMA, Rewind, Skip, SpikeGuard, config
from hlm.metrics import Mean
from hlm.seq import Batch
from hlm.train import log
from hlm.train.rewind import Spiked, Spikes
from tests.laws.subjects import ROOT
from tests.unit.test_log import values

INF, NAN = float("inf"), float("nan")


def judged(guard, norms, losses):
    seen, found = guard.init(), []
    run = jax.jit(guard.judge)
    for step, pair in enumerate(zip(norms, losses, strict=True)):
        spike, seen = run(seen, jnp.int32(step), *(jnp.float32(x) for x in pair))
        found.append(bool(spike))
    return found


def expected(guard, norms, losses):
    """The rule, in numpy."""
    found = []
    for step in range(len(norms)):
        spike = False
        for row, factor in ((norms, guard.norm), (losses, guard.loss)):
            last = [x if np.isfinite(x) else INF for x in row[max(step - guard.window, 0) : step]]
            usual = np.median(last + [INF] * (guard.window - len(last)))
            spike |= not np.isfinite(row[step]) or row[step] > factor * usual
        found.append(bool(spike))
    return found


@pytest.mark.parametrize("window", [1, 4, 7])
def test_the_rule(window):
    rng = np.random.default_rng(window)
    norms, losses = np.exp(rng.normal(0, 1, (2, 60))).astype(np.float32)
    norms[[9, 30, 31]] = NAN, INF, 1e30
    losses[[12, 40]] = NAN, INF
    guard = SpikeGuard(2.0, 1.5, window)
    found = judged(guard, norms, losses)
    assert found == expected(guard, norms, losses)
    assert 5 < sum(found) < 50


def test_what_becomes_usual_is_no_spike_for_ever():
    found = judged(SpikeGuard(3.0, 3.0, 8), [1.0] * 10 + [100.0] * 20, [1.0] * 30)
    assert found == [False] * 10 + [True] * 4 + [False] * 16
    assert judged(SpikeGuard(3.0, 3.0, 8), [50.0, 1.0, 90.0, 1.0], [1.0] * 4) == [False] * 4


def test_a_spike_leaves_nothing_but_counts():
    old = {"w": jnp.ones(3), "count": jnp.int32(4)}, (jnp.zeros(2),)
    new = {"w": jnp.full(3, NAN), "count": jnp.int32(5)}, (jnp.ones(2),)
    guard = SpikeGuard(window=1)
    seen = jnp.ones(1), jnp.ones(1)
    for norm, spike in ((99.0, True), (NAN, True), (1.0, False)):
        args = jnp.int32(7), jnp.float32(norm), jnp.float32(1.0), old, new
        kept, after, metrics = guard.apply(seen, *args)
        wanted = old if spike else new
        np.testing.assert_array_equal(kept[0]["w"], wanted[0]["w"])
        np.testing.assert_array_equal(kept[1][0], wanted[1][0])
        assert int(kept[0]["count"]) == 5
        assert metrics["spikes"].value() == spike
        assert float(after[0][0]) == (norm if np.isfinite(norm) else INF)


def test_average():
    rng = np.random.default_rng(0)
    params = [{"w": rng.normal(size=4).astype(np.float32)} for _ in range(40)]
    ema = EMA(0.9)
    average, wanted = ema.init(params[0]), params[0]["w"].astype(np.float64)
    for step, now in enumerate(params):
        average = ema.update(average, now, jnp.int32(step))
        keep = min(0.9, (step + 1) / (step + 10))
        wanted = keep * wanted + (1 - keep) * now["w"]
    np.testing.assert_allclose(average["w"], wanted, rtol=1e-5)
    assert ema.init(params[0])["w"] is not params[0]["w"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpikeGuard(norm=0.5), r"SpikeGuard.norm: 0.5 must be at least 1"),
        (lambda: SpikeGuard(window=0), r"SpikeGuard.window: 0 must be at least 1"),
        (lambda: SpikeGuard(then="skip"), r"SpikeGuard.then: 'skip'; give Skip\(\) or Rewind\(\)"),
        (lambda: Rewind(0), r"Rewind.most: 0 must be at least 1"),
        (lambda: EMA(1.0), r"EMA.decay: 1.0 must lie between 0 and 1"),
        (lambda: load("guard=EMA(0.9)"), "guard: .*EMA"),
        (lambda: load("average=SpikeGuard()"), "average: .*SpikeGuard"),
    ],
)
def test_what_cannot_be_meant(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def load(*overrides):
    return config.load(str(ROOT / "configs/hat.py:tiny"), overrides)


def test_on_the_command_line():
    exp = load("guard=SpikeGuard(norm=4, then=Rewind(2))", "average=EMA(0.99)", "guard.window=9")
    assert exp.guard == SpikeGuard(4.0, 2.0, 9, Rewind(2))
    assert exp.average == EMA(0.99)


# --- what the run does about it


class Saved:
    def __init__(self, *steps):
        self.steps = list(steps)


def test_back_so_often_from_one_checkpoint(capsys):
    saved = Saved()
    spikes = Spikes(SpikeGuard(then=Rewind(2)), saved, True)
    spikes.heard(3, 9.0, 1.0)  # there is no checkpoint yet
    saved.steps = [8, 4]
    for _ in range(2):
        with pytest.raises(Spiked) as error:
            spikes.heard(8, 9.0, 1.0)  # 8 may have caused it
        spikes.went_back(error.value.step, spikes.checkpoint(8))
    spikes.heard(8, 9.0, 1.0)
    with pytest.raises(Spiked):
        spikes.heard(9, 9.0, 1.0)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "step 3 is left out: gradient norm 9, loss 1",
        *["step 8 was a spike: back to checkpoint 4, with the text behind that step"] * 2,
        "step 8 is left out: gradient norm 9, loss 1",
    ]
    Spikes(SpikeGuard(then=Skip()), saved, False).heard(9, 9.0, 1.0)


def test_a_loss_that_is_no_number(tmp_path):
    """One step's, left out, is not counted; of two in a row the second ends the run."""
    journal = log.Log(
        str(tmp_path), 9, 0, 3, "bits_per_byte", "byte_accuracy", None, lambda *_: None
    )
    one = jnp.ones(())

    def push(step, loss, spike):
        told = {"spikes": Mean(jnp.float32(spike), one), "grad_norm": Mean(one, one)}
        made = {"loss": Mean(jnp.float32(loss), one), "bits_per_byte": Mean(one, one)}
        journal.push(step, values(step) | told | made, Batch(*[None] * 7))

    for step, (loss, spike) in enumerate([(2.0, 0), (NAN, 1), (4.0, 0), (NAN, 1), (NAN, 1)]):
        push(step, loss, spike)
    with pytest.raises(log.NonFinite, match="the loss of step 4 is nan"):
        journal.flush()
    journal.close()
    line = journal.metrics.records()[0]
    assert line["loss"] == 3.0
    assert line["spikes"] == pytest.approx(1 / 3)
