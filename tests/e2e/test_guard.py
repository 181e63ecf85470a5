"""Runs that skip spikes, go back before them and average their weights: ended early at any step and
started again, they are the run that nobody disturbed.
"""

import hashlib
import json
import signal

import jax
import numpy as np
import pytest

import hlm
import train
from hlm import config
from hlm.data import pipeline
from hlm.train import log
from hlm.train.waiting import Waiting
from tests.e2e.runs import CONFIG, metrics, overrides
from tests.laws.subjects import ROOT, budget

STEPS = 16
GUARDS = {  # ordinary text has so large steps now and then
    "skip": "SpikeGuard(norm=1.15, loss=1.03, window=4)",
    "rewind": "SpikeGuard(norm=1.15, loss=1.03, window=4, then=Rewind(2))",
}


def settings(folder, name):
    return overrides(
        folder, steps=STEPS, average="EMA(0.8)", guard=GUARDS[name], **{"every.save": 2}
    )


class Crash(BaseException):
    """As sudden as can be in one process."""


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """Runs train.py in this process, on one device; the texts of the steps that it does, in order,
    are added to `texts`.
    """
    monkeypatch.chdir(ROOT)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    texts = []
    usual_next, usual_push = Waiting.next, log.Log.push

    def following(waiting, data):
        made, waited = usual_next(waiting, data)
        texts.append(hashlib.sha1(made["token"].tobytes()).hexdigest())
        return made, waited

    def run(folder, name, crash=None, term=None):
        def push(journal, step, *rest):
            usual_push(journal, step, *rest)
            if step == crash:
                raise Crash
            if step == term:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(Waiting, "next", following)
        monkeypatch.setattr(log.Log, "push", push)
        args = [CONFIG, "--workdir", str(folder), *settings(tmp_path, name)]
        if crash is not None:
            with pytest.raises(Crash):
                train.main(args)
        elif term is not None:
            with pytest.raises(SystemExit, match="start the same command again"):
                train.main(args)
        else:
            train.main(args)

    run.texts = texts
    return run


def bits(run):
    both = [hlm.load(str(run), average=average).params for average in (False, True)]
    return jax.tree.map(lambda a: np.asarray(a).tobytes(), both)


@pytest.mark.parametrize("name", GUARDS)
def test_the_same_run_whatever_ends_it(name, begin, tmp_path, capsys):
    begin(tmp_path / "whole", name)
    said = capsys.readouterr().err
    whole, params = metrics(tmp_path / "whole"), bits(tmp_path / "whole")
    assert params[0] != params[1]
    assert [line["step"] for line in whole if line["kind"] == "train"] == list(range(1, STEPS + 1))
    left_out = [line["step"] - 1 for line in whole if line.get("spikes", 0) > 0]
    assert left_out or name == "rewind"
    assert [f"step {step} is left out" in said for step in left_out] == [True] * len(left_out)
    began = json.loads((tmp_path / "whole" / "run.json").read_text())["starts"][0]
    back = began.get("rewound", [])
    if name == "rewind":
        assert said.count("was a spike: back to checkpoint") == len(back) > 0
        assert all(to % 2 == 0 and to < step for step, to in back)
        follows_the_data(begin.texts, tmp_path, back)
    else:
        assert not back

    begin(tmp_path / "run", name, crash=12)
    begin(tmp_path / "run", name)
    assert metrics(tmp_path / "run") == whole
    assert bits(tmp_path / "run") == params
    lm = hlm.load(str(tmp_path / "run"), average=True)
    scores = lm.score([text for _, text in pipeline.documents(lm.experiment.valid)])
    found = sum(s.nats for s in scores) / sum(s.nbytes for s in scores) / np.log(2)
    assert whole[-1]["bits_per_byte"] == pytest.approx(found, rel=1e-5)


def follows_the_data(texts, folder, back):
    """Texts in the order of the data, none twice: the run never goes back in them."""
    exp = config.load(str(ROOT / CONFIG), settings(folder, "rewind"))
    data = pipeline.batches(exp.data, exp.model.codec, budget(exp), exp.rows, exp.seed)
    stream = [
        hashlib.sha1(next(data)["token"].tobytes()).hexdigest() for _ in range(len(texts) + 9)
    ]
    data.close()
    places = [stream.index(text) for text in texts]
    assert places == sorted(set(places))
    assert len(texts) >= STEPS + len(back)


def test_added_in_mid_run_and_taken_away(tmp_path, monkeypatch, capsys):
    """The state of a guard or an average begins where the checkpoint has none."""
    one = jax.devices()[:1]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jax, "devices", lambda: one)
    run, given = tmp_path / "run", overrides(tmp_path, **{"every.save": 2})
    for steps, more in ((2, []), (4, settings(tmp_path, "skip")), (6, [])):
        train.main([CONFIG, "--workdir", str(run), *given, *more, f"steps={steps}"])
        if more:
            assert "average was None and is EMA: a new one begins" in capsys.readouterr().out
            assert hlm.load(str(run), average=True).step == 4
    with pytest.raises(ValueError, match=r"average: .* has none; its run had no average=EMA"):
        hlm.load(str(run), average=True)
    assert hlm.load(str(run)).step == 6
