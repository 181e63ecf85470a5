"""MuToR on Llama: where registers stand, what they see and predict, and the loss of both.

The reference fine-tunes on questions and answers: registers stand before the symbols of the answer,
and the question is read both ways (a prefix language model, with or without registers). Ours stand
behind every element, and those without a target are of no effect; reading both ways is added here.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from hlm import Embed, config
from hlm.model.lm import abstract_params
from hlm.nn import attention
from hlm.papers.mutor import Registers
from hlm.port import llama, table
from hlm.seq import Batch, seq_of
from hlm.split import Unsplit
from hlm.train.loss import loss_and_metrics
from hlm.vocab import Renumbered
from tests.parity.common import LOGITS, LOSS, Check, gradient, largest, rows, under, unequal

UNITS = ("mutor",)
IGNORED = -100  # label of what predicts nothing


class Given(Registers):
    """Registers that look a given number of steps ahead: `farthest`."""

    def ahead(self, key: Any, seq: Any) -> jax.Array:
        return jnp.full(seq.doc.shape, self.farthest, jnp.int32)


def units(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    cases = [(f"case{case['case']}", case["question"], case["offset"]) for case in meta["cases"]]
    cases.append(("model", meta["model"]["question"], meta["model"]["offset"]))
    found = [layout(*case, meta["reg_id"], arrays) for case in cases]
    for same in zip(*found, strict=True):  # one quantity in every case
        yield dataclasses.replace(same[0], difference=sum(check.difference for check in same))
    yield from trained(meta, arrays)


def batch_of(x: np.ndarray, question: int) -> Batch:
    """One row without BOS, of which only the answer is to be predicted."""
    target = np.pad(x[:, 1:], ((0, 0), (0, 1)))
    t = np.arange(x.shape[1])
    weight = np.broadcast_to((t >= question - 1) & (t < len(t) - 1), x.shape)
    return rows(x, target, weight, np.zeros(x.shape))


def places(
    name: str, question: int, arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(elements of the reference that we have, where ours are, which of them are registers).

    Before the first symbol is none of ours.
    """
    real, registers = arrays[f"{name}/real_idx"], arrays[f"{name}/reg_idx"]
    behind = np.arange(len(registers)) + question - 1
    theirs = np.concatenate([real, registers[behind >= 0]])
    ours = np.concatenate([2 * np.arange(len(real)), 2 * behind[behind >= 0] + 1])
    order = np.argsort(theirs)
    return theirs[order], ours[order], ours[order] % 2 == 1


def layout(
    name: str, question: int, offset: int, symbol: int, arrays: Mapping[str, np.ndarray]
) -> list[Check]:
    registers, batch = (
        Given(farthest=offset + 1, symbol=symbol),
        batch_of(arrays[f"{name}/x"], question),
    )
    ahead_BL = registers.ahead(None, seq_of(batch))
    seq = registers.beside(seq_of(batch), ahead_BL).seq
    theirs, ours, is_register = places(name, question, arrays)
    target_BL, weight_BL = registers.targets(batch, ahead_BL)
    targets = np.where(weight_BL > 0, target_BL, IGNORED)[0, ours[is_register] // 2]
    labels = arrays[f"{name}/labels"][0, theirs[is_register]]
    position = np.zeros(arrays[f"{name}/input_ids"].shape[1], int)
    position[arrays[f"{name}/real_idx"]] = np.arange(arrays[f"{name}/x"].shape[1])
    position[arrays[f"{name}/reg_idx"]] = arrays[f"{name}/reg_pos"]
    used = ~is_register
    used[is_register] = labels != IGNORED
    with both_ways(question):
        shares = shares_of(seq)
    note = (
        "of symbols, and registers with a target; other registers have the reference's last "
        "position"
    )
    return [
        unequal("symbols", seq.token[0, ours], arrays[f"{name}/input_ids"][0, theirs]),
        unequal("targets", targets, labels),
        unequal("positions", seq.pos[0, ours[used]], position[theirs[used]], note),
        unequal(
            "mask",
            shares[np.ix_(ours, ours)] > 0,
            arrays[f"{name}/allowed"][0][np.ix_(theirs, theirs)],
        ),
    ]


def shares_of(seq: Any) -> np.ndarray:
    """What each element takes of each, where no score prefers any: [2L, 2L]."""
    M = seq.doc.shape[1]
    none, one_hot = jnp.zeros((1, M, 1, M)), jnp.eye(M)[None, :, None]
    return np.asarray(attention.attend(none, none, one_hot, seq.doc, True, None, seq.query_only))[
        0, :, 0
    ]


@contextlib.contextmanager
def both_ways(question: int) -> Iterator[None]:
    """Elements of the question, of which every other is a register, see all of it."""
    causal = attention.attend

    def attend(q: Any, k: Any, v: Any, group: Any, *rest: Any) -> Any:
        asked = slice(0, 2 * question, 2)
        if question < 2:
            return causal(q, k, v, group, *rest)
        seen = causal(q[:, asked], k[:, asked], v[:, asked], group[:, asked], False, None)
        return causal(q, k, v, group, *rest).at[:, asked].set(seen)

    with mock.patch.object(attention, "attend", attend):
        yield


def trained(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    c = meta["model"]
    sizes = dict(
        hidden_size=c["d"],
        num_hidden_layers=c["L"],
        num_attention_heads=c["H"],
        intermediate_size=c["ff"],
    )
    # the case does not state eps; it is that of the other Llama cases
    like = dict(vocab_size=256, rms_norm_eps=1e-5, **sizes)
    registers = Given(farthest=c["offset"] + 1, symbol=meta["reg_id"])
    model = config.replace(
        llama.model(like, {})[0],
        codec=Renumbered(
            Unsplit(), size=c["vocab"], first=0, begin=meta["reg_id"], end=meta["reg_id"]
        ),
        embed=Embed(c["d"], size=c["vocab"]),
        objectives=(registers,),
    )
    shapes, table_rows = abstract_params(model, 8), llama.rows(like, {})

    def converted(weights: Mapping[str, np.ndarray]) -> Any:
        return table.convert(weights, table_rows, shapes)

    params, batch = converted(under("sd/", arrays)), batch_of(arrays["model/x"], c["question"])
    theirs, ours, is_register = places("model", c["question"], arrays)
    counted = ~is_register | (arrays["model/labels"][0, theirs] != IGNORED)

    def logits(params: Any) -> Any:
        seq = registers.beside(seq_of(batch), registers.ahead(None, seq_of(batch))).seq
        y_BMD = model.apply({"params": params}, seq, method="read")[0]
        return model.heads.apply({"params": params["heads"]}, y_BMD, model.codec.predicted)[0, :, 0]

    def loss(params: Any) -> Any:
        return loss_and_metrics(model, params, batch, None, 1.0, jax.random.key(0))

    with both_ways(c["question"]):
        yield Check(
            "logits",
            largest(jax.jit(logits)(params)[ours[counted]], arrays["logits32"][0, theirs[counted]]),
            LOGITS,
        )
        (total, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    of_registers = metrics["loss/registers"].value() / registers.loss_weight
    yield Check("loss of symbols", abs(metrics["loss"].value() - float(arrays["clm_loss"])), LOSS)
    yield Check("loss of registers", abs(of_registers - float(arrays["aux_loss"])), LOSS)
    share = 1 / (1 + registers.loss_weight)
    yield Check(
        "loss",
        abs(share * float(total) - float(arrays["loss32"])),
        LOSS,
        f"ours is {1 / share:.3f} times the reference's",
    )
    yield gradient(jax.tree.map(lambda g: share * g, grads), converted(under("grad/", arrays)))
