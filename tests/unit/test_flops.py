import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import config, flops
from hlm.config import Experiment
from hlm.traced import kept, products
from tests.laws.subjects import ROOT, random_params

SYMBOLS = 260


def load(name: str, *overrides: str) -> Experiment:
    return config.load(str(ROOT / "configs" / name), overrides)


def count(f, *shapes: tuple[int, ...]) -> int:
    total, hidden = products(jax.make_jaxpr(f)(*(jnp.zeros(s) for s in shapes)).jaxpr)
    assert not hidden
    return total.total()


def test_products_scans_branches_and_gradients():
    def scanned(x_AB, w_BB):
        return jax.lax.scan(lambda x, _: (x @ w_BB, None), x_AB, length=7)[0]

    def loss(x_AB, w_BB):
        return jnp.sum(jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ w_BB) @ w_BB))(x_AB))

    def branch(x_AB, w_BB):
        return jax.lax.cond(x_AB[0, 0] > 0, lambda: x_AB @ w_BB @ w_BB, lambda: x_AB @ w_BB)

    one = 2 * 3 * 5 * 5
    shapes = (3, 5), (5, 5)
    assert count(lambda x_AB, w_BB: x_AB @ w_BB, *shapes) == one
    assert count(jax.jit(scanned), *shapes) == 7 * one
    # nothing needs the others
    assert count(lambda x_AB, w_BB: (x_AB @ w_BB, x_AB @ w_BB @ w_BB)[0], *shapes) == one
    assert count(branch, *shapes) == 2 * one
    # forward, recomputed, two products each backward
    assert count(jax.value_and_grad(loss, argnums=(0, 1)), *shapes) == (2 + 2 + 4) * one
    batched = count(
        lambda x_NAB, y_NBC: jnp.einsum("nab,nbc->nac", x_NAB, y_NBC), (4, 3, 5), (4, 5, 6)
    )
    assert batched == 4 * 2 * 3 * 5 * 6
    conv = count(lambda x, k: jax.lax.conv(x, k, (1, 1), "VALID"), (1, 2, 9, 9), (4, 2, 3, 3))
    assert conv == 2 * (4 * 7 * 7) * (2 * 3 * 3)


def test_products_in_loops_of_unknown_length_are_named():
    def loop(x_AA):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x_AA)

    assert products(jax.make_jaxpr(loop)(jnp.zeros((3, 3))).jaxpr) == ({}, {"while"})


@pytest.mark.parametrize(
    ("path", "part", "level"),
    [
        ("/jvp(LM)/LM.hidden/LM.read/trunk/encoder//block.step/block/mlp", "trunk/encoder", 0),
        (
            "/transpose(jvp(LM))/LM.hidden/LM.read/trunk/backbone/decoder//rematted_computation/block.step",
            "trunk/backbone/decoder",
            1,
        ),
        (
            "/LM/LM.hidden/LM.read/trunk/backbone/backbone//block.step/block/mixer/bld,dhk->blhk",
            "trunk/backbone/backbone",
            2,
        ),
        (
            "/jvp(LM)/LM.hidden/LM.read/trunk/trunk.cut/segmenter/frozen/frozen.read/trunk",
            "trunk/segmenter",
            0,
        ),
        ("/jvp(LM)/LM.hidden/LM.read/trunk//block.step/block/mlp", "trunk", 0),
        ("/jvp(LM)/heads/bld,dnv->blnv", "heads", 0),
        ("/MaskedLM.logits/heads.logits/heads.answers/bld,dnv->blv", "heads", 0),
        ("/", "other", 0),
    ],
)
def test_an_equation_belongs_to_a_part_and_a_level(path: str, part: str, level: int):
    assert flops.part_of(path) == part
    assert flops.level_of(part) == level


def block(elements: int, width: int, feed_forward: int, pairs: int) -> int:
    """Products of a Llama block: weights, and scores and values of `pairs` of query and key."""
    return 2 * (elements * (4 * width**2 + 3 * width * feed_forward) + 2 * pairs * width)


def test_a_flat_model_costs_what_a_formula_says():
    """Attention computes blocks of 128 queries up to the end of each: 128 * (128 + 256 + 384 + 512)
    pairs.
    """
    exp = load("flat.py:tiny")
    found = flops.costs(exp, flops.Rows(500.0, (512.0,), ("given",)))
    forward = 4 * block(512, 128, 384, 128 * 128 * 10) + 2 * 512 * 128 * SYMBOLS
    assert found["inference"] * 500 == pytest.approx(forward, rel=1e-12)
    assert found["training"] * 500 == pytest.approx(3 * forward, rel=1e-12)
    again = 4 * 2 * 128 * 128 * 10 * 128  # scores, computed again in the backward pass
    assert found["training_as_run"] * 500 == pytest.approx(3 * forward + again, rel=1e-12)
    assert (
        found["parameters"] == 4 * (4 * 128**2 + 3 * 128 * 384 + 2 * 128) + 2 * 128 * SYMBOLS + 128
    )
    assert (
        found["parameters"] - found["parameters_looked_up"] == found["parameters"] - 128 * SYMBOLS
    )


