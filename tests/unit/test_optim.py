"""Schedules and updates by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from hlm import AdamW, Mesh, Muon, config, sharding
from hlm.train import step
from hlm.train.optim import MATRICES, decayed
from hlm.train.schedule import Constant, Cosine, Linear, WarmupStableDecay
from tests.laws.subjects import ROOT

pytestmark = pytest.mark.usefixtures("optax_promotes")
PARAMS = {
    "trunk": {"backbone": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "out_scale": jnp.ones(3),
}


def update(optim, grads, steps=100, params=PARAMS):
    chain = optim.build(steps)
    return jax.jit(lambda g: chain.update(g, chain.init(params), params)[0])(grads)


def constant(value):
    return jax.tree.map(lambda a: jnp.full(a.shape, value), PARAMS)


def test_schedule():
    def rates(decay):
        return [
            float(AdamW(peak=2.0, warmup=4, decay=decay).learning_rate(jnp.asarray(s), 24))
            for s in (0, 3, 4, 14, 24, 99)
        ]

    np.testing.assert_allclose(rates(Linear(final=0.5)), [0.5, 2, 2, 1.5, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(rates(Cosine(final=0.1)), [0.5, 2, 2, 1.1, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(rates(Constant()), [0.5, 2, 2, 2, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(
        rates(WarmupStableDecay(final=0.1, share=0.8)), [0.5, 2, 2, 1.325, 0.2, 0.2], rtol=1e-6
    )
    np.testing.assert_allclose(rates(WarmupStableDecay(share=0.2)), [0.5, 2, 2, 2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rates(WarmupStableDecay(share=0.0)), [0.5, 2, 2, 2, 0, 0], atol=1e-6)
    assert Constant().final == 1.0


@pytest.mark.parametrize("steps", [24, 60, 1000])
def test_schedules_that_can_be_continued(steps):
    """Before the decay, the rate of a step does not depend on how many there will be."""
    for decay in (Constant(), WarmupStableDecay(share=0.1)):
        optim = AdamW(peak=2.0, warmup=4, decay=decay)
        found = [float(optim.learning_rate(jnp.asarray(s), steps)) for s in range(22)]
        np.testing.assert_allclose(found, [0.5, 1.0, 1.5, *([2.0] * 19)])


def test_no_warmup():
    assert float(AdamW(peak=2.0, warmup=0).learning_rate(jnp.asarray(0), 10)) == pytest.approx(2.0)


def test_first_update_is_the_sign_and_decay_spares_gains():
    optim = AdamW(peak=0.5, warmup=1, weight_decay=0.1, clip=1e9)
    got = update(optim, constant(3.0))
    np.testing.assert_allclose(got["trunk"]["backbone"]["kernel"], -0.5 * 1.1, rtol=1e-5)
    np.testing.assert_allclose(got["trunk"]["backbone"]["bias"], -0.5, rtol=1e-5)
    np.testing.assert_allclose(got["out_scale"], -0.5, rtol=1e-5)
    assert decayed(PARAMS) == {
        "trunk": {"backbone": {"kernel": True, "bias": False}},
        "out_scale": False,
    }


def test_clip():
    """Nine elements of 4 have norm 12; clipped to 3 they are 1, so eps of 1 halves them."""
    got = update(AdamW(peak=1.0, warmup=0, weight_decay=0.0, clip=3.0, eps=1.0), constant(4.0))
    np.testing.assert_allclose(got["out_scale"], -0.5, rtol=1e-5)


def test_multipliers_by_longest_prefix():
    optim = AdamW(
        peak=1.0,
        warmup=0,
        weight_decay=0.0,
        multipliers={"trunk": 0.5, "trunk/backbone/bias": 0.25},
    )
    got = update(optim, constant(1.0))
    np.testing.assert_allclose(got["trunk"]["backbone"]["kernel"], -0.5, rtol=1e-5)
    np.testing.assert_allclose(got["trunk"]["backbone"]["bias"], -0.25, rtol=1e-5)
    np.testing.assert_allclose(got["out_scale"], -1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="no parameter path starts with trunk/back\n"):
        update(AdamW(peak=1.0, warmup=0, multipliers={"trunk/back": 0.5}), constant(1.0))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"AdamW.clip: -1 must be at least 0"):
        AdamW(peak=1.0, warmup=0, clip=-1)
    with pytest.raises(ValueError, match=r"WarmupStableDecay.share: 1.5 must be at most 1"):
        WarmupStableDecay(share=1.5)


def stacked():
    """A layer's matrices, three deep, with gradients that have every direction."""
    rng = np.random.default_rng(0)
    shapes = {"q": (3, 8, 2, 4), "o": (3, 2, 4, 8), "up": (3, 8, 20), "up_bias": (3, 20)}
    shapes |= {"embedding": (30, 8), "head": (8, 1, 30)}
    tree = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    return {"trunk": tree, "frozen": {"kernel": jnp.ones((4, 4))}}


