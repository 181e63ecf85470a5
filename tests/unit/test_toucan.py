"""Decoders that say where their chunk ends: against the published layout, and as a distribution
over texts.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from hlm import (
    LM,
    AdamW,
    Attention,
    Block,
    Data,
    Embed,
    Experiment,
    Heads,
    Hierarchy,
    LanguageModel,
    Stack,
    SwiGLU,
    TextFiles,
)
from hlm.auxiliary import Aux
from hlm.model.lm import abstract_params
from hlm.model.objective import Seen
from hlm.model.pool import Mean
from hlm.model.unpool import Broadcast
from hlm.nn.cross import ChunkMemory
from hlm.papers.dynamic_pooling import Gumbel
from hlm.papers.toucan import ChunkEnds, EndHeads, Endings, EndSlots, and_end
from hlm.seq import Seq, index_in_document
from hlm.sharding import Mesh
from hlm.split import Unsplit
from hlm.vocab import BYTE_SYMBOLS, EOW, utf8
from tests.laws.test_accounting import SUM, Toy, total_probability
from tests.unit.cuts import B, D, L, S, compiled, cuts, values
from tests.unit.test_lyt import documents

CLOSE = 5e-5
PROBABILITY, NATS = 1e-5, 1e-4
PREDICTED = np.arange(BYTE_SYMBOLS) < 256


def randomly(shapes, scale=0.5):
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(
        tree, [scale * values(*a.shape, seed=i) for i, a in enumerate(leaves)]
    )


@settings(deadline=None, max_examples=15)
@given(cuts())
def test_only_ends_are_in_the_decoder_as_published(b):
    """One document after the other: elements, and in front of those that end a chunk the
    end-of-token symbol; without positions.
    """
    stack = Stack(2, Block(Attention(2, rope=None), SwiGLU(8)))
    decoder, doc_BL = EndSlots(stack), documents(b)
    x_BLD, memory = values(B, L, D), ChunkMemory(1, None).apply({}, values(B, S, D, seed=1), b)
    seq = Seq(doc_BL, doc_BL, index_in_document(doc_BL), doc_BL.astype(np.uint8))
    params = randomly(
        jax.eval_shape(lambda: decoder.init(jax.random.key(0), x_BLD, seq, b.seen, memory))[
            "params"
        ]
    )
    y_BL2D, aux = compiled(decoder)(params, x_BLD, seq, b.seen, memory)
    (found,) = aux.all(Endings)
    for row in range(B):
        places, inputs, doc = [], [], []
        for t in range(L):
            if b.ends[row, t] and t and doc_BL[row, t - 1] == doc_BL[row, t]:
                places.append((t - 1, 1))
                inputs.append(memory.slots_BSND[row, b.seen[row, t - 1], 0] + params["stop"])
                doc.append(doc_BL[row, t])
            places.append((t, 0))
            inputs.append(x_BLD[row, t])
            doc.append(doc_BL[row, t])
        room = 2 * L - len(doc)  # of one shape, with padding
        doc = np.array([doc + [0] * room], np.int32)
        published = Seq(doc, doc, index_in_document(doc), doc.astype(np.uint8))
        want = compiled(stack)(
            params["trunk"], np.array([*inputs, *[np.zeros(D)] * room], np.float32)[None], published
        )[0][0]
        got = np.stack([y_BL2D[row, t, slot] for t, slot in places])
        np.testing.assert_allclose(got, want[: len(places)], atol=CLOSE, rtol=CLOSE)
        same = np.append(doc_BL[row, 1:] == doc_BL[row, :-1], False)
        assert np.array_equal(found.known_BL[row], same)
        assert np.array_equal(found.ends_BL[row], same & np.append(b.ends[row, 1:], False))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_heads_sum_both_ways_and_learn_which():
    y, target = (
        values(B, L, 2, D),
        np.random.default_rng(0).integers(0, 256, (B, L, 2)).astype(np.int32),
    )
    head = values(D, 2, BYTE_SYMBOLS, seed=1)
    head[:, 0, EOW] *= 5  # it is the best guess of about half the elements
    heads = EndHeads(Heads(ahead=2)).bind({"params": {"heads": {"head": head}}})

    raw = np.einsum("blsd,dnv->blsnv", y, head)
    symbol_or_end = np.where(np.arange(BYTE_SYMBOLS) == EOW, True, PREDICTED)
    at, behind = (
        log_softmax(np.where(ok, raw[:, :, i], -1e30))
        for i, ok in enumerate((symbol_or_end, PREDICTED))
    )
    logits = np.asarray(heads(y, PREDICTED))
    chosen = np.take_along_axis(at, target[..., None], -1)[..., 0]
    through_end = at[:, :, 0, EOW] + np.take_along_axis(behind, target[..., None], -1)[:, :, 0, 0]
    either = np.exp(at[:, :, 0]) + np.exp(at[:, :, 0, EOW, None] + behind[:, :, 0])
    np.testing.assert_allclose(np.exp(logits[:, :, 0, :256]), either[..., :256], atol=PROBABILITY)
    np.testing.assert_allclose(np.exp(logits[:, :, 0]).sum(-1), 1, atol=PROBABILITY)
    np.testing.assert_allclose(logits[:, :, 1, :256], at[:, :, 1, :256], atol=NATS)
    nll, hit = heads(y, PREDICTED, target)
    np.testing.assert_allclose(nll[..., 0], -np.logaddexp(chosen[..., 0], through_end), atol=NATS)
    np.testing.assert_allclose(nll[..., 1], -chosen[..., 1], atol=NATS)
    stops = at[:, :, 0].argmax(-1) == EOW
    assert 0 < stops.sum() < stops.size
    guess = np.where(stops, behind[:, :, 0].argmax(-1), at[:, :, 0].argmax(-1))
    assert np.array_equal(
        heads(y, PREDICTED, np.repeat(guess[..., None], 2, -1).astype(np.int32))[1], np.ones((B, L))
    )
    assert np.array_equal(hit, guess == target[..., 0])

    ends = np.random.default_rng(1).random((B, L)) < 0.5
    model = types.SimpleNamespace(heads=heads, codec=types.SimpleNamespace(predicted=PREDICTED))
    aux = Aux(left=(Endings(ends, np.ones((B, L), bool)),))
    seen = Seen(model, None, y, None, aux, target, np.ones((B, L, 2), np.float32), nll, None, None)
    loss = ChunkEnds().losses(seen).losses
    assert loss.keys() == {"loss/ending"}
    published = -np.where(ends, through_end, chosen[..., 0]).mean()
    np.testing.assert_allclose(
        loss["loss/ending"].value() + nll[..., 0].mean(), published, rtol=PROBABILITY
    )
    half = ChunkEnds(loss_weight=0.5).losses(seen).losses["loss/ending"]
    np.testing.assert_allclose(half.value(), loss["loss/ending"].value() / 2, rtol=PROBABILITY)


def test_codecs_without_the_symbol():
    with pytest.raises(
        ValueError, match=r"EndHeads needs symbol 258 \(EOW\), unused; this codec has 256 symbols"
    ):
        and_end(utf8(Unsplit()).predicted)
    with pytest.raises(ValueError, match="unused"):
        and_end(np.ones(BYTE_SYMBOLS, bool))


def toucan(length):
    stack = Stack(1, Block(Attention(2), SwiGLU(16)))
    trunk = Hierarchy(
        encoder=Stack(1, Block(Attention(2), SwiGLU(16))),
        segmenter=Gumbel(8),
        pool=Mean(None, null=True),
        backbone=Stack(1, Block(Attention(2), SwiGLU(16))),
        unpool=Broadcast(project=False),
        decoder=EndSlots(stack),
        capacity=length,
        skip_input=True,
        guide=ChunkMemory(1, None),
    )
    model = LM(
        codec=Toy(Unsplit()),
        embed=Embed(16),
        trunk=trunk,
        heads=EndHeads(Heads()),
        norm=None,
        objectives=(ChunkEnds(),),
    )
    text = TextFiles(("corpus:mobydick/test.txt",))
    exp = Experiment(
        model=model,
        data=Data(text, length),
        valid=text,
        test=text,
        optim=AdamW(1e-3, warmup=0),
        steps=1,
        rows=32,
    )
    params = jax.tree.map(jnp.asarray, randomly(abstract_params(model, length)))
    return LanguageModel(exp, params, Mesh().make(jax.devices()[:1]))


@pytest.mark.parametrize("length", [6, 9])
def test_the_probabilities_of_all_texts_sum_to_one(length):
    """In one row of 8 symbols and in several; whatever the segmenter makes of them."""
    lm = toucan(8)
    assert total_probability(lm, "a ", length) == pytest.approx(1, abs=SUM)
    assert 1 < lm.score("aa a aaa a")[0].chunks < 11
