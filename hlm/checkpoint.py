"""Checkpoints by orbax: WORKDIR/checkpoints/STEP/{config, params, train, data, average, guard}.
Parameter paths are the public format.

`config` alone says how to build the model, `params` alone is enough to use it; `train` (optimizer)
and `data` (the pipeline's position) are for resuming. `average` (of the parameters) and `guard`
(what it has seen) are there if the run has them. Nothing is pickled. Each item holds digests
of its files (hlm/digests.py), checked whenever it is read.
"""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from hlm import agree, digests, exported, fit, sharding
from hlm.config import Experiment
from hlm.items import Arrays, SaveConfig, SavePosition, SaveTree, handlers
from hlm.model.lm import abstract_params
from hlm.positions import OtherData, move
from hlm.registry import from_json, to_json
from hlm.sharding import keystr

ABOUT = "_CHECKPOINT_METADATA"  # orbax's file about a step; ours says in it that there are digests
UNFINISHED = ".orbax-checkpoint-tmp"
MORE = ("average", "guard")  # items that not every run has
OK, MISFIT, DAMAGED = range(3)
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every file at WARNING
ocp.type_handlers.register_type_handler(jax.Array, Arrays(), override=True)
T = TypeVar("T")


class NotFinite(RuntimeError):
    """The state to save holds numbers that are not finite."""


def folder(workdir: str) -> epath.Path:
    where = epath.Path(workdir)  # orbax wants it absolute, which an address in a bucket is
    return (where if "://" in str(workdir) else where.resolve()) / "checkpoints"


def steps_in(workdir: str) -> list[int]:
    """Steps with a complete checkpoint in a run folder, newest first."""
    return sorted(
        {found.step for found in ocp.path.step.standard_name_format().find_all(folder(workdir))},
        reverse=True,
    )


