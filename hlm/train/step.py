"""The training state, the training step and the evaluation step: functions of (state, batch)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hlm import sharding
from hlm.config import Experiment, fields
from hlm.metrics import Metrics, ratio
from hlm.model.embed import Embedding
from hlm.model.lm import Model, init_params
from hlm.model.objective import Step
from hlm.seq import Batch
from hlm.train.loss import head_weight, loss_and_metrics

Array = jax.Array
DTYPES = ("float32", "bfloat16", "float16")  # of activations


@struct.dataclass
class State:
    """What a step changes."""

    step: Array  # int32: steps done
    params: Any
    optim: Any
    average: Any = None  # of the parameters, if the experiment has one (hlm/train/average.py)
    guard: Any = None  # what it has seen, if there is one (hlm/train/guard.py)


def abstract_batch(rows: int, length: int) -> Batch:
    """Shapes and dtypes of a batch, without data."""
    shape = (rows, length)
    ints, bytes_ = (jax.ShapeDtypeStruct(shape, t) for t in (jnp.int32, jnp.uint8))
    floats = jax.ShapeDtypeStruct(shape, jnp.float32)
    return Batch(
        token=ints, doc=ints, level=bytes_, target=ints, weight=floats, nbytes=bytes_, label=ints
    )


def check(exp: Experiment, mesh: jax.sharding.Mesh, abstract: State) -> None:
    """Refuse sizes and models that cannot run, before anything is compiled: the step is traced for
    its shapes.
    """
    shards = int(np.prod([mesh.shape[axis] for axis in sharding.RULES["batch"]]))
    if exp.rows // exp.accumulate % shards:
        raise ValueError(
            f"rows: {exp.rows} / accumulate {exp.accumulate} is not a multiple of the "
            f"{shards} data-parallel devices: give {divisible(exp, shards)}, or split the model "
            "over some of them (mesh.model)"
        )
    places: dict[int, str] = {}
    for place, module in modules(exp.model, "model"):
        if id(module) in places:
            raise ValueError(
                f"{place} and {places[id(module)]} are one object, which would tie their "
                "weights: construct each on its own"
            )
        places[id(module)] = place
        if isinstance(module, Embedding) and (size := vars(module)["size"]) < exp.model.codec.size:
            raise ValueError(
                f"{place}.size: {size} vectors for the {exp.model.codec.size} symbols of "
                f"{exp.model.codec}"
            )
    jax.eval_shape(
        lambda state, batch: train_step(exp, state, batch),
        abstract,
        abstract_batch(exp.rows, exp.data.length),
    )


def divisible(exp: Experiment, shards: int) -> str:
    """The settings nearest to an experiment's whose rows divide: by rows, and by micro-batches."""
    least = shards * exp.accumulate
    below = exp.rows // least * least
    said = [f"rows={n}" for n in (below, below + least) if n]
    each = exp.rows // shards  # rows of a device
    if exp.rows % shards == 0:
        counts = [k for k in range(1, each + 1) if each % k == 0]
        said.append(f"accumulate={min(counts, key=lambda k: abs(k - exp.accumulate))}")
    return " or ".join(said)


NONE_IS_FINE = ("depth", "offset", "residuals", "symbol")  # whole numbers that may be 0


def check_fields(model: Any) -> None:
    """Raises ValueError for numbers that no layer can have, before a layer fails with them.

    Whole numbers are sizes or counts; a dtype is one of floats.
    """
    for place, module in modules(model, "model"):
        for name in fields(module):
            value = getattr(module, name)
            least = 0 if name in NONE_IS_FINE else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"{place}.{name}: {value} must be at least {least}")
            if name == "dtype" and value not in DTYPES:
                raise ValueError(f"{place}.dtype: {value!r} is none of {', '.join(DTYPES)}")


