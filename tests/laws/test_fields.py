"""The law of fields: every field of a config changes the parameters, the program or the data. An
option that nobody reads fails here.

A field counts once for each place in which its class is used (by the classes around it), in the
first config that has it there.
"""

import dataclasses
import functools
import hashlib
import json
import typing

import flax
import jax
import jax.numpy as jnp
import numpy as np

from hlm import BPE, RMSNorm, Rope, Unigram, config
from hlm.auxiliary import Aux
from hlm.data import pipeline
from hlm.metrics import mean_of_rows
from hlm.model.lm import abstract_params, init_params
from hlm.model.objective import Objective, Step
from hlm.nn.basic import Normal
from hlm.registry import KNOWN
from hlm.seq import Batch
from hlm.train import step
from hlm.train.average import EMA
from hlm.train.guard import SpikeGuard
from hlm.train.loss import head_weight, loss_and_metrics
from hlm.train.schedule import Linear
from tests.laws.subjects import TINY, budget, every_config, experiment, small


@dataclasses.dataclass(frozen=True)
class Smaller(Objective):
    """Outputs, wanted small: an objective that any LM can have."""

    def losses(self, seen):
        nll_BL = self.weight(seen) * jnp.mean(seen.y_BLD**2, axis=tuple(range(2, seen.y_BLD.ndim)))
        return Aux(losses={"loss/size": mean_of_rows(nll_BL, seen.weight_BLN[:, :, 0])})


ROWS = 2


# --- what a config decides, from the cheapest to the dearest: a difference in one spares the others


def program(f, *arguments):
    closed = jax.make_jaxpr(f)(*arguments)
    constants = [hashlib.sha1(np.asarray(c).tobytes()).hexdigest() for c in closed.consts]
    return f"{closed.jaxpr} {constants}"


def loss_program(exp, params):
    """Of the parameters of the unchanged config: that they do not fit shows that shapes changed."""

    def run(params, batch):
        key = jax.random.key(0)
        now = Step(jnp.zeros((), jnp.int32), exp.steps, head_weight(exp.model, batch, key))
        return loss_and_metrics(exp.model, params, batch, now, 1.0, key)

    return program(run, params, step.abstract_batch(ROWS, exp.data.length))


def init_program(exp, _):
    return program(functools.partial(init_params, exp.model, exp.data.length, exp.seed))


def optimizer_program(exp, _):
    """On two parameters of each name that the optimizer tells apart: if it looked at more,
    `step_program` would show it.
    """
    params = {
        path: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        for path in ("trunk", *exp.optim.multipliers)
    }

    def run(grads):
        chain = exp.optim.build(exp.steps)
        return chain.update(grads, chain.init(params), params)

    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        return program(run, params)


def step_program(exp, _):
    abstract = step.init_state(exp, config.Mesh().make(jax.devices()[:1]))[0]
    return program(
        lambda state, batch: step.train_step(exp, state, batch),
        abstract,
        step.abstract_batch(exp.rows, exp.data.length),
    )


def batches(exp, _):
    """A hash of the first batches; more of them than rows that are shuffled together."""
    found = hashlib.sha1()
    data = pipeline.batches(exp.data, exp.model.codec, budget(exp), exp.rows, exp.seed)
    for _ in range(8):
        for field, values in Batch(**next(data)).__dict__.items():
            found.update(field.encode() + repr(values.shape).encode() + values.tobytes())
    data.close()
    return found.hexdigest()


def evaluation_texts(exp, _):
    found = hashlib.sha1()
    for source in (exp.valid, exp.test):
        for record in source.open():
            found.update(record.text + bytes([record.complete]))
    return found.hexdigest()


def mesh(exp, _):
    return str(exp.mesh.make(jax.devices()).shape)


EFFECTS = {
    "model": (loss_program, init_program, batches),
    "data": (batches,),
    "optim": (optimizer_program,),
    "valid": (evaluation_texts,),
    "test": (evaluation_texts,),
    "mesh": (mesh,),
    "steps": (optimizer_program,),
    "rows": (batches,),
    "accumulate": (step_program,),
    "seed": (init_program, step_program),
    "guard": (step_program,),
    "average": (step_program,),
}


# --- the fields, and other values for each


def places(node, path=(), around="Experiment"):
    """(path, class that holds the field, signature) of every field below a node."""
    kinds = ",".join(type(getattr(node, f)).__name__ for f in config.fields(node))
    for field in config.fields(node):
        value, hint = getattr(node, field), typing.get_type_hints(type(node))[field]
        here = (*path, field)
        yield (
            here,
            f"{type(node).__name__}.{field}",
            (path[:1], around, type(node).__name__, kinds, field),
            hint,
        )
        below = [(here, value)] if dataclasses.is_dataclass(value) else []
        if isinstance(value, tuple):
            below = [
                ((*here, str(i)), v) for i, v in enumerate(value) if dataclasses.is_dataclass(v)
            ]
        for deeper, child in below:
            yield from places(child, deeper, f"{type(node).__name__}.{field}")


