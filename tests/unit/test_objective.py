"""Objectives: their weights, what they are given, and models that they cannot train."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from hlm import (
    LM,
    AdamW,
    Attention,
    Block,
    Bytes,
    Data,
    Embed,
    Experiment,
    Heads,
    Hierarchy,
    Stack,
    SwiGLU,
    TextFiles,
    config,
)
from hlm.auxiliary import Aux
from hlm.metrics import Mean, mean_of_rows
from hlm.model.lm import init_params
from hlm.model.objective import Ahead, Objective, Step
from hlm.model.pool import Select
from hlm.model.segment import Level
from hlm.model.unpool import Broadcast, Prefix
from hlm.nn.cross import ChunkMemory
from hlm.nn.stack import Trunk
from hlm.papers.chunk_mtp import ChunkMTP, ChunkMTPLoss, DraftingHierarchy
from hlm.papers.dynamic_pooling import GivenEnds, Predicted, Spikes
from hlm.papers.mutor import Registers
from hlm.papers.toucan import ChunkEnds, EndHeads, EndSlots
from hlm.seq import Batch
from hlm.split import Unsplit, Words
from hlm.train import step
from hlm.train.loss import head_weight, loss_and_metrics
from hlm.train.schedule import Cosine, Linear
from tests.laws.subjects import random_params

L, N = 12, 3
CLOSE = 1e-5


def stack():
    return Stack(1, Block(Attention(2), SwiGLU(8)))


def flat(objectives=(), **changes):
    return LM(
        **(
            dict(codec=Bytes(Unsplit()), embed=Embed(8), trunk=stack(), objectives=objectives)
            | changes
        )
    )


def hierarchy(kind=Hierarchy, segmenter=None, decoder=None, **more):
    parts = (stack(), segmenter or Level(1), Select(8), stack(), Prefix(), decoder or stack(), L)
    return kind(*parts, **more)


def ends_at_words(objectives, **changes):
    return flat(objectives, **(dict(codec=Bytes(Words()), trunk=hierarchy()) | changes))


def learned_ends(objectives):
    return flat(objectives, trunk=hierarchy(segmenter=Predicted(4)))


def drafting(objectives):
    return ends_at_words(objectives, trunk=hierarchy(DraftingHierarchy, shortcut=ChunkMTP(stack())))


def toucan(objectives):
    trunk = hierarchy(segmenter=Level(1), decoder=EndSlots(stack()), guide=ChunkMemory(1, None))
    return ends_at_words(
        objectives, trunk=config.replace(trunk, unpool=Broadcast()), heads=EndHeads(Heads())
    )


def batch_of(*lengths, seed=0):
    """A row for each length: a document of so many symbols and padding."""
    rng = np.random.default_rng(seed)
    token, target = (rng.integers(0, 256, (len(lengths), L)).astype(np.int32) for _ in range(2))
    doc = (np.arange(L)[None] < np.array(lengths)[:, None]).astype(np.int32)
    level = rng.integers(0, 2, doc.shape).astype(np.uint8)
    return Batch(token, doc, level, target, doc.astype(np.float32), doc.astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class Constant(Objective):
    """A loss of 1, by its weight."""

    def losses(self, seen):
        return Aux(
            losses={"loss/constant": Mean(jnp.float32(1) * self.weight(seen), jnp.float32(1))}
        )


@dataclasses.dataclass(frozen=True)
class ConfidencePenalty(Objective):
    """That of the docstring of hlm/model/objective.py."""

    def losses(self, seen):
        log_p_BLV = jax.nn.log_softmax(seen.logits(seen.y_BLD)[:, :, 0])
        nats_BL = jnp.sum(jnp.exp(log_p_BLV) * log_p_BLV, axis=-1)
        return Aux(
            losses={
                "loss/confidence": mean_of_rows(
                    self.weight(seen) * nats_BL, seen.weight_BLN[:, :, 0]
                )
            }
        )


def loss_of(model, batch, now=None, share=1.0, key=None):
    loss, metrics = loss_and_metrics(model, random_params(model, L), batch, now, share, key)
    return float(loss), {name: m.value() for name, m in metrics.items()}


@pytest.mark.usefixtures("optax_promotes")
def test_a_weight_follows_its_schedule_in_training():
    """By the step that training has come to, of all its steps; in evaluation it is whole."""
    model = flat((Constant(loss_weight=0.5, schedule=Linear(0.2)),))
    text = TextFiles(("corpus:mobydick/test.txt",))
    exp = Experiment(model, Data(text, L), text, text, AdamW(1e-3, 0), steps=100, rows=2)
    params = init_params(model, L, 0)
    run, batch = jax.jit(lambda state, batch: step.train_step(exp, state, batch)[1]), batch_of(L, 7)
    for done, factor in ((0, 1.0), (25, 0.8), (100, 0.2), (300, 0.2)):
        metrics = run(
            step.State(jnp.int32(done), params, exp.optim.build(exp.steps).init(params)), batch
        )
        assert metrics["loss/constant"].value() == pytest.approx(0.5 * factor)
    assert step.eval_step(model, params, batch)["loss/constant"].value() == 0.5


@pytest.mark.parametrize("schedule", [None, Linear(), Cosine(0.1)], ids=lambda s: type(s).__name__)
def test_losses_are_added_by_their_weight(schedule):
    batch, now = batch_of(L, 5), Step(jnp.int32(3), 12, jnp.float32([L + 5]))
    factor = 1 if schedule is None else float(schedule(jnp.float32(0.25)))
    (without, _), (added, metrics), (evaluated, _) = (
        loss_of(flat(), batch, now),
        loss_of(
            flat(
                (Constant(loss_weight=0.5, schedule=schedule), ConfidencePenalty(loss_weight=0.0))
            ),
            batch,
            now,
        ),
        loss_of(flat((Constant(loss_weight=0.5, schedule=schedule),)), batch),
    )
    assert added - without == pytest.approx(0.5 * factor, rel=CLOSE)
    assert metrics["loss/constant"] == pytest.approx(0.5 * factor, rel=CLOSE)
    assert metrics["loss/confidence"] == 0
    assert evaluated - without == pytest.approx(0.5, rel=CLOSE)


def test_an_objective_sees_logits_and_weights():
    batch = batch_of(L, 5)
    model = flat((ConfidencePenalty(loss_weight=2.0),))
    logits = np.asarray(
        model.apply({"params": random_params(model, L)}, batch, method="logits"), np.float64
    )[:, :, 0]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), axis=-1)
    expected = 2 * np.mean([nats[0].mean(), nats[1, :5].mean()])
    assert loss_of(model, batch)[1]["loss/confidence"] == pytest.approx(expected, rel=1e-4)


def test_further_heads_share_one_weight():
    batch, now = batch_of(L, 5), Step(jnp.int32(0), 10, jnp.float32([17, 15, 13]))
    model, alone = (flat((Ahead(loss_weight=w),), heads=Heads(ahead=N)) for w in (0.5, 0.0))
    for when in (None, now):
        loss, metrics = loss_of(model, batch, when)
        extra = [metrics[f"loss_ahead_{i}"] for i in (2, 3)]
        assert [metrics[f"loss/ahead_{i}"] for i in (2, 3)] == pytest.approx(
            [0.25 * nats for nats in extra], rel=CLOSE
        )
        assert loss - loss_of(alone, batch, when)[0] == pytest.approx(0.25 * sum(extra), rel=1e-4)
    with_no_loss = loss_of(alone, batch)
    assert with_no_loss[0] == pytest.approx(with_no_loss[1]["loss"], rel=CLOSE)


def test_micro_batches_add_up():
    """Whatever of the batch's targets each of them holds."""
    batch, model = batch_of(L, 2, L - 1, 4), flat((Ahead(loss_weight=0.5),), heads=Heads(ahead=N))
    weight_N, params = head_weight(model, batch), random_params(model, L)

    def gradient(rows, k):
        """(loss, metrics, gradients) of these rows as one of k micro-batches."""
        now = Step(jnp.int32(0), 10, weight_N / k)
        micro = jax.tree.map(lambda a: a[rows], batch)
        (loss, metrics), grads = jax.jit(
            jax.value_and_grad(
                lambda p: loss_and_metrics(model, p, micro, now, 1 / k, None), has_aux=True
            )
        )(params)
        return loss, metrics, grads

    whole = gradient(slice(None), 1)
    parts = jax.tree.map(jnp.add, *(gradient(slice(i, None, 2), 2) for i in range(2)))
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=CLOSE)
    # The mean of micro-batches by themselves is something else here.
    apart = [loss_of(model, jax.tree.map(lambda a, i=i: a[i::2], batch))[0] for i in range(2)]
    assert abs(np.mean(apart) - float(whole[0])) > 100 * CLOSE