class Checkpoints:
    """The checkpoints of one run folder. Writing is asynchronous; `close` waits for it."""

    def __init__(self, workdir: str, keep: int | None = None):
        """`keep`: number of newest checkpoints to keep; None: open for reading only.

        Opened for writing, what killed saves left is deleted. One checkpoint more than `keep=1`
        stays until `settle`, because the newest may turn out to be of a model that has diverged.
        """
        self.workdir, self.folder, self.keep = workdir, folder(workdir), keep
        self.manager: Any = None
        if keep is not None:
            if jax.process_index() == 0:
                clean(self.folder)
            self.manager = self.open()

    def open(self) -> ocp.CheckpointManager:
        """Orbax's manager.

        It does not read what each step says of itself, and so does not fail with one that is
        damaged.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max(self.keep or 0, 2), lightweight_initialize=True
        )
        return ocp.CheckpointManager(self.folder, item_handlers=handlers(), options=options)

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, newest first."""
        return (
            sorted(self.manager.all_steps(), reverse=True)
            if self.manager
            else steps_in(self.workdir)
        )

    def save(
        self,
        step: int,
        exp: Experiment,
        params: Any,
        train: Any = None,
        data: Any = None,
        about: dict[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Save unless this step is there already. Without `train` and `data` it can be used but not
        resumed.

        `train` is (step, optimizer state); `about` is JSON of the run's circumstances; `more` are
        trees of the names in `MORE`, None where there is none.
        Raises NotFinite, and saves nothing, if an array holds NaN or infinity.
        """
        if step in self.steps:
            return
        more = {name: tree for name, tree in (more or {}).items() if tree is not None}
        if bad := not_finite({"params": params, "train": train, "average": more.get("average")}):
            raise NotFinite(
                f"the state of step {step} is not saved: {', '.join(bad[:3])} ({len(bad)} in "
                "all) not finite"
            )
        items: dict[str, Any] = {"config": SaveConfig(to_json(exp)), "params": SaveTree(params)}
        if train is not None:
            items |= {"train": SaveTree(train), "data": SavePosition(data)}
            items |= {name: SaveTree(tree) for name, tree in more.items()}
        with quick_handover():
            done = self.manager.save(
                step,
                args=ocp.args.Composite(**items),
                custom_metadata={"digests": True, "about": about or {}},
            )
        if not done:
            raise RuntimeError(
                f"checkpoint {step} was refused: {self.folder} has {self.steps}; move the "
                "newer ones away"
            )

    def resume(
        self, params: Any, train: Any, data: Any, step: int | None = None, fresh_data: bool = False
    ) -> tuple[int, Any, Any] | None:
        """(step, params, train) of the newest sound checkpoint, and `data` moved to its position;
        None if there is none.

        `params` and `train`, (step, optimizer state), are abstract trees with the shardings to
        restore onto. All processes take the same checkpoint, which every one of them can read.
        Newer ones are kept under another name, as no save could follow them. Data of another number
        of processes or workers are dealt out anew. `fresh_data`: data other than those that the
        position is of begin anew; without it, a position that cannot go on is an error.
        """
        wanted = self.steps if step is None else [step]
        steps = agree.known_to_all(wanted)
        if not steps and any(agree.each(len(wanted))):
            raise ValueError(
                f"the processes see different checkpoints in {self.folder}: is it one folder "
                "for all of them?"
            )
        if not steps:
            return None
        beginning = data.get_state()

        def read(step: int) -> tuple[tuple[int, Any, Any], str | OtherData]:
            at = self.folder / str(step)
            more = [name for name in MORE if (at / name).exists()]
            self.check(step, "config", "params", "train", "data", *more)
            found = restored(at / "params", params), restored(at / "train", train)
            if int(found[1][0]) != step:
                raise ValueError(f"it holds step {int(found[1][0])}")
            try:
                return (step, *found), move(data, at / "data", beginning if fresh_data else {})
            except OtherData as error:
                return (step, *found), error

        found, other = newest_sound(steps, read, str(self.folder), together=True)
        if any(agree.each(isinstance(other, OtherData))):
            if not isinstance(other, OtherData):
                other = OtherData(
                    "the data of another process cannot go on from their saved position"
                )
            if not fresh_data:
                raise other
            other = f"the data begin anew: {other}"
            data.set_state(beginning)
        if other and jax.process_index() == 0:
            print(other, flush=True)
        if self.manager:
            self.set_aside([n for n in self.steps if n > found[0]], "damaged")
        return found

    def check(self, step: int, *items: str) -> None:
        """Raises Damaged if a file of these items is not what was written.

        Processes share the work.
        """
        at = self.folder / str(step)
        try:
            known = json.loads((at / ABOUT).read_text())["custom_metadata"]
            expected = bool(known and known["digests"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise digests.Damaged(f"{at / ABOUT} is damaged: {error!r}") from error
        for item in items:
            if not digests.check(at / item, jax.process_index(), jax.process_count()):
                if expected:
                    raise digests.Damaged(f"{at / item / digests.NAME} is missing")
                warnings.warn(
                    f"checkpoint {at} is of a version without digests: damage may go unseen",
                    stacklevel=2,
                )

    def set_aside(self, steps: Iterable[int], why: str) -> list[str]:
        """Give checkpoints another name, `why`-STEP, under which they are kept but never read."""
        self.manager.wait_until_finished()
        names = []
        for step in steps:
            names.append(f"{why}-{step}")
            if jax.process_index() == 0:
                new = self.folder / names[-1]
                if new.exists():
                    new.rmtree() if new.is_dir() else new.unlink()
                (self.folder / str(step)).rename(new)
                print(f"checkpoint {step} is {why}; it is kept as {new} and not used", flush=True)
        if any(agree.each(len(names))):  # waits until the first process has done it
            self.manager.close()
            self.manager = self.open()
        return names

    def diverged(self, step: int) -> int | None:
        """The loss of the parameters of `step` is known to be bad: set its checkpoint aside; the
        newest sound step.
        """
        self.set_aside([n for n in self.steps if n >= step], "diverged")
        return max(self.steps, default=None)

    def settle(self) -> None:
        """The newest checkpoint is known to be good: delete those beyond `keep`."""
        for step in self.steps[self.keep :]:
            self.manager.wait_until_finished()
            self.manager.delete(step)

    def stop_asked(self, step: int, here: bool) -> bool:
        """Whether all processes should save and stop after `step`: `here` is this process's wish,
        alone it decides.
        """
        return self.manager.reached_preemption(step) if jax.process_count() > 1 else here

    def about(self, step: int) -> dict[str, Any]:
        """The circumstances that were saved with a step; empty where they cannot be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((self.folder / str(step) / ABOUT).read_text())["custom_metadata"]
            return found["about"] if isinstance(found["about"], dict) else {}
        return {}

    def raw_config(self, step: int) -> Any:
        """The config as JSON, which is readable whatever classes this version has."""
        self.check(step, "config")
        return json.loads((self.folder / str(step) / "config" / "metadata").read_text())

    def config(self, step: int) -> Experiment:
        return from_json(self.raw_config(step))

    def params(
        self, step: int, mesh: jax.sharding.Mesh, abstract: Any, average: bool = False
    ) -> Any:
        """The parameters, or their average, onto any mesh; `abstract` gives their shapes."""
        item = "average" if average else "params"
        if average and not (self.folder / str(step) / item).exists():
            raise fit.Misfit(
                f"average: {self.folder}/{step} has none; its run had no average=EMA()"
            )
        self.check(step, item)
        return restored(
            self.folder / str(step) / item,
            abstract_on(abstract, sharding.shardings(abstract, mesh)),
        )

    def more(self, step: int, name: str, abstract: Any) -> Any:
        """A tree of `MORE`, which `resume` has checked; None if it is not there, or another."""
        at = self.folder / str(step) / name
        if abstract is None or not at.exists():
            return None
        with contextlib.suppress(fit.Misfit):
            return restored(at, abstract)
        return None

    def state(self, step: int, params: Any, train: Any) -> tuple[Any, Any]:
        """(params, train) of a step that this run itself has saved; raises what is wrong."""
        self.manager.wait_until_finished()
        self.check(step, "params", "train")
        at = self.folder / str(step)
        return restored(at / "params", params), restored(at / "train", train)

    def close(self) -> None:
        if self.manager:
            self.manager.wait_until_finished()
            self.manager.close()


@contextlib.contextmanager
def quick_handover() -> Iterator[None]:
    """Threads of Python take turns sooner: orbax starts a dozen of them one by one, and waits for
    each to run.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def clean(folder: epath.Path) -> None:
    """Delete what killed saves left, unfinished folders and step folders without a file; give files
    in the place of a step another name.
    """
    for path in folder.iterdir() if folder.exists() else ():
        if UNFINISHED in path.name or (
            path.name.isdecimal() and path.is_dir() and not any(digests.names(path))
        ):
            path.rmtree() if path.is_dir() else path.unlink()
        elif path.name.isdecimal() and not path.is_dir():
            path.rename(folder / f"stray-{path.name}")


@jax.jit
def finite(arrays: list[jax.Array]) -> list[jax.Array]:
    """Of each array. Scalars may be infinite, as the best loss so far is at the beginning.

    One program for all: many small ones at once can wait for each other on several CPU devices.
    """
    return [(~jnp.isnan(a) if a.ndim == 0 else jnp.isfinite(a)).all() for a in arrays]


def not_finite(tree: Any) -> list[str]:
    """Paths of the arrays that hold NaN or infinity."""
    floats = [
        (keystr(at), x)
        for at, x in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    sound = jax.device_get(finite([x for _, x in floats]))
    return [name for (name, _), good in zip(floats, sound, strict=True) if not good]


def restored(item: epath.Path, abstract: Any) -> Any:
    """Arrays of one item.

    Reads what this process needs, without a word to others: they may fail where it does not.
    """
    handler = ocp.StandardCheckpointHandler()
    try:
        return handler.restore(item, args=ocp.args.StandardRestore(abstract))
    except Exception:
        # a clearer error, if that is why
        fit.check(handler.metadata(item).tree, abstract, f"the arrays of {item}")
        raise
    finally:
        handler.close()


def abstract_on(abstract: Any, shardings: Any) -> Any:
    """Shapes and dtypes with the shardings to restore onto."""
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings
    )


def newest_sound(
    steps: list[int], read: Callable[[int], T], where: str, together: bool = False
) -> T:
    """`read` the newest step that can be read, warning about those that cannot; the newest one's
    error if none can.

    `together`: that every process can read; all must call it with the same steps. A sound one that
    does not fit is an error at once.
    """
    failure: Exception | None = None
    for step in steps:
        result, error = None, None
        try:
            result = read(step)
        except Exception as caught:  # orbax and tensorstore raise many types for damaged files
            error = caught
        mine = OK if error is None else MISFIT if isinstance(error, fit.Misfit) else DAMAGED
        worst = max(agree.each(mine)) if together else mine
        if worst == MISFIT:
            raise error or fit.Misfit(f"checkpoint {where}/{step} does not fit in another process")
        if worst == OK:
            return result  # type: ignore
        del result
        error = error or OSError("another process cannot read it")
        warnings.warn(
            f"checkpoint {where}/{step} cannot be read, trying an older one: {str(error)[:500]}",
            stacklevel=2,
        )
        failure = failure or error
    why = " ".join(str(failure).split())[:500]
    raise ValueError(
        f"no checkpoint in {where} can be read; is it from another config? The newest: {why}"
    ) from failure


def graft(params: Any, part: str, given: Any) -> Any:
    """`params` with the parameters `given` at the path `part`, such as "trunk/segmenter/frozen"; ""
    is all of them.

    `given` are those of that part, or a whole model's of which the same part is taken.
    """
    given = fit.fitting(given, params, part)
    put = jax.tree.map(
        lambda a, into: jax.device_put(a, into.sharding), given, fit.place(params, part)
    )
    return replaced(params, part.split("/") if part else [], put)


def replaced(params: Any, path: list[str], new: Any) -> Any:
    return params | {path[0]: replaced(params[path[0]], path[1:], new)} if path else new


def run_and_step(given: str) -> tuple[str, int | None]:
    """A run folder, or RUN@STEP; a folder whose own name ends like this is itself."""
    run, at, step = given.rpartition("@")
    is_step = (
        at
        and run
        and step.isdecimal()
        and not folder(given).exists()
        and not exported.is_there(given)
    )
    return (run, int(step)) if is_step else (given, None)


def readable(path: str, step: int | None) -> list[int]:
    """The steps of a run to try, newest first; an error says what there is if there is none, or not
    this one.
    """
    if not folder(path).exists():
        raise FileNotFoundError(
            f"no checkpoints in {path!r}: give the --workdir of a training run, or a folder "
            "of hlm.export"
        )
    steps = steps_in(path)
    if step is not None and step not in steps:
        raise ValueError(f"step: {path} has no checkpoint of step {step}; it has {sorted(steps)}")
    return steps if step is None else [step]


def experiment_of(path: str, step: int | None = None) -> Experiment:
    """The config of a run or an export, without its parameters."""
    if exported.is_there(path):
        return from_json(json.loads((epath.Path(path) / exported.CONFIG).read_text())["experiment"])
    return newest_sound(readable(path, step), Checkpoints(path).config, str(folder(path)))


def abstract_run(path: str, step: int | None = None) -> Any:
    """Shapes of a run's parameters, without reading them."""
    exp = experiment_of(path, step)
    return abstract_params(exp.model, exp.data.length)


def load_params(
    path: str,
    step: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    average: bool = False,
) -> tuple[int, Experiment, Any]:
    """(step, experiment, parameters) from a run folder alone, newest sound step by default; or from
    an exported folder. `average`: the average of the parameters in their place.
    """
    if exported.is_there(path):
        if average:
            raise ValueError(f"average: {path} is an exported model, which has none; leave it out")
        if step is not None:
            raise ValueError(
                f"step: {path} is an exported model, which is of one step; leave it out"
            )
        return exported.read(path, mesh or sharding.Mesh().make(jax.devices()[:1]))
    checkpoints, steps = Checkpoints(path), readable(path, step)
    onto = mesh or sharding.Mesh().make(jax.devices()[:1])

    def read(step: int) -> tuple[int, Experiment, Any]:
        exp = checkpoints.config(step)
        return (
            step,
            exp,
            checkpoints.params(step, onto, abstract_params(exp.model, exp.data.length), average),
        )

    return newest_sound(steps, read, str(checkpoints.folder), together=onto.is_multi_process)
