"""Choice between options: prompts, likelihoods, the right one, and what noise takes away."""

import numpy as np
import pytest

from hlm.evals import choice, continuation, misspell, noised_choice
from hlm.evals.choice import Item
from hlm.evals.shelf import SAMPLES, Shelf
from tests.unit.minute_models import language_model
from tests.unit.suite_settings import Oracle


def test_the_likelihood_of_what_follows_is_that_of_its_bytes():
    lm = language_model("words")
    pairs = [(b"The whale ", b"swims."), (b"", b"The whale "), (b"The whale ", b"swims.")]
    got = continuation.likelihoods(lm, pairs)
    whole, first = (
        lm.score(t, complete=False)[0].nats for t in (b"The whale swims.", b"The whale ")
    )
    assert got[0] == got[2]
    assert got[1].nats == pytest.approx(-first)
    assert got[0].nats == pytest.approx(first - whole, rel=1e-4)
    assert [g.nbytes for g in got] == [6, 10, 6]


def test_what_greedy_decoding_writes_is_greedy():
    lm = language_model("words")
    made = bytes(lm.generate("The ", 6)[0])
    other = bytes([made[0] ^ 1]) + made[1:]
    right, wrong = continuation.likelihoods(lm, [(b"The ", made), (b"The ", other)])
    assert (right.greedy, wrong.greedy) == (True, False)


@pytest.mark.parametrize("name", choice.TASKS)
def test_the_right_option_is_found(name):
    if not Shelf(SAMPLES).has(choice.TASKS[name].file):
        pytest.skip("not in the sample")
    items = choice.read(name, Shelf(SAMPLES), None, 0)
    answers = ["".join(item.options[item.answer]) for item in items]
    others = ["".join(o) for item in items for i, o in enumerate(item.options) if i != item.answer]
    right, wrong = choice.judge(Oracle(*answers), items), choice.judge(Oracle(*others), items)
    assert right.right.mean() == right.right_per_byte.mean() == 1
    assert wrong.right.mean() == wrong.right_per_byte.mean() == 0
    if others:
        assert right.gap.min() > 0 > wrong.gap.max()


def test_options_that_tie_share_the_point():
    items = [Item((("", "ab"), ("", "cd"), ("", "ef")), 0), Item((("", "ab"), ("", "cdef")), 0)]
    got = choice.judge(Oracle(), items)
    assert list(got.right) == [pytest.approx(1 / 3), 1]  # fewer bytes, fewer bits
    assert list(got.right_per_byte) == [pytest.approx(1 / 3), 0.5]
    assert got.chance == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_prompts_are_those_of_the_harness():
    def first(name):
        return choice.read(name, Shelf(SAMPLES), None, 0)[0].options

    assert first("piqa")[0] == (
        "Question: How do I keep soup warm on the way to work?\nAnswer:",
        " Pour it into a closed flask.",
    )
    assert first("copa")[1] == ("The glass fell on the floor therefore", " it flew away.")
    assert [context for context, _ in first("winogrande")] == [
        "The box did not fit into the bag because the box",
        "The box did not fit into the bag because the bag",
    ]
    context, ending = choice.read("hellaswag", Shelf(SAMPLES), None, 0)[2].options[3]
    assert context.startswith("How to wash a cup: How to wash a cup. Fill the sink")
    assert "[" not in context + ending
    assert first("lambada")[0][1] == " clock"


def test_noise_changes_the_prompt_alone_or_everything():
    items = choice.read("arc_easy", Shelf(SAMPLES), None, 0)
    noises = misspell.noises(Shelf(None))
    for item in items:
        prompt, every = (
            noised_choice.noised(item, "upper", 1.0, 0, noises, way) for way in (False, True)
        )
        assert [c for c, _ in prompt.options] == [c.upper() for c, _ in item.options]
        assert [t for _, t in prompt.options] == [t for _, t in item.options]
        assert [t for _, t in every.options] == [t.upper() for _, t in item.options]


def test_drops_are_those_of_the_draws():
    right, noisy = np.array([1.0, 1, 0, 1]), [np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 0])]
    zero = np.zeros(4)
    clean, *draws = (choice.Judged(r, r, zero, zero, zero, 0.25) for r in (right, *noisy))
    row = noised_choice.compared(clean, draws)
    assert row["accuracy"].value == 0.375
    assert row["drop"].value == pytest.approx((0.75 - 0.375) / 0.75)
    assert row["retained"].value == pytest.approx((0.375 - 0.25) / (0.75 - 0.25))
    assert row["accuracy_spread_over_seeds"].value == pytest.approx(np.std([0.25, 0.5], ddof=1))
