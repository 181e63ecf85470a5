"""Learned ends: their noise, their gradients, and the labels they learn from."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import BPE, Bytes
from hlm.auxiliary import Aux
from hlm.model.objective import Seen
from hlm.model.pool import Mean
from hlm.papers.dynamic_pooling import EndLogits, GivenEnds, Gumbel, Spikes, negentropy
from hlm.seq import Batch, Seq, boundaries, index_in_document, prefix_noise
from hlm.split import Unsplit
from hlm.subwords import Pieces

CLOSE = 1e-5


def row(*documents, length=None):
    """A Seq of one row with these texts, and padding."""
    token = np.concatenate([np.frombuffer(d, np.uint8).astype(np.int32) for d in documents])
    doc = np.concatenate([np.full(len(d), i + 1, np.int32) for i, d in enumerate(documents)])
    pad = (length or len(token)) - len(token)
    token, doc = (jnp.asarray(np.pad(a, (0, pad)))[None] for a in (token, doc))
    return Seq(token, doc, index_in_document(doc), jnp.zeros(doc.shape, jnp.uint8))


def batch_of(seq, label=None):
    return Batch(
        seq.token, seq.doc, seq.level, seq.token, jnp.ones(seq.doc.shape), seq.level, label
    )


def test_noise_is_of_the_document():
    """Not of its place, its neighbours or what follows; another key gives other noise, evenly
    spread.
    """
    key = jax.random.key(3)
    together = prefix_noise(key, row(b"abcdef", b"abcxyz", b"-" * 5, length=20))[0]
    alone = prefix_noise(key, row(b"abcxyz"))[0]
    np.testing.assert_array_equal(together[6:12], alone)
    np.testing.assert_array_equal(together[:3], alone[:3])
    assert not np.isclose(together[3:6], alone[3:]).any()
    assert len(set(np.asarray(together[12:17]).tolist())) == 5
    assert not np.isclose(prefix_noise(jax.random.key(4), row(b"abcxyz"))[0], alone).any()
    many = np.asarray(
        prefix_noise(key, row(np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()))
    )[0]
    assert np.abs(np.histogram(many, 8, (0, 1))[0] / 4000 - 1 / 8).max() < 0.02
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 0.05


def test_gumbel_draws_at_the_given_rate_and_falls_back_to_the_likelier():
    seq = row(np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes())
    gumbel, h_BLD = Gumbel(4, prior=0.3), jnp.zeros((1, 3000, 2))
    params = jax.tree.map(
        jnp.zeros_like,
        gumbel.init({"params": jax.random.key(0), "boundary": jax.random.key(0)}, h_BLD, seq),
    )
    params["params"]["end"]["out"]["bias"] += math.log(0.3 / 0.7)
    ends, prob, aux = gumbel.apply(params, h_BLD, seq, rngs={"boundary": jax.random.key(1)})
    assert abs(float(jnp.mean(ends)) - 0.3) < 0.03
    np.testing.assert_array_equal(prob, ends)
    k, n = float(jnp.sum(ends[:, 1:])), 2999  # the first element is no decision
    exact = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(0.3)
        + (n - k) * math.log(0.7)
    )
    assert aux.losses["loss/prior"].value() == pytest.approx(-exact / n, rel=1e-3)
    assert not gumbel.apply(params, h_BLD, seq)[0].any()


def test_pooling_teaches_the_decisions_of_the_open_chunk():
    """dL/db_j is the sum over later elements l of j's own chunk of (h_l - mean) dL/dmean / size; so
    none at an end (published code).
    """
    L, D = 12, 3
    rng = np.random.default_rng(0)
    ends = np.zeros((1, L), bool)
    ends[0, [0, 4, 5, 9]] = True
    seq = row(bytes(range(L)))
    h_BLD, g_BSD = (
        jnp.asarray(rng.standard_normal((1, L, D)), jnp.float32),
        rng.standard_normal((1, 5, D)).astype(np.float32),
    )

    def loss(prob_BL):
        b, _ = boundaries(jnp.asarray(ends), seq, 5, prob_BL)
        return jnp.sum(jnp.asarray(g_BSD) * Mean(None).apply({}, h_BLD, b))

    got = jax.grad(loss)(jnp.asarray(ends, jnp.float32))[0]
    expected, h = np.zeros(L), np.asarray(h_BLD)[0]
    for chunk, (start, stop) in enumerate([(0, 1), (1, 5), (5, 6), (6, 10)]):
        mean = h[start:stop].mean(0)
        for j in range(start, stop):
            expected[j] = sum((h[i] - mean) @ g_BSD[0, chunk] for i in range(j + 1, stop)) / (
                stop - start
            )
    np.testing.assert_allclose(got, expected, atol=CLOSE)
    assert np.abs(expected).max() > 0.1


def taught(objective, logit, decided, logits_BLV, batch):
    """The loss of these logits of ends, where the next symbol's logits are these."""
    aux = Aux(
        left=(EndLogits(jnp.asarray(logit, jnp.float32)[None], jnp.asarray(decided, bool)[None]),)
    )
    model = types.SimpleNamespace(
        codec=types.SimpleNamespace(predicted=None),
        heads=lambda y_BLV, predicted: y_BLV[:, :, None],
    )
    losses = objective.losses(
        Seen(model, batch, logits_BLV, None, aux, None, None, None, None, None)
    ).losses
    assert losses.keys() == {"loss/examples"}
    return losses["loss/examples"].value()


