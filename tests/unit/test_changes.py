"""What is said of a config that changed since its checkpoint, and what is refused."""

import dataclasses

import pytest

from hlm import AdamW, config
from hlm.registry import to_json
from hlm.train import changes
from hlm.train.schedule import Constant, Cosine, WarmupStableDecay
from tests.laws.subjects import ROOT


def experiment(*overrides):
    return config.load(str(ROOT / "configs/hat.py:tiny"), overrides)


def told(before, after, step=50):
    return changes.told(to_json(before), to_json(after), step, after)


def test_nothing_changed():
    assert told(experiment(), experiment()) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("rows=8", "rows was {} and is 8: batches are of another size from here on"),
        (
            "optim.peak=0.5",
            "optim.peak was {} and is 0.5: the optimizer's state "
            "is kept and used otherwise "
            "from here on",
        ),
        (
            "data.source.paths=('other.txt',)",
            "data.source.paths was {} and is ['other.txt']: the position in the old text",
        ),
        (
            "valid.paths=('other.txt',)",
            "valid.paths was {} and is ['other.txt']: numbers of the validation cannot be compared",
        ),
        ("every.save=7", "every.save was {} and is 7: the numbers stay the same"),
        ("keep=9", "keep was {} and is 9: the numbers stay the same"),
        ("data.shuffle=false", "data.shuffle was True and is False: it holds from here on"),
        (
            "model.trunk.backbone.block.mixer.window=8",
            "model.trunk.backbone.block.mixer.window was {} and is 8: the parameters fit, but",
        ),
        (
            "model.trunk.decoder.keep_projections=false",
            "model.trunk.decoder.keep_projections was {} and is False: the same numbers, rounded",
        ),
    ],
)
def test_a_line_for_each_change(override, line):
    (said,) = told(experiment(), experiment(override))
    before, after = line.split("{}") if "{}" in line else (line, "")
    assert said.startswith(f"since step 50: {before}")
    assert after in said
    assert "\n" not in said


def test_several_changes_are_several_lines():
    assert len(told(experiment(), experiment("rows=8", "optim.peak=0.5", "steps=9999"))) == 3


def test_more_steps_bend_a_cosine_and_nothing_that_can_be_continued():
    def with_decay(decay, steps):
        exp = experiment(f"steps={steps}")
        return config.replace(
            exp, optim=dataclasses.replace(exp.optim, decay=decay, warmup=10, peak=1.0)
        )

    (bent,) = told(with_decay(Cosine(), 100), with_decay(Cosine(), 200), 90)
    assert bent.startswith(
        "since step 90: steps was 100 and is 200: the learning "
        "rate goes on at 0.66, not at "
        "0.127, as"
    )
    for decay in (Constant(), WarmupStableDecay()):
        (same,) = told(with_decay(decay, 100), with_decay(decay, 200), 80)
        assert same.endswith("the learning rate goes on as it was, at 1")
    (bent,) = told(with_decay(WarmupStableDecay(), 100), with_decay(WarmupStableDecay(), 200), 95)
    assert "goes on at 1, not at 0.278" in bent


def test_a_config_of_another_version_is_compared_all_the_same():
    old = to_json(experiment()) | {"optim": {"_": "Sgd", "rate": 1.0}, "gone": 3}
    lines = changes.told(old | {"steps": 5}, to_json(experiment()), 5, experiment())
    assert any("optim was Sgd and is AdamW" in line for line in lines)
    assert any("gone was 3 and is None" in line for line in lines)
    assert any("steps was 5" in line for line in lines)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [((), ("steps=49",), "steps: 49, but the checkpoint is of step 50")],
)
def test_what_cannot_be_meant_is_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        told(experiment(*before), experiment(*after))


def test_other_symbols_are_refused_other_ends_are_not():
    exp = experiment()
    other = to_json(exp)
    other["model"]["codec"] = {"_": "Utf8", "split": other["model"]["codec"]["split"]}
    with pytest.raises(
        ValueError,
        match=r"model.codec: was Bytes and is Utf8: the parameters know other symbols; change it "
        r"back",
    ):
        changes.told(to_json(exp), other, 50, exp)
    other = to_json(exp)
    other["model"]["codec"]["split"] = {"_": "SpaceLike"}
    (line,) = changes.told(to_json(exp), other, 50, exp)
    assert "model.codec.split was Words and is SpaceLike: the parameters fit, but" in line


def test_the_optimizer_is_named_by_its_class():
    assert changes.short(to_json(AdamW(peak=1.0, warmup=0))) == "AdamW"
    assert len(changes.short("x" * 1000)) < 100
