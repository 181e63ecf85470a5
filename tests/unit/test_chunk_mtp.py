"""The shortcut past the backbone: what it is trained on is what drafts get from it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm import config
from hlm.auxiliary import Aux
from hlm.infer.automaton import automaton
from hlm.infer.loop import predict
from hlm.nn.kv_cache import CACHE
from hlm.nn.stack import Trunk
from hlm.papers.chunk_mtp import Guesses, PastBackbone
from hlm.seq import Decoding, Seq
from tests.laws.subjects import random_params
from tests.unit.test_loop import LENGTH, model

CLOSE = 1e-4  # logits are about 1
TEXT = b"one two seven, and more words than that "


class Given(Trunk):
    """A backbone of which the output is given."""

    @nn.compact
    def __call__(self, x_BLD, seq, group_BL=None):
        return self.param("y", nn.initializers.zeros, x_BLD.shape), Aux()


def test_drafts_get_what_was_trained():
    """At the end of each chunk and behind it; what is before has been read at once, or symbol by
    symbol from the first chunk on.
    """
    lm = model("words")
    params = jax.tree.map(jnp.asarray, random_params(lm, LENGTH))
    encoded = lm.codec.encode(TEXT, complete=False)
    token_BL, level_BL = jnp.asarray(encoded.token)[None], jnp.asarray(encoded.level)[None]
    pos_BL = jnp.arange(token_BL.shape[1], dtype=jnp.int32)[None]

    whole = Seq(token_BL, jnp.ones_like(pos_BL), pos_BL, level_BL)

    def decoding(prefill, draft=False):
        return Decoding(
            prefill,
            rewind=3,
            ends=1,
            capacity=(LENGTH, 48),
            longest=automaton(lm.codec).longest,
            draft=draft,
        )

    @jax.jit
    def prompt(size):
        seq = dataclasses.replace(
            whole, doc=(pos_BL < size).astype(jnp.int32), decoding=decoding(True)
        )
        return lm.apply({"params": params}, seq, method="read", mutable=[CACHE])[1][CACHE]

    @functools.partial(jax.jit, static_argnames="draft")
    def advanced(cache, at, draft):
        token, pos, level = (
            jax.lax.dynamic_slice_in_dim(a, at, 1, axis=1) for a in (token_BL, pos_BL, level_BL)
        )
        seq = Seq(token, jnp.ones_like(token), pos, level, None, decoding(False, draft))
        (logits_BLNV, _), state = lm.apply(
            {"params": params, CACHE: cache}, seq, method="advance", mutable=[CACHE]
        )
        return logits_BLNV[0, 0], state[CACHE]

    y_BLD, aux = jax.jit(lambda: lm.apply({"params": params}, whole, method="read"))()
    (past,) = aux.all(PastBackbone)
    trained, usual = (
        np.asarray(lm.apply({"params": params}, y, method=predict))[0] for y in (past.y_BLD, y_BLD)
    )
    ends = np.flatnonzero(encoded.level[1:]) + 1
    assert len(ends) > 5
    for begin, end in itertools.product((None, int(ends[0])), ends[1:5].tolist()):
        cache = prompt(end if begin is None else begin)
        for at in range(end if begin is None else begin, end):
            _, cache = advanced(cache, at, draft=False)
        for at in (end, end + 1):
            logits, cache = advanced(cache, at, draft=True)
            np.testing.assert_allclose(logits, trained[at], rtol=0, atol=CLOSE)
        assert np.abs(trained[end] - usual[end]).max() > 100 * CLOSE


def test_the_backbone_does_not_help():
    """What is trained at an end does not depend on the backbone's output there: that of the chunk
    before is all there is.
    """
    lm = model("words")
    params = random_params(lm, LENGTH)
    trunk = config.replace(lm.trunk, backbone=Given())
    z, y = (
        jnp.asarray(np.random.default_rng(i).standard_normal((1, 4, 24)), jnp.float32)
        for i in (0, 1)
    )
    doc = jnp.ones((1, 4), jnp.int32)
    chunks = Seq(doc, doc, jnp.arange(4, dtype=jnp.int32)[None], jnp.zeros((1, 4), jnp.uint8))

    @jax.jit
    def outputs(y):
        given = {"shortcut": params["trunk"]["shortcut"], "backbone": {"y": y}}
        same, aux = trunk.apply({"params": given}, z, chunks, method="run_backbone")
        return same, aux.first(Guesses).short_BSE

    (same, a), (_, b) = outputs(y), outputs(y.at[:, 2].set(9.0))
    np.testing.assert_array_equal(same, y)
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert np.abs(a[:, 3] - b[:, 3]).max() > 100 * CLOSE