REFUSED = {
    "ends_without_teacher": (
        learned_ends,
        (),
        r"none of \(\) learns from EndLogits; give for example hlm.dynamic_pooling.Spikes",
    ),
    "slots_without_their_loss": (
        toucan,
        (),
        r"none of \(\) learns from Endings; add hlm.toucan.ChunkEnds\(\)",
    ),
    "drafts_without_their_loss": (
        drafting,
        (),
        r"none of \(\) learns from PastBackbone; add hlm.chunk_mtp.ChunkMTPLoss\(\)",
    ),
    "another_objective": (
        learned_ends,
        (Constant(),),
        r"none of \(Constant\(.*\),\) learns from EndLogits",
    ),
    "teacher_without_pupil": (
        ends_at_words,
        (Spikes(2),),
        r"Spikes\(.*\) learns from EndLogits, and no part of the model leaves any",
    ),
    "teacher_of_a_flat_model": (
        flat,
        (Spikes(2),),
        r"Spikes\(.*\) learns from EndLogits, and no part of the model leaves any",
    ),
    "labels": (
        learned_ends,
        (GivenEnds(),),
        r"model\.codec\.labels: none, but the objective GivenEnds learns from them",
    ),
    "ends_without_slots": (
        ends_at_words,
        (ChunkEnds(),),
        r"heads: the objective ChunkEnds needs hlm.toucan.EndHeads, not Heads",
    ),
    "drafts_of_a_hierarchy": (
        ends_at_words,
        (ChunkMTPLoss(),),
        r"ChunkMTPLoss needs .*DraftingHierarchy, not Hierarchy",
    ),
    "two_of_one_name": (flat, (Constant(), Constant(loss_weight=2.0)), r"loss/constant"),
    "two_longer_rows": (
        flat,
        (Registers(), Constant(), Registers(farthest=2)),
        r"objectives: \[Registers.*each make rows longer",
    ),
    "ahead_of_one_head": (
        flat,
        (Ahead(),),
        r"objectives: Ahead trains further heads; heads.ahead is 1, give 2 or more",
    ),
}


