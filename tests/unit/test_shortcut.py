"""The shortcut past the backbone: what it is trained on is what drafts get from it."""

import jax
import jax.numpy as jnp
import numpy as np

from hlm.infer.automaton import longest_chunk
from hlm.infer.loop import predict
from hlm.model.shortcut import PAST_BACKBONE, shifted
from hlm.nn.memory import CACHE
from hlm.seq import Seq, Stream
from tests.laws.subjects import random_params
from tests.unit.test_loop import LENGTH, model

CLOSE = 1e-4  # logits are about 1
TEXT = b"one two seven, and more words than that "


def test_drafts_get_what_was_trained():
    """At the end of each chunk and behind it, from a prompt that ends just before."""
    lm = model("words")
    params = random_params(lm, LENGTH)
    encoded = lm.codec.encode(TEXT, complete=False)
    token_BL, level_BL = jnp.asarray(encoded.token)[None], jnp.asarray(encoded.level)[None]
    pos_BL = jnp.arange(token_BL.shape[1], dtype=jnp.int32)[None]

    def seq(start, stop, stream=None):
        part = slice(start, stop)
        return Seq(token_BL[:, part], jnp.ones_like(pos_BL[:, part]), pos_BL[:, part], level_BL[:, part], None, stream)

    def stream(fresh, draft=False):
        return Stream(fresh, back=3, ends=1, room=(LENGTH, 48), longest=(longest_chunk(lm.codec), None), draft=draft)

    y_BLD, metrics = lm.apply({"params": params}, seq(0, None), method="read")
    trained, usual = (np.asarray(lm.apply({"params": params}, y, method=predict))[0] for y in (metrics[PAST_BACKBONE].total, y_BLD))
    ends = np.flatnonzero(encoded.level[1:]) + 1
    assert len(ends) > 5
    for end in ends[1:5].tolist():
        _, state = lm.apply({"params": params}, seq(0, end, stream(True)), method="read", mutable=[CACHE])
        for at in (end, end + 1):
            (logits, _), state = lm.apply(
                {"params": params, CACHE: state[CACHE]},
                seq(at, at + 1, stream(False, draft=True)),
                method="advance",
                mutable=[CACHE],
            )
            np.testing.assert_allclose(logits[0, 0], trained[at], rtol=0, atol=CLOSE)
        assert np.abs(trained[end] - usual[end]).max() > 100 * CLOSE


def test_the_backbone_does_not_help():
    """What is trained at an end does not depend on the backbone's output there: that of the chunk before is all there is."""
    lm = model("words")
    params = random_params(lm, LENGTH)
    shortcut = lm.trunk.shortcut
    z, y = (jnp.asarray(np.random.default_rng(i).standard_normal((1, 4, 24)), jnp.float32) for i in (0, 1))
    doc = jnp.ones((1, 4), jnp.int32)
    chunks = Seq(doc, doc, jnp.arange(4, dtype=jnp.int32)[None], jnp.zeros((1, 4), jnp.uint8))

    def outputs(y):
        before = shifted(y, jnp.asarray([[True, False, False, False]]))
        return jax.jit(shortcut.apply)({"params": params["trunk"]["shortcut"]}, before, z, chunks)

    a, b = outputs(y), outputs(y.at[:, 2].set(9.0))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert np.abs(a[:, 3] - b[:, 3]).max() > 100 * CLOSE
