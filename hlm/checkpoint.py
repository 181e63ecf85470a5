"""Checkpoints by orbax: WORKDIR/checkpoints/STEP/{config, params, train, data}. Parameter paths are the public format.

`config` alone says how to build the model, `params` alone is enough to use it; `train` (optimizer) and `data` (the pipeline's position)
are for resuming. Nothing is pickled.
"""

import asyncio
import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from hlm import exported, sharding
from hlm.config import Experiment
from hlm.model.lm import abstract_params
from hlm.registry import from_json, to_json

ITEMS = ("config", "params", "train", "data")
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every file at WARNING
T = TypeVar("T")


class Arrays(ocp.type_handlers.ArrayHandler):
    """Orbax's handler of arrays, but a read that fails waits for those begun with it.

    Orbax closes their event loop at the first failure; reads still under way then report to a closed loop, from threads of their own.
    """

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        others = asyncio.all_tasks()
        try:
            return await super().deserialize(infos, args)
        except Exception:
            while begun := asyncio.all_tasks() - others:
                await asyncio.wait(begun)
            raise


ocp.type_handlers.register_type_handler(jax.Array, Arrays(), override=True)


def folder(workdir: str) -> epath.Path:
    return epath.Path(workdir).resolve() / "checkpoints"


class Checkpoints:
    """The checkpoints of one run folder. Writing is asynchronous; `close` waits for it."""

    def __init__(self, workdir: str, keep: int | None = None):
        """`keep`: number of newest checkpoints to keep; None: open for reading only."""
        self.folder = folder(workdir)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None, read_only=keep is None)
        self.manager = ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def save(self, step: int, exp: Experiment, params: Any, train: Any = None, data: Any = None) -> None:
        """Save unless this step is there already. Without `train` and `data` it can be used but not resumed."""
        if step in self.manager.all_steps():
            return
        items: dict[str, Any] = {"config": ocp.args.JsonSave(to_json(exp)), "params": ocp.args.StandardSave(params)}
        if train is not None:
            items |= {"train": ocp.args.StandardSave(train), "data": grain.checkpoint.CheckpointSave(data)}
        self.manager.save(step, args=ocp.args.Composite(**items))

    def resume(self, params: Any, train: Any, data: Any) -> tuple[int, Any, Any] | None:
        """(step, params, train) of the newest sound checkpoint, and `data` moved to its position; None if there is none.

        `params` and `train` are abstract trees with the shardings to restore onto.
        """

        def read(step: int) -> tuple[int, Any, Any]:
            items = ocp.args.Composite(
                params=ocp.args.StandardRestore(params),
                train=ocp.args.StandardRestore(train),
                data=grain.checkpoint.CheckpointRestore(data),
            )
            restored = self.manager.restore(step, args=items)
            return step, restored["params"], restored["train"]

        return newest_sound(self.steps, read, str(self.folder)) if self.steps else None

    def stop_asked(self, step: int, here: bool) -> bool:
        """Whether all processes should save and stop after `step`: `here` is this process's wish, alone it decides."""
        return self.manager.reached_preemption(step) if jax.process_count() > 1 else here

    def config(self, step: int) -> Experiment:
        return from_json(self.manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"])

    def params(self, step: int, mesh: jax.sharding.Mesh, abstract: Any) -> Any:
        """The parameters onto any mesh; `abstract` gives their shapes."""
        tree = abstract_on(abstract, sharding.shardings(abstract, mesh))
        return self.manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(tree)))["params"]

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def abstract_on(abstract: Any, shardings: Any) -> Any:
    """Shapes and dtypes with the shardings to restore onto."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def newest_sound(steps: list[int], read: Callable[[int], T], where: str) -> T:
    """`read` the newest step that can be read, warning about those that cannot; the newest one's error if none can."""
    failure: Exception | None = None
    for step in steps:
        try:
            result = read(step)
        except Exception as error:  # orbax and tensorstore raise many types for damaged files
            warnings.warn(f"checkpoint {where}/{step} cannot be read, trying an older one: {str(error)[:500]}", stacklevel=2)
            failure = failure or error
        else:
            return result
    raise ValueError(f"no checkpoint in {where} can be read; is it from another config?") from failure


def graft(params: Any, part: str, given: Any) -> Any:
    """`params` with the parameters `given` at the path `part`, such as "trunk/segmenter/frozen"; "" is all of them."""
    if part:
        head, _, rest = part.partition("/")
        if not isinstance(params, dict) or head not in params:
            raise ValueError(
                f"part: the parameters have no {head!r}; there are {', '.join(params) if isinstance(params, dict) else 'none'}"
            )
        return params | {head: graft(params[head], rest, given)}
    old, new = (jax.tree.map(lambda a: a.shape, tree) for tree in (params, given))
    if old != new:
        raise ValueError(f"the given parameters do not fit: they are\n{new}\nand should be\n{old}")
    return jax.tree.map(lambda a, into: jax.device_put(a, into.sharding), given, params)


def load_params(path: str, step: int | None = None, mesh: jax.sharding.Mesh | None = None) -> tuple[int, Experiment, Any]:
    """(step, experiment, parameters) from a run folder alone, newest sound step by default; or from an exported folder."""
    if exported.is_there(path):
        if step is not None:
            raise ValueError(f"step: {path} is an exported model, which is of one step; leave it out")
        return exported.read(path, mesh or sharding.Mesh().make(jax.devices()[:1]))
    if not folder(path).exists():
        raise FileNotFoundError(f"no checkpoints in {path!r}: give the --workdir of a training run, or a folder of hlm.export")
    checkpoints = Checkpoints(path)
    steps = checkpoints.steps
    if step is not None and step not in steps:
        raise ValueError(f"step: {path} has no checkpoint of step {step}; it has {sorted(steps)}")
    onto = mesh or sharding.Mesh().make(jax.devices()[:1])

    def read(step: int) -> tuple[int, Experiment, Any]:
        exp = checkpoints.config(step)
        return step, exp, checkpoints.params(step, onto, abstract_params(exp.model, exp.data.length))

    try:
        return newest_sound(steps if step is None else [step], read, str(checkpoints.folder))
    finally:
        checkpoints.close()