def test_hat_costs_at_each_level_what_a_formula_says():
    """Inside words, attention computes blocks of 25 queries against three blocks of keys, or two if
    causal.
    """
    rows = flops.Rows(500.0, (475.0, 90.4), ("given", "given"))
    found = flops.costs(load("hat.py:tiny"), rows)
    encoder, decoder = block(475, 128, 341, 475 * 75), 3 * block(475, 128, 341, 475 * 50)
    words = 2 * block(90, 256, 682, 90 * 90)
    between = 2 * 2 * 90 * 128 * 256  # pool and unpool
    forward = [encoder + decoder + between + 2 * 475 * 128 * SYMBOLS, words]
    assert [level["inference"] * 500 for level in found["levels"]] == pytest.approx(
        forward, rel=1e-12
    )
    assert [level["training"] * 500 for level in found["levels"]] == pytest.approx(
        [3 * n for n in forward], rel=1e-12
    )
    parts = {part: n * 500 for part, n in found["by_part"]["inference"].items()}
    assert parts["trunk/encoder"] == pytest.approx(encoder, rel=1e-12)
    assert parts["trunk/decoder"] == pytest.approx(decoder, rel=1e-12)


def test_neither_room_nor_recomputation_counts_but_as_run_they_do():
    names = ("encoder", "backbone", "decoder")
    remat = [
        f"model.trunk.{name}.{field}"
        for name in names
        for field in ("remat=True", "keep_projections=False")
    ]
    rows = flops.Rows(500.0, (512.0, 90.0), ("given", "given"))
    plain, roomy, again = (
        flops.costs(load("hat.py:tiny", *overrides), rows)
        for overrides in ([], ["model.trunk.capacity=128"], remat)
    )
    assert plain["training"] == roomy["training"] == again["training"]
    blocks = sum(plain["by_part"]["inference"][f"trunk/{name}"] for name in names)
    assert plain["training_as_run"] < roomy["training_as_run"]
    # All but each block's last product, whose result the backward pass does not need.
    assert 0.7 * blocks < again["training_as_run"] - plain["training_as_run"] < blocks
    activations = "activations kept for the backward pass"
    assert again["memory"][activations] < plain["memory"][activations] / 4


def test_what_the_forward_pass_leaves():
    """The backward pass of sin(exp(x)) needs exp(x) and cos(exp(x)), of which neither is an
    input.
    """

    def loss(x_A):
        with jax.named_scope("model"):
            return jnp.sum(jnp.sin(jnp.exp(x_A)))

    assert kept(jax.make_jaxpr(jax.grad(loss))(jnp.zeros(1000)).jaxpr) == 2 * 4 * 1000


def test_chunks_of_rules_are_counted_in_packed_rows():
    exp = load("aunet.py:tiny3")
    rows = flops.measure(exp)
    levels = np.stack([row["level"] for row in flops.packed(exp, exp.data.source)])
    assert rows.known == ("packed text",) * 3
    assert rows.elements[1:] == pytest.approx(
        [np.mean(np.sum(levels >= k, axis=1)) for k in (1, 2)]
    )
    assert 0.95 * 512 < rows.nbytes <= rows.elements[0] <= 512


def test_learned_chunks_are_those_aimed_at():
    rows = flops.measure(load("hnet.py:tiny2"))
    assert rows.elements == pytest.approx((512, 512 / 3, 512 / 9), rel=0.01)
    assert flops.measure(load("dtp.py:tiny")).elements[1] == pytest.approx(512 / 5, rel=0.01)
    pieces = load("dtp.py:tiny_pieces")
    examples = np.stack([row["label"] for row in flops.packed(pieces, pieces.data.source)])
    # and BOS
    assert flops.measure(pieces).elements[1] == pytest.approx(
        np.mean(np.sum(examples, axis=1)), abs=2
    )


def test_chunks_by_entropy_are_those_of_a_model():
    """An untrained one is unsure everywhere; no model is as unsure as one that knows no symbol from
    another.
    """
    exp = load("blt.py:tiny", "data.length=64", "model.trunk.capacity=32", "rows=16")
    unsure = flops.measure(exp)
    assert unsure.elements[1] == 32
    assert unsure.known[1] == "untrained model"
    never = config.override(exp, "model.trunk.segmenter.threshold", str(np.log(SYMBOLS)))
    sure = flops.measure(never, random_params(exp.model, 64))
    assert sure.elements[1] == pytest.approx(1, abs=0.3)  # BOS, of every document in a row
    assert sure.known[1] == "given parameters"


def test_the_command_prints_every_config(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    flops.main(["configs/flat.py:tiny", "configs/bpe.py:tiny", "data.length=64", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["configs/flat.py:tiny", "configs/bpe.py:tiny"]
    assert found["configs/flat.py:tiny"]["levels"][0]["room"] == 64
    assert found["configs/bpe.py:tiny"]["bytes_per_row"] > 2 * 64
    flops.main(["configs/hat.py:tiny", "configs/flat.py:tiny"])
    shown = capsys.readouterr().out
    assert "trunk/decoder" in shown
    assert "known by" in shown
