"""A model of ours against a published implementation: what a handler gives, and every comparison
that is made of it.

A case is NAME.json and NAME.npz: sizes, weights, inputs and the numbers of the reference. A handler
is a module of this folder:

    CASES: tuple[str, ...]          # names of cases, as in the json's "peer" (else the file's name)
    def subject(meta, arrays) -> Subject

    UNITS: tuple[str, ...]              # names of files of single operations
    def units(meta, arrays) -> Iterable[Check]

A case of another name belongs to the handler with the longest name that it starts with:
`flat_seed2` to `flat`.
"""

import dataclasses
import importlib
import json
import pathlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hlm import LM
from hlm.port import imported, table
from hlm.seq import Batch
from hlm.train.loss import loss_and_metrics

LOGITS, LOSS, GRADIENT, CURVE = 1e-4, 1e-5, 1e-4, 1e-4
# gradients below this share of the largest are compared relative to it: they are rounding errors or
# near
NEGLIGIBLE = 1e-3


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the table."""

    quantity: str
    difference: float
    tolerance: float
    note: str = ""  # a deviation from the reference, and why

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that should give the numbers of a case.

    Functions of `step` get 0 for the single forward pass and its gradients, i for step i = 1..10 of
    the training curve (traced).
    """

    model: LM
    params: Any
    batch: Callable[[np.ndarray], Any]  # bytes [B, T+1] -> the rows that our model reads
    gradients: Callable[[Mapping[str, np.ndarray]], Any]  # foreign gradients -> a tree like params
    # (params, batch, step) -> [B, T, V]; None: head 1 of the model
    logits: Callable[[Any, Any, Any], jax.Array] | None = None
    # (params, batch, step) -> scalar; None: as in training, without noise
    loss: Callable[[Any, Any, Any], jax.Array] | None = None
    trained: Callable[[str], bool] = lambda path: True  # by parameter path: moves in training
    # boundaries and whatever else the case holds, from batch(x)
    aux: Callable[[Any], Iterable[Check]] = lambda batch: ()
    # quantity -> a deviation from the reference
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # quantity -> another tolerance; give a note
    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def logits_of(self, params: Any, batch: Any, step: Any) -> jax.Array:
        if self.logits is not None:
            return self.logits(params, batch, step)
        out: Any = self.model.apply({"params": params}, batch, method="logits")
        return out[:, :, 0]

    def loss_of(self, params: Any, batch: Any, step: Any) -> jax.Array:
        if self.loss is not None:
            return self.loss(params, batch, step)
        return loss_and_metrics(self.model, params, batch, None, 1.0, None)[0]


def subject_of(
    format: str, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], **parts: Any
) -> Subject:
    """A Subject through the import of `format`; by default rows of one document without BOS, cut by
    the model's own splitter.
    """
    weights = under("sd/", arrays)
    model, _, params, rows = imported(format, weights, config)

    def gradients(foreign: Mapping[str, np.ndarray]) -> Any:
        """Import is a re-ordering, so gradients take the same way; a weight without a gradient has
        none here either.
        """
        return table.convert(
            {k: foreign.get(k, np.zeros_like(w)) for k, w in weights.items()}, rows, params
        )

    parts.setdefault("batch", lambda x: rows_of(x, split(model, x)))
    return Subject(model=model, params=params, gradients=parts.pop("gradients", gradients), **parts)


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


def rows_of(x: np.ndarray, level: np.ndarray | None = None, bos: int | None = None) -> Batch:
    """Bytes [B, T+1] -> rows of one document each. `level` [B, T] as in Batch; `bos` puts this
    symbol first, for which nothing counts.

    With `bos` rows have T+1 elements, the first with weight 0, and `level` is still that of the
    bytes.
    """
    token, target = x[:, :-1], x[:, 1:]
    level = np.zeros(token.shape) if level is None else level
    weight = np.ones(token.shape)
    if bos is not None:
        token = np.pad(token, ((0, 0), (1, 0)), constant_values=bos)
        target, weight = x, np.pad(weight, ((0, 0), (1, 0)))
        level = np.pad(level, ((0, 0), (1, 0)), constant_values=255)
    return rows(token, target, weight, level)


def rows(token: np.ndarray, target: np.ndarray, weight: np.ndarray, level: np.ndarray) -> Batch:
    """Rows of one document each; all [B, L]."""
    return Batch(
        token=jnp.asarray(token, jnp.int32),
        doc=jnp.ones(token.shape, jnp.int32),
        level=jnp.asarray(level, jnp.uint8),
        target=jnp.asarray(target, jnp.int32),
        weight=jnp.asarray(weight, jnp.float32),
        nbytes=jnp.ones(token.shape, jnp.uint8),
    )


def split(model: LM, x: np.ndarray) -> np.ndarray:
    """Levels [B, T] of the bytes x[:, :-1] by the model's own splitter."""
    return np.stack([model.codec.split.levels(row.astype(np.uint8), False) for row in x[:, :-1]])  # pyright: ignore