def test_spikes_are_elements_less_sure_than_those_before():
    seq = row(b"012345", b"0123", length=11)
    certain = np.array([9, 3, 2, 2, 1, 4, 9, 5, 4, 6, 0])  # how peaked the guess is at each element
    logits = np.zeros((1, 11, 4), np.float32)
    logits[0, :, 0] = certain
    decided = [0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0]
    # of each document's decisions: the first, and those below the two before
    expected = [1, 2, 4, 7, 8]
    score = np.linspace(-2, 2, 11)
    loss = taught(Spikes(2), score, decided, jnp.asarray(logits), batch_of(seq))
    target = np.isin(np.arange(11), expected)
    nll = np.log1p(np.exp(score)) - target * score
    assert loss == pytest.approx(nll[np.array(decided) > 0].mean(), rel=CLOSE)


def test_negentropy_is_exact_for_guesses_that_are_nearly_even():
    rng = np.random.default_rng(0)
    for size in (1e-3, 1.0, 20.0):
        x = rng.normal(0, size, (5, 33))
        p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        exact = math.log(33) + (p * np.log(p)).sum(-1)
        masked = np.concatenate([x, np.full((5, 2), -1e30)], -1)
        np.testing.assert_allclose(
            negentropy(jnp.asarray(masked, jnp.float32)), exact, rtol=1e-4, atol=1e-7 * size
        )


def test_labels_are_first_bytes_of_pieces():
    bpe = BPE.train([b"the white whale and the sailor " * 50], 300)
    codec = Bytes(split=Unsplit(), labels=Pieces(bpe.tokenizer))
    text = b"the white whale \xff and a sailor"
    lengths = [len(bpe.decode([t])) for t in bpe.encode(text, complete=False).token[1:]]
    starts = np.cumsum([0, *lengths[:-1]])
    encoded = codec.encode(text)
    np.testing.assert_array_equal(np.flatnonzero(encoded.label), starts + 1)


def test_given_ends_need_labels():
    seq = row(b"abc")
    with pytest.raises(ValueError, match="label"):
        taught(GivenEnds(), [0, 1, 2], [0, 1, 1], jnp.zeros((1, 3, 4)), batch_of(seq))
    loss = taught(
        GivenEnds(),
        [9, 1, 2],
        [0, 1, 1],
        jnp.zeros((1, 3, 4)),
        batch_of(seq, jnp.asarray([[1, 0, 1]], jnp.uint8)),
    )
    assert loss == pytest.approx((math.log1p(math.e) + math.log1p(math.exp(-2))) / 2, rel=CLOSE)