def test_muon_makes_each_matrix_orthogonal_and_leaves_the_rest_to_adam():
    grads = stacked()
    how = dict(peak=0.5, warmup=1, weight_decay=0.0, clip=1e9)
    got = update(Muon(**how, matrices=2.0, iterations=8), grads, params=grads)
    adam = update(AdamW(**how), grads, params=grads)
    for name, shape in (("q", (3, 8, 8)), ("o", (3, 8, 8)), ("up", (3, 8, 20))):
        # of AdamW's size: 0.2 for each entry, times the rate and `matrices`
        size = 0.5 * 2.0 * 0.2 * max(shape[1:]) ** 0.5
        values = np.linalg.svd(np.asarray(got["trunk"][name]).reshape(shape), compute_uv=False)
        assert values.min() > 0.6 * size, name
        assert values.max() < 1.3 * size, name
        assert np.sum(got["trunk"][name] * grads["trunk"][name]) < 0  # downhill
    for name in ("up_bias", "embedding", "head"):
        np.testing.assert_allclose(np.sign(got["trunk"][name]), np.sign(adam["trunk"][name]))
        assert np.abs(got["trunk"][name]).max() < 2 * 0.5
    assert not np.any(got["frozen"]["kernel"])


def test_muon_keeps_decay_and_multipliers():
    grads = stacked()
    how = dict(peak=0.5, warmup=1, clip=1e9)
    plain = update(Muon(**how, weight_decay=0.0), grads, params=grads)["trunk"]
    half = update(Muon(**how, weight_decay=0.0, multipliers={"trunk": 0.5}), grads, params=grads)
    np.testing.assert_allclose(half["trunk"]["q"], 0.5 * plain["q"], rtol=1e-5)
    less = update(Muon(**how, weight_decay=0.1), grads, params=grads)["trunk"]
    np.testing.assert_allclose(less["q"], plain["q"] - 0.05 * grads["trunk"]["q"], atol=1e-6)
    np.testing.assert_allclose(less["up_bias"], plain["up_bias"], atol=1e-6)


def test_every_matrix_is_one_of_muon_or_of_adam():
    """A new parameter name has to be put on one side."""
    of_adam = {"embedding", "position", "head", "conv", "query"}
    assert set(MATRICES) | of_adam == {
        name for name, axes in sharding.PARAMS.items() if len(axes) > 1
    }


def test_muon_has_a_sharding_for_all_of_its_state():
    exp = dataclasses.replace(
        config.load(str(ROOT / "configs/hat.py:tiny")), optim=Muon(peak=1e-3, warmup=1)
    )
    mesh = Mesh(data=4, model=2).make(jax.devices()[:8])
    _, shardings, _ = step.init_state(exp, mesh)
    split = {
        jax.tree_util.keystr(path): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings.optim)
    }
    backbone = "['trunk']['backbone']['block']['mixer']['q']"
    (moment,) = (spec for path, spec in split.items() if path.endswith(backbone))
    assert moment == shardings.params["trunk"]["backbone"]["block"]["mixer"]["q"].spec
    assert moment == P(None, "data", "model", None)
    (coefficients,) = (spec for path, spec in split.items() if path.endswith("ns_coeffs"))
    assert coefficients == P()