def modules(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """(dotted name, module) of a model and all its parts."""
    yield place, module
    for name in fields(module):
        value = getattr(module, name)
        for i, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(part, nn.Module):
                yield from modules(
                    part, f"{place}.{name}" + (f".{i}" if isinstance(value, tuple) else "")
                )


def init_state(
    exp: Experiment, mesh: jax.sharding.Mesh
) -> tuple[State, State, Callable[[], State]]:
    """(abstract state, its shardings, a function that makes the real one): nothing is allocated or
    compiled before that call.
    """
    check_fields(exp.model)

    def init() -> State:
        params = init_params(exp.model, exp.data.length, exp.seed)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            optim=exp.optim.build(exp.steps).init(params),
            average=exp.average and exp.average.init(params),
            guard=exp.guard and exp.guard.init(),
        )

    abstract = jax.eval_shape(init)
    shardings = sharding.shardings(abstract, mesh)
    return abstract, shardings, lambda: jax.jit(init, out_shardings=shardings)()


def train_step(exp: Experiment, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One optimizer step over `batch`, in `exp.accumulate` micro-batches; metrics are of the
    parameters before it.
    """
    k = exp.accumulate
    # one for all micro-batches: noise is of a document, not of a place
    key = jax.random.fold_in(jax.random.key(exp.seed), state.step)
    weight_N = head_weight(exp.model, batch, key)

    def micro_step(micro: Batch) -> tuple[Any, Metrics]:
        def loss(params: Any) -> tuple[Array, Metrics]:
            now = Step(state.step, exp.steps, weight_N / k)
            return loss_and_metrics(exp.model, params, micro, now, 1 / k, key)

        return jax.grad(loss, has_aux=True)(state.params)

    if k == 1:
        grads, metrics = micro_step(batch)
    else:
        # Micro-batch i takes rows i, i+k, ...: every device keeps its own rows.
        micro = jax.tree.map(
            lambda a: a.reshape(a.shape[0] // k, k, *a.shape[1:]).swapaxes(0, 1), batch
        )
        zero = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype),
            jax.eval_shape(micro_step, jax.tree.map(lambda a: a[0], micro)),
        )

        def body(total: Any, micro: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, micro_step(micro)), None

        (grads, metrics), _ = jax.lax.scan(body, zero, micro)

    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        updates, optim = exp.optim.build(exp.steps).update(grads, state.optim, state.params)
    params, guard, average = optax.apply_updates(state.params, updates), state.guard, state.average
    if exp.guard is not None:
        size = optax.tree.norm(grads), metrics["loss"].total / metrics["loss"].weight
        old, new = (state.params, state.optim), (params, optim)
        (params, optim), guard, told = exp.guard.apply(guard, state.step, *size, old, new)
        metrics |= told
    if exp.average is not None:
        average = exp.average.update(average, params, state.step)
    one = jnp.ones(())
    metrics["learning_rate"] = ratio(exp.optim.learning_rate(state.step, exp.steps), one)
    metrics["grad_norm"] = ratio(optax.tree.norm(grads), one)
    for part, tree in parts(grads).items():
        metrics[f"grad_norm/{part}"] = ratio(optax.tree.norm(tree), one)
    return State(state.step + 1, params, optim, average, guard), metrics


def parts(params: dict, prefix: str = "") -> dict[str, Any]:
    """The large parts of a model by name: a hierarchy counts as its encoder, backbone and so on."""
    out: dict[str, Any] = {}
    for name, tree in params.items():
        deeper = isinstance(tree, dict) and ("backbone" in tree or name == "trunk")
        out |= (
            parts(tree, f"{prefix}{name}/")
            if deeper and "block" not in tree
            else {f"{prefix}{name}": tree}
        )
    return out


def eval_step(model: Model, params: Any, batch: Batch) -> Metrics:
    """Metrics of one batch, boundaries without noise."""
    return loss_and_metrics(model, params, batch, None, 1.0, None)[1]


def compiled_train_step(exp: Experiment, mesh: jax.sharding.Mesh, shardings: State) -> Any:
    """`train_step` jitted for a mesh; the state is donated. Call `.lower(state, batch)` on it to
    compile without running.
    """
    return jax.jit(
        lambda state, batch: train_step(exp, state, batch),
        in_shardings=(shardings, sharding.rows(mesh)),
        out_shardings=(shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
    )
