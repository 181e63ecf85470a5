"""benchmarks/scaling_laws.py: laws that are known are found, and budgets are spent."""

import dataclasses
import json
import math
import shlex
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import AdamW, config, flops
from tests.laws.subjects import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import scaling_commands  # type: ignore
import scaling_fit as fit  # type: ignore
import scaling_laws  # type: ignore
from scaling_ladder import BASES, rung, training  # type: ignore
from scaling_runs import Family, families, read  # type: ignore

BUDGETS = [4e10, 1e11, 3e11, 9e11]


@pytest.mark.parametrize("exponent", [-0.3, -0.05, 0.2])
def test_a_power_law_is_found(exponent):
    y = [2.0 * (c / 1e11) ** exponent for c in BUDGETS]
    law = fit.power(BUDGETS, y)
    assert law.exponent == pytest.approx(exponent)
    assert law(1e15) == pytest.approx(2.0 * 1e4**exponent)
    assert fit.misfit(law, BUDGETS, y) < 1e-9
    assert fit.error(law, BUDGETS, y) < 1e-9
    coefficient, _, power = law.formula().partition(" C^")
    assert float(coefficient) * 1e11 ** float(power) == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_how_sure_a_fit_is_follows_from_the_noise(seed):
    """The truth lies where the draws are, another exponent does not; more noise, wider."""
    truth = fit.Power(2e11, 2.5, -0.1)
    noise = np.random.default_rng(seed).normal(size=4)
    width = []
    for size in (0.002, 0.02):
        y = truth(np.array(BUDGETS)) + size * noise
        exponents = [law.exponent for law in fit.drawn(BUDGETS, y, size)]
        assert min(exponents) < -0.1 < max(exponents)
        width.append(np.std(exponents))
        error = fit.error(fit.power(BUDGETS, y), BUDGETS, y)
        assert 0.1 < error / width[-1] < 10
    assert width[1] == pytest.approx(10 * width[0], rel=0.1)
    exact = [law.exponent for law in fit.drawn(BUDGETS, truth(np.array(BUDGETS)), 0.002)]
    assert max(exact) < -0.09
    assert min(exact) > -0.11


def test_floors_that_points_allow():
    far = [1e8, 1e10, 1e12, 1e14]
    high = fit.Power(1e11, 1.0, -0.2, floor=1.5)(np.array(far))
    least, best, most = fit.floors(far, high, noise=0.01)
    assert least <= best <= most
    assert best == pytest.approx(1.5, abs=0.03)
    assert least > 1.2, "without a floor it is no power law"
    near = fit.Power(1e11, 2.5, -0.05)(np.array(BUDGETS))
    least, _, most = fit.floors(BUDGETS, near, noise=0.01)
    assert least == 0
    assert most > 1, "four near budgets do not tell"


def test_where_laws_meet_and_what_is_least():
    one, other = fit.Power(1e11, 2.0, -0.1), fit.Power(3e11, 2.5, -0.2)
    at = fit.crossing(one, other)
    assert one(at) == pytest.approx(other(at))
    assert fit.crossing(other, one) == pytest.approx(at)
    assert fit.crossing(one, fit.Power(1.0, 1.0, -0.1)) == math.inf
    x = [3.0, 0.0, 1.0, 2.0]
    assert fit.vertex(x, [(v - 1.3) ** 2 for v in x]) == (pytest.approx(1.3), True)
    assert fit.vertex(x, x) == (0.0, False)
    assert fit.vertex(x, [-v for v in x]) == (3.0, False)
    assert fit.vertex([0, 1, 2], [3, 2, math.inf]) == (1.0, True)
    with pytest.raises(ValueError, match="budgets: "):
        fit.power([1e11, 1e11], [2.0, 2.1])


@pytest.mark.parametrize("family", BASES)
def test_rungs_are_their_base_by_eighths(family):
    base = config.load(str(ROOT / "configs" / f"{BASES[family].replace(':', '.py:')}"))
    same = rung(family, 8)
    for item in same:
        assert config.override(base, item.partition("=")[0], item.partition("=")[2]) == base, item
    for eighths in (1, 3, 7, 12):
        changed = dict(item.split("=") for item in rung(family, eighths))
        assert int(changed["model.embed.width"]) * 8 == base.model.embed.width * eighths
        assert changed.keys() == {item.partition("=")[0] for item in same}
        for name, heads in changed.items():
            if name.endswith("heads"):
                wide = "model.trunk.pool.width" if "backbone" in name else "model.embed.width"
                assert int(changed[wide]) % (2 * int(heads)) == 0, "rotary positions want pairs"


def test_a_rung_costs_what_hlm_flops_says():
    costs = []
    for eighths in (1, 2):
        exp = config.load(str(ROOT / "configs/flat.py:tiny"), rung("flat", eighths))
        held = flops.Rows(500.0, (500.0,), ("",))
        costs.append(training(exp, held))
    assert costs[1] == pytest.approx(flops.costs(exp, held)["training"])
    assert 2 < costs[1] / costs[0] < 8


