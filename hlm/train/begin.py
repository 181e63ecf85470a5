"""Where a run begins: at its own newest checkpoint, at another run's state (--resume) or parameters
(--init-from), or from nothing.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax

from hlm import agree, fit
from hlm.checkpoint import (
    Checkpoints,
    abstract_run,
    graft,
    load_params,
    readable,
    run_and_step,
    steps_in,
)
from hlm.config import Experiment
from hlm.positions import OtherData
from hlm.registry import from_json, to_json
from hlm.train import changes
from hlm.train.step import State


def check(workdir: str, resume: str | None, init_from: list[str], params: Any) -> None:
    """Raises, before anything is made, if another run is named that is not there or does not fit.

    `params` are the shapes of ours.
    """
    if resume and init_from:
        raise ValueError(
            "--resume and --init-from: give one, the whole state of a run or its parameters only"
        )
    if steps_in(workdir):
        return  # the run goes on from its own
    if resume and not readable(*run_and_step(resume)):
        raise FileNotFoundError(f"--resume {resume}: there is no checkpoint in it")
    for source in init_from:
        part, _, run = source.rpartition("=")
        try:
            fit.fitting(abstract_run(*run_and_step(run)), params, part)
        except (ValueError, OSError) as error:
            raise ValueError(f"--init-from {source}: {error}") from error


def state(
    exp: Experiment,
    checkpoints: Checkpoints,
    target: State,
    make: Callable[[], State],
    data: Any,
    mesh: jax.sharding.Mesh,
    resume: str | None,
    init_from: list[str],
    fresh_data: bool,
) -> State:
    """The first state of this run, with `data` moved to where it goes on.

    `target` is abstract, with shardings.
    """
    found, source = resumed(exp, checkpoints, None, target, data, fresh_data), checkpoints
    if found is None and resume:
        run, step = run_and_step(resume)
        source = Checkpoints(run)
        found = resumed(exp, source, step, target, data, fresh_data)
        if found is None:
            raise FileNotFoundError(f"--resume {resume}: there is no checkpoint in it")
    if found is None:
        first = make()
        for given in init_from:
            part, _, run = given.rpartition("=")
            run, step = run_and_step(run)
            first = first.replace(params=graft(first.params, part, load_params(run, step, mesh)[2]))  # type: ignore
    else:
        first = found
    agree.same(int(first.step), "the step to begin at")
    return first


def resumed(
    exp: Experiment,
    checkpoints: Checkpoints,
    step: int | None,
    target: State,
    data: Any,
    fresh_data: bool,
) -> State | None:
    """The state of a run's newest sound checkpoint, or of `step`, after saying what changed in its
    config since.
    """
    try:
        found = checkpoints.resume(
            target.params, (target.step, target.optim), data, step, fresh_data
        )
    except fit.Misfit as error:
        raise ValueError(
            f"{error}; change the config back, or begin in another --workdir with --init-from"
        ) from error
    except OtherData as error:
        hint = (
            "change back, or give --fresh-data: the data begin anew, parameters and optimizer go on"
        )
        raise ValueError(f"{error}; {hint}") from error
    if found is None:
        return None
    was = checkpoints.raw_config(found[0])
    with contextlib.suppress(ValueError):  # it may name what this version does not have
        was = to_json(from_json(was))  # in today's words
    for line in changes.told(was, to_json(exp), found[0], exp):
        if jax.process_index() == 0:
            print(line, flush=True)
    return with_more(exp, checkpoints, found[0], target, State(found[2][0], found[1], found[2][1]))


def with_more(
    exp: Experiment, checkpoints: Checkpoints, step: int, target: State, state: State
) -> State:
    """`state` with the average and the guard of a checkpoint; where it has none, new ones."""
    average = checkpoints.more(step, "average", target.average)
    guard = checkpoints.more(step, "guard", target.guard)
    if exp.average is not None and average is None:
        average = jax.jit(exp.average.init, out_shardings=places(target.average))(state.params)
    if exp.guard is not None and guard is None:
        guard = jax.jit(exp.guard.init, out_shardings=places(target.guard))()
    return State(state.step, state.params, state.optim, average, guard)


def places(abstract: Any) -> Any:
    return jax.tree.map(lambda a: a.sharding, abstract)


def again(exp: Experiment, checkpoints: Checkpoints, step: int, target: State) -> State:
    """The state of an earlier step of this run."""
    params, (done, optim) = checkpoints.state(step, target.params, (target.step, target.optim))
    return with_more(exp, checkpoints, step, target, State(done, params, optim))