def unequal(quantity: str, ours: Any, theirs: Any, note: str = "") -> Check:
    """How many entries differ; none may."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Check(
            quantity, float("inf"), 0, f"shape {ours.shape}, the reference has {theirs.shape}"
        )
    return Check(quantity, float(np.sum(ours != theirs)), 0, note)


def largest(ours: Any, *theirs: Any) -> float:
    """The largest difference, to that of the references (f64 and f32 of the same thing) which is
    nearer.
    """
    return min(
        float(np.max(np.abs(np.asarray(ours, np.float64) - np.asarray(t, np.float64))))
        for t in theirs
    )


def checks(name: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[Check]:
    """Every comparison of one case. Raises LookupError without a handler."""
    case = str(meta.get("peer", name))
    module, kind = handler(case, name)
    if kind == "UNITS":
        yield from module.units(meta, arrays)
        return
    s: Subject = module.subject(meta, arrays)
    for check in compared(s, arrays):
        yield dataclasses.replace(
            check,
            note=s.notes.get(check.quantity, check.note),
            tolerance=s.tolerances.get(check.quantity, check.tolerance),
        )


def compared(s: Subject, arrays: Mapping[str, np.ndarray]) -> Iterator[Check]:
    batch = s.batch(arrays["x"])
    if "logits64" in arrays:
        logits = np.asarray(jax.jit(s.logits_of)(s.params, batch, 0))
        yield Check("logits", largest(logits, arrays["logits64"], arrays["logits32"]), LOGITS)
        yield greedy(logits, arrays["logits64"])
    yield from s.aux(batch)
    loss_and_gradients = jax.jit(jax.value_and_grad(s.loss_of))
    loss, grads = loss_and_gradients(s.params, batch, 0)
    yield Check("loss", largest(loss, arrays["loss64"], arrays["loss32"]), LOSS)
    if foreign := under("grad/", arrays):
        yield gradient(grads, s.gradients(foreign))
    if "traj_x" in arrays:
        losses = curve(s, loss_and_gradients, arrays["traj_x"])
        yield Check(
            "training curve", largest(losses, arrays["traj_loss64"], arrays["traj_loss32"]), CURVE
        )


def greedy(logits: np.ndarray, reference: np.ndarray) -> Check:
    """Positions whose most likely next byte is another one; ties within the tolerance are not
    counted.
    """
    best = np.take_along_axis(reference, logits.argmax(-1)[..., None], -1)[..., 0]
    return Check("next byte", float(np.sum(reference.max(-1) - best > 2 * LOGITS)), 0)


def gradient(ours: Any, theirs: Any) -> Check:
    """The largest difference relative to the largest entry of the same parameter."""
    top = max(float(np.abs(g).max()) for g in jax.tree.leaves(theirs))
    worst, where = 0.0, ""
    leaves = jax.tree_util.tree_leaves_with_path(theirs)
    for (path, g), mine in zip(leaves, jax.tree.leaves(ours), strict=True):
        relative = float(np.abs(np.asarray(mine) - g).max()) / max(
            float(np.abs(g).max()), NEGLIGIBLE * top
        )
        if not relative <= worst:
            worst, where = relative, jax.tree_util.keystr(path, simple=True, separator="/")
    return Check("gradients", worst, GRADIENT, f"largest at {where}")


def curve(s: Subject, loss_and_gradients: Callable, x_NBT: np.ndarray) -> list[float]:
    """The loss before each step of AdamW, as torch's: every trained parameter is decayed."""
    paths = jax.tree_util.tree_map_with_path(
        lambda p, _: jax.tree_util.keystr(p, simple=True, separator="/"), s.params
    )
    labels = jax.tree.map(lambda path: "moves" if s.trained(path) else "stays", paths)
    adam = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.95, 1e-8, weight_decay=0.1)
    )
    optimizer = optax.multi_transform({"moves": adam, "stays": optax.set_to_zero()}, labels)

    @jax.jit
    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state, losses = s.params, optimizer.init(s.params), []
    for i, x in enumerate(x_NBT, 1):
        loss, grads = loss_and_gradients(params, s.batch(x), i)
        params, state = update(params, state, grads)
        losses.append(float(loss))
    return losses


def cases(folder: pathlib.Path) -> list[str]:
    """Names of the cases in a folder."""
    return sorted(p.stem for p in folder.glob("*.npz"))


def facts(folder: pathlib.Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def read(folder: pathlib.Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(folder / f"{name}.npz") as z:
        return facts(folder, name), dict(z)


def handlers() -> dict[str, tuple[ModuleType, str]]:
    """Name of a case -> (module, "CASES" or "UNITS")."""
    out: dict[str, tuple[ModuleType, str]] = {}
    for info in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]):
        if info.name.startswith(("test_", "__")) or info.name == "common":
            continue
        module = importlib.import_module(f"tests.parity.{info.name}")
        for kind in ("CASES", "UNITS"):
            for name in getattr(module, kind, ()):
                if name in out:
                    raise ValueError(
                        f"two handlers for {name}: {out[name][0].__name__} and {module.__name__}"
                    )
                out[name] = (module, kind)
    return out


def handler(*names: str) -> tuple[ModuleType, str]:
    """The handler of the first of `names` that has one."""
    known = handlers()
    for name in names:
        found = [k for k in known if name == k or name.startswith(k)]
        if found:
            return known[max(found, key=len)]
    raise LookupError(
        f"no handler for {' or '.join(dict.fromkeys(names))}; there are {', '.join(sorted(known))}"
    )