def test_one_program_takes_the_steps_of_any_schedule():
    """AtRate, with the rate of each step, updates as AdamW with that peak and warm-up."""
    steps, optim = 7, AdamW(peak=0.3, warmup=2, clip=0.5)
    rates = np.asarray(optim.learning_rate(np.arange(steps), steps))
    params = {"kernel": jnp.ones((2, 3)), "scale": jnp.ones(3)}
    states = [
        o.build(steps).init(params) for o in (optim, scaling_laws.AtRate(optim, jnp.float32(1)))
    ]
    for n, rate in enumerate(rates):
        gradients = {"kernel": jnp.full((2, 3), np.cos(n)), "scale": jnp.arange(3.0)}
        updates = []
        for i, each in enumerate((optim, scaling_laws.AtRate(optim, jnp.float32(rate)))):
            with jax.numpy_dtype_promotion("standard"):  # as in the step
                update, states[i] = each.build(steps).update(gradients, states[i], params)
            updates.append(update)
        for name in params:
            np.testing.assert_allclose(updates[0][name], updates[1][name], rtol=1e-5)


class MadeUp(scaling_laws.Lab):
    """Training that ends by a law: best at 3 bytes of text for each FLOP a byte, at a peak and a
    number of bytes a step that are power laws of compute.
    """

    trained = 0
    exponent, ratio = -0.12, 3.0

    def _model(self, family, eighths):
        return None, flops.Rows(256.0, (256.0,), ("",)), 5e4 * eighths**2

    def _trainer(self, family, eighths, rows):
        lab, cost = self, 5e4 * eighths**2

        class Trainer:
            valid, test, parameters = 0.0, 0.01, 1000

            def losses(self, peak, steps, seed):
                lab.trained += 1
                nbytes = 256.0 * rows
                text = steps * nbytes
                compute = text * cost
                # flat is as good at 5e8, where 0.9 (C / 1e11)^-0.02 is 1
                size = {"flat": 1.0, "hat": 0.9 * (compute / 1e11) ** -0.02}[family]
                law = (cost**lab.exponent + (text / lab.ratio) ** lab.exponent) * 20 * size
                off = math.log(peak / (40 * compute**-0.3)) ** 2
                off += math.log(nbytes / (2e-3 * compute**0.5)) ** 2
                self.bits = lambda text: law + 0.02 * off + 0.001 * seed + text
                return [law]

        return Trainer()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("laws")
    lab = MadeUp(out, peaks=3)
    asked = types.SimpleNamespace(
        only=("flat", "hat"),
        middle=3e11,
        sizes=(1, 2, 3, 5),
        budgets=BUDGETS,
        batches=BUDGETS[::3],
        seeds=2,
    )
    scaling_laws.experiment(lab, asked)
    return out, lab, asked


def test_laws_that_were_put_in_come_out(made):
    _, lab, _ = made
    flat, hat = families(lab.runs, scaling_laws.ROWS, 3e11)
    assert flat.ratio == (pytest.approx(3.0, rel=0.35), True)
    assert flat.flops(3e11) == pytest.approx(math.sqrt(3e11 / 3.0), rel=0.2)
    assert flat.law.exponent == pytest.approx(-0.06, abs=0.01)
    assert hat.law(1e11) / flat.law(1e11) == pytest.approx(0.9, abs=0.02)
    assert hat.law.exponent - flat.law.exponent == pytest.approx(-0.02, abs=0.003)
    draws = [[law.exponent for law in family.drawn] for family in (flat, hat)]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.3, "their noise is not the same"
    assert flat.peaks.exponent == pytest.approx(-0.3, abs=0.02)
    assert flat.peaks(3e11) == pytest.approx(40 * 3e11**-0.3, rel=0.1)
    assert all(inside for *_, inside in flat.batches)
    assert flat.batch.exponent == pytest.approx(0.5, abs=0.1)
    assert flat.batch(3e11) == pytest.approx(2e-3 * 3e11**0.5, rel=0.4)
    assert all(len(p.tests) == 2 for p in flat.curve)
    assert min(flat.bits) > 0.01 + min(p.best.valid for p in flat.curve)


def test_every_run_spends_its_budget(made):
    _, lab, _ = made
    for run in lab.runs:
        assert run.steps * run.nbytes * run.flops == pytest.approx(run.budget, rel=0.02)


def test_what_is_finished_is_not_trained_again(made):
    out, lab, asked = made
    again = MadeUp(out, peaks=3)
    assert again.runs == lab.runs == read(out)
    scaling_laws.experiment(again, asked)
    assert again.trained == 0
    again.runs = again.runs[:-3]  # stopped before the last three
    scaling_laws.experiment(again, asked)
    assert again.trained == 3
    assert sorted(map(str, again.runs)) == sorted(map(str, lab.runs))