@pytest.mark.parametrize(("make", "objectives", "message"), REFUSED.values(), ids=REFUSED)
def test_models_that_cannot_be_trained_are_refused(make, objectives, message):
    """Before anything is computed."""
    with pytest.raises(ValueError, match=message) as refused:
        jax.eval_shape(lambda: init_params(make(objectives), L, 0))
    assert "\n" not in str(refused.value).split("\n-----")[0]


@struct.dataclass
class Left:
    """Activations of one's own."""

    h_BLD: jax.Array


class Leaving(Trunk):
    def __call__(self, x_BLD, seq, group_BL=None):
        return x_BLD, Aux(left=(Left(x_BLD),))


@dataclasses.dataclass(frozen=True)
class Taking(Objective):
    takes: ClassVar[type] = Left

    def losses(self, seen):
        (found,) = seen.aux.all(Left)
        return Aux(
            losses={
                "loss/left": mean_of_rows(
                    self.weight(seen) * found.h_BLD[:, :, 0], seen.weight_BLN[:, :, 0]
                )
            }
        )


def test_activations_of_ones_own():
    with pytest.raises(ValueError, match=r"none of \(Constant\(.*\),\) learns from Left"):
        loss_of(flat((Constant(),), trunk=Leaving()), batch_of(L))
    batch, model = batch_of(L), flat((Taking(loss_weight=3.0),), trunk=Leaving())
    embedded = random_params(model, L)["embed"]["embedding"][batch.token[0], 0]
    assert loss_of(model, batch)[1]["loss/left"] == pytest.approx(3 * embedded.mean(), rel=CLOSE)


def test_what_is_taken_is_not_refused():
    for make, objective in (
        (learned_ends, Spikes(2)),
        (toucan, ChunkEnds()),
        (drafting, ChunkMTPLoss()),
    ):
        _, metrics = loss_of(make((objective,)), batch_of(L, 5))
        assert [name for name in metrics if name.startswith("loss/")] != []


def test_further_heads_that_nobody_trains_are_refused():
    """But for logits, which need no training."""
    model, trained = (flat(objectives, heads=Heads(ahead=2)) for objectives in ((), (Ahead(),)))
    message = r"heads\.ahead: 2 heads, but objectives train one only; add hlm\.objective\.Ahead\(\)"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: init_params(model, L, 0))
    params, batch = random_params(trained, L), batch_of(L)
    with pytest.raises(ValueError, match=message):
        model.apply({"params": params}, batch)
    logits = model.apply({"params": params}, batch, method="logits")
    assert np.array_equal(logits, trained.apply({"params": params}, batch, method="logits"))


def test_weights_below_zero_are_refused():
    for kind in (Constant, Spikes, Registers, Ahead, ChunkEnds):
        with pytest.raises(
            ValueError, match=rf"{kind.__name__}\.loss_weight: -1 must be at least 0"
        ):
            kind(loss_weight=-1)