def others(value, hint, name):
    """Values to try in place of `value`; none if only the fields below can change."""
    kinds = set(typing.get_args(hint)) or {hint}
    if isinstance(value, bool):
        return [not value]
    if name in SPECIAL:
        return SPECIAL[name](value)
    if isinstance(value, int):
        return [value + 1, value * 2, max(value // 2, 1), 1, 2, 3, 16] + (
            [None] if type(None) in kinds else []
        )
    if isinstance(value, float):
        return [value * 0.5, value + 0.25]
    if value is None:
        return [
            v for kind in kinds for v in FROM_NONE.get(getattr(kind, "__name__", str(kind)), [])
        ]
    if typing.get_origin(hint) is typing.Literal:
        return [v for v in typing.get_args(hint) if v != value]
    if isinstance(value, dict):
        return [{"trunk": 0.5}]
    if isinstance(value, tuple) and not any(dataclasses.is_dataclass(v) for v in value):
        return [(*value[:-1], value[-1] * 2), (*value, value[-1] * 2), value[:-1]]
    if dataclasses.is_dataclass(value):
        return [None] if type(None) in kinds else []
    raise AssertionError(
        f"no other value of {name} = {value!r} is known here: add one to SPECIAL or FROM_NONE"
    )


def other_tokenizer(value):
    """Of the same kind."""
    kind = Unigram if json.loads(value)["model"]["type"] == "Unigram" else BPE
    return [kind.train([b"another text for another tokenizer"] * 4, 300).tokenizer]


FROM_NONE = {
    "int": [1, 2, 4, 16, 48],
    "float": [0.5],
    "str": ["\n\n"],
    "Guard": [SpikeGuard()],
    "Average": [EMA()],
    "Norm": [RMSNorm()],
    "Normal": [Normal()],
    "Rope": [Rope()],
    "Block": [],
    "Module": [],
    "Schedule": [Linear()],
}
SPECIAL = {
    "LM.objectives": lambda value: [(*value, Smaller())],
    "TextFiles.paths": lambda value: [
        ("corpus:mobydick/test.txt",),
        ("corpus:mobydick/valid.txt",),
    ],
    "LM.dtype": lambda value: ["bfloat16"],
    "MaskedLM.dtype": lambda value: ["bfloat16"],
    "BPE.tokenizer": other_tokenizer,
    "Unigram.tokenizer": other_tokenizer,
    "Pieces.tokenizer": other_tokenizer,
    "WordPieces.tokenizer": other_tokenizer,
    "Stack.block": lambda value: [],  # a stack of depth 0 has none, any other must have one
    "Chain.parts": lambda value: [value[:-1]],
    "Block.mlp": lambda value: [None] if value is not None else [],
}


@functools.cache
def first():
    """signature -> (config, path) where it is met first."""
    found = {}
    for name in TINY:
        for path, _, signature, _ in places(experiment(name)):
            found.setdefault(signature, (name, path))
    return found


@every_config
def test_every_field_is_read(name):
    exp = config.replace(
        small(name), rows=ROWS, data=config.replace(small(name).data, window=4), steps=1000
    )
    unread, tried, effects = [], 0, {}
    for path, field, signature, hint in places(exp):
        if is_free(exp, path) or first().get(signature) != (name, path):
            continue
        part = functools.reduce(
            lambda node, key: node[int(key)] if isinstance(node, tuple) else getattr(node, key),
            path[:-1],
            exp,
        )
        if field.endswith(".skip_input") and not part.unpool.reads_skip:
            continue
        if field.endswith(".keep_projections") and not part.remat:
            continue  # nothing is computed again; tests/unit/test_stack.py
        if field == "LM.objectives" and "frozen" in path:
            continue  # it is not trained
        old = functools.reduce(
            lambda node, key: node[int(key)] if isinstance(node, tuple) else getattr(node, key),
            path,
            exp,
        )
        values = [v for v in others(old, hint, field) if v != old]
        if not values:
            continue
        tried += 1
        if not any(has_effect(exp, path, value, EFFECTS[path[0]], effects) for value in values):
            unread.append(f"{'.'.join(path)} = {old!r}, tried {values}")
    assert not unread, "fields without effect:\n" + "\n".join(unread)
    assert tried or name != TINY[0], "nothing was tried"


def has_effect(exp, path, value, section, known):
    """Whether `value` at `path` changes something.

    That the program cannot be built with it is also a change.
    """
    try:
        changed = changed_at(exp, path, value)
    except ValueError:
        return False
    if "params" not in known:
        known["params"] = abstract_params(exp.model, exp.data.length)
    params = known["params"]
    for effect in section:
        if effect not in known:
            known[effect] = effect(exp, params)
        try:
            if effect(changed, params) != known[effect]:
                return True
        except (ValueError, TypeError, flax.errors.FlaxError):
            return True
    return False


def changed_at(node, path, value):
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        i = int(head)
        return (*node[:i], changed_at(node[i], rest, value) if rest else value, *node[i + 1 :])
    return config.replace(
        node, **{head: changed_at(getattr(node, head), rest, value) if rest else value}
    )


def is_free(exp, path):
    """Whether the class says that the field changes nothing (`config.free`)."""
    part = functools.reduce(
        lambda node, key: node[int(key)] if isinstance(node, tuple) else getattr(node, key),
        path[:-1],
        exp,
    )
    (field,) = (f for f in dataclasses.fields(part) if f.name == path[-1])
    return bool(field.metadata.get("free"))


def test_free_fields_are_few_and_say_why():
    """No part of a model has one."""
    found = {
        f"{cls.__name__}.{f.name}": f.metadata["free"]
        for cls in KNOWN
        for f in dataclasses.fields(cls)
        if "free" in f.metadata
    }
    assert {name.partition(".")[0] for name in found} == {
        "Every",
        "Experiment",
        "Data",
        "TextFiles",
    }
    assert all(len(why) > 8 for why in found.values())