def test_training_that_fails_is_no_point(tmp_path):
    lab = MadeUp(tmp_path, peaks=3)
    usual = lab._trainer

    def fails(*asked):
        trainer = usual(*asked)
        losses = trainer.losses
        trainer.losses = lambda peak, *more: [math.nan] if peak > 0.01 else losses(peak, *more)
        return trainer

    lab.trainer = fails
    assert lab.tuned("flat", 3, 1e11, 0.009) <= 0.01
    assert math.inf in {run.valid for run in lab.runs}
    assert read(tmp_path) == lab.runs, "infinite numbers are kept, too"


def test_tables_and_picture(made, monkeypatch, capsys):
    out, lab, _ = made
    arguments = [str(out), "--report", "--middle", "3e11"]
    monkeypatch.setattr(sys, "argv", ["scaling_laws.py", *arguments])
    scaling_laws.main()
    text = (out / "results.md").read_text()
    flat, hat = families(lab.runs, scaling_laws.ROWS, 3e11)
    assert f"**{flat.bits[0]:.3f}** ± 0.000" in text or f"**{flat.bits[0]:.3f}** ± 0.001" in text
    assert f"{flat.bits[-1] - hat.bits[-1]:+.3f}" in text
    assert flat.law.formula() in text
    assert 1e8 < (meet := fit.crossing(flat.law, hat.law)) < 2e9
    assert f"| {meet:.0e} |" in text
    assert "(edge)" not in text
    assert (out / "laws.png").stat().st_size > 10_000
    assert "flat - hat" in capsys.readouterr().out


def test_commands_spend_the_budget_on_whole_rows_of_every_chip(made, monkeypatch):
    _, lab, _ = made
    found = families(lab.runs, scaling_laws.ROWS, 3e11)
    monkeypatch.setattr(scaling_commands, "NAMED", {"flat:1b": "v5e:8x16"})
    monkeypatch.setattr(scaling_commands, "RUNGS", (1, 2))
    flat = scaling_commands.size("flat:1b").flops
    budget = 3.0 * flat**2  # what that size is best for
    lines = list(scaling_commands.commands(found, budget))
    asked = [line for line in lines if not line.startswith("#")]
    assert len(asked) == 2
    assert "configs/flat.py:1b" in asked[0]
    assert "v5e:8x16" in lines[0]
    assert "configs/hat.py:tiny" in asked[1], "no size is named for it: a rung"
    for line in asked:
        words = shlex.split(line)
        given = [word for word in words[5:] if not word.startswith("data.source")]
        exp = config.load(str(ROOT / words[2]), given)
        assert exp.optim.warmup == max(exp.steps // 17, 1)
        chosen = scaling_commands.size("flat:1b")
        if "1b" in line:
            assert exp.rows % 128 == exp.rows // exp.accumulate % 128 == 0
            assert exp.rows // exp.accumulate <= chosen.exp.rows // chosen.exp.accumulate
            spent = exp.steps * exp.rows * chosen.held.nbytes * chosen.flops
            assert spent == pytest.approx(budget, rel=0.05)


def test_published_laws_stand_beside_ours(made):
    _, lab, _ = made
    flat = families(lab.runs, scaling_laws.ROWS, 3e11)[0]
    aunet = Family("aunet", flat.runs, flat.rows, flat.middle)
    bpe = Family("bpe", flat.runs, flat.rows, flat.middle)
    bytes_, subwords = (
        types.SimpleNamespace(
            own_peak=0.5,
            exp=types.SimpleNamespace(model=types.SimpleNamespace(codec=codec)),
            held=flops.Rows(900.0, (200.0,), ("",)),
        )
        for codec in (None, config.load(str(ROOT / "configs/bpe.py:tiny")).model.codec)
    )
    # Videau et al. 2025: 6.6 C^-0.176 and 0.66 C^0.321 bytes; 19.3 C^-0.177 and 29.9 C^0.231 tokens
    said = scaling_commands.rules(aunet, bytes_, 5e20)["Videau et al. 2025"]
    assert said == (pytest.approx(1.5e-3, rel=0.02), pytest.approx(2.9e6, rel=0.03))
    said = scaling_commands.rules(bpe, subwords, 1e20)["Videau et al. 2025"]
    assert said[1] == pytest.approx(4.5 * 29.9 * 1e20**0.231)
    ((who, (peak, _)),) = scaling_commands.rules(flat, bytes_, 1e12).items()
    assert (who, peak) == ("these laws", pytest.approx(flat.peaks(1e12)))
    rough = [dataclasses.replace(r, peak=r.peak * (1 + r.eighths % 2)) for r in flat.runs]
    ((who, (peak, _)),) = scaling_commands.rules(
        Family("flat", tuple(rough), flat.rows, flat.middle), bytes_, 1e30
    ).items()
    assert (who.startswith("the config"), peak) == (True, 0.5), "its error leaves nothing"


def test_results_are_plain_json(made):
    out, lab, _ = made
    runs = json.loads((out / "runs.json").read_text())
    assert len(runs) == len(lab.runs)
    assert {"family", "budget", "peak", "valid", "test", "steps"} <= runs[0].keys()
