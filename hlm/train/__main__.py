"""Train one config: python train.py configs/hat.py:tiny --workdir runs/hat [name=value ...]

The same command started again continues where it stopped.
"""

import argparse
import contextlib
import math
import os
import signal
import sys
from typing import Any

import jax

import hlm.host  # noqa: F401  (first: it sets up memory allocation)
from hlm import agree, config, sharding
from hlm.checkpoint import Checkpoints, NotFinite, abstract_on, steps_in
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.infer.api import LanguageModel
from hlm.infer.rows import at_once
from hlm.model.hierarchy import capacities
from hlm.registry import to_json
from hlm.seq import Batch
from hlm.train import begin, log, peers, profile, step
from hlm.train.due import Due
from hlm.train.goodput import Goodput
from hlm.train.lock import Lock
from hlm.train.record import Record
from hlm.train.rewind import Spiked, Spikes
from hlm.train.stop import (
    CannotGoOn,
    Explained,
    as_program,
    listening,
    say,
    without_echoes,
)
from hlm.train.validation import Validation
from hlm.train.waiting import Waiting
from hlm.train.wandb_board import WandbBoard


def main(arguments: list[str]) -> None:
    prog = None if os.path.basename(sys.argv[0]) == "train.py" else "python -m hlm.train"
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="FILE.py:SIZE")
    parser.add_argument(
        "--workdir", required=True, help="folder of this run; a run found there is continued"
    )
    parser.add_argument(
        "--resume", metavar="RUN[@STEP]", help="start from the full state of another run folder"
    )
    parser.add_argument(
        "--init-from",
        action="append",
        default=[],
        metavar="[PART=]RUN[@STEP]",
        help="start from the parameters of another run folder; with PART, such as "
        "trunk/segmenter/frozen, only there: RUN's own parameters, or of a whole model the "
        "same part",
    )
    parser.add_argument(
        "--fresh-data",
        action="store_true",
        help="begin the data anew if they cannot go on from the saved position (other text or "
        "settings); else go on",
    )
    parser.add_argument(
        "--distributed", action="store_true", help="one of several processes (jax.distributed)"
    )
    parser.add_argument(
        "--profile",
        type=profile.steps,
        metavar="FIRST:END",
        help="trace these steps, such as 100:105, into WORKDIR/profile (TensorBoard, XProf)",
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="curves at Weights & Biases, too: [ENTITY/]PROJECT"
    )
    parser.add_argument("overrides", nargs="*", help="for example optim.peak=3e-4")
    args = parser.parse_intermixed_args(arguments)
    with peers.join(args.distributed) as others, contextlib.ExitStack() as ending:
        said = train(args, [parser.prog, *arguments], others, ending)
    if said:
        sys.exit(said)


def train(
    args: argparse.Namespace,
    command: list[str],
    others: peers.Alone | peers.Peers,
    ending: contextlib.ExitStack,
) -> str | None:
    """Train as asked. If the run was stopped before its last step: what to say about that."""
    goodput = Goodput()
    # Config, mesh, shapes: every error that a config can have is raised here, before anything is
    # compiled.
    exp = config.load(args.config, args.overrides)
    mesh = exp.mesh.make()
    abstract, shardings, make_state = step.init_state(exp, mesh)
    step.check(exp, mesh, abstract)
    target = abstract_on(abstract, shardings)
    valid_rows = at_once(exp.valid_rows, exp, mesh, "valid_rows")
    begin.check(args.workdir, args.resume, args.init_from, target.params)

    # Data: this process's share of the rows.
    budget = Budget(exp.data.length, capacities(exp.model.trunk))
    share, shares = sharding.share(mesh)
    data = pipeline.batches(
        exp.data, exp.model.codec, budget, exp.rows // shares, exp.seed, share, shares
    )

    validation, waiting = Validation(exp), Waiting()

    # The run folder: this run's alone (one of its processes holds the lock for all).
    lock = Lock(args.workdir)
    if jax.process_index() == 0:
        ending.enter_context(lock)
        others.before_end(lock.release)

    # State: 1 this run's own newest checkpoint, 2 --resume, 3 --init-from (parameters only), 4 from
    # scratch.
    checkpoints: Any = Explained(
        Checkpoints(args.workdir, exp.keep),
        ("save", "settle", "close"),
        f"a checkpoint could not be written to {args.workdir}",
        "mend that and start again",
        passing=NotFinite,
    )
    sources = args.resume, args.init_from, args.fresh_data
    state = begin.state(exp, checkpoints, target, make_state, data, mesh, *sources)
    start = int(state.step)

    # Loop: one round more than there are steps, so that the last evaluation and checkpoint are the
    # same code.
    train_step = step.compiled_train_step(exp, mesh, shardings)
    scorer = LanguageModel(exp, state.params, mesh, rows=valid_rows)
    # Among several processes, jax.distributed listens for SIGTERM and lets all stop at the same
    # step.
    stop_asked = ending.enter_context(
        listening(*(() if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)))
    )
    record = ending.enter_context(
        Record(args.workdir, exp, args.config, args.overrides, command, start)
    )
    shown = exp.model.bits, exp.model.accuracy
    lead = jax.process_index() == 0
    spikes = Spikes(exp.guard, checkpoints, lead)
    beside = WandbBoard(args.workdir, args.wandb, to_json(exp)) if args.wandb and lead else None
    journal = log.Log(
        args.workdir, exp.steps, start, exp.every.log, *shown, goodput, spikes.heard, beside
    )
    goodput.go_on(checkpoints.about(start), journal.before)
    tracing = ending.enter_context(profile.Profile(args.workdir, args.profile))
    notes = sharding.unsplit(target.params, mesh), profile.untraced(args.profile, start, exp.steps)
    for note in filter(None, notes if lead else ()):
        say(note)
    others.before_end(journal.close)
    others.before_end(lambda: record.end("ended, as another process was gone or has failed"))
    evaluating = Due(exp.every.evaluate, exp.every.evaluate_minutes, start)
    saving = Due(exp.every.save, exp.every.save_minutes, start)

    def evaluate(n: int, state: step.State) -> None:
        journal.flush()
        scorer.params = state.params if exp.average is None else state.average
        with goodput.on("evaluation"):
            found = validation.run(scorer)
        same = jax.process_count() // shares  # processes that read the same
        read = {
            f"bytes_read/{name}": agree.total(count) // same
            for name, count in data.read_by_source().items()
        }
        journal.write(n, "valid", found | read)
        if not math.isfinite(value := found[exp.model.bits]):
            raise NotFinite(f"the validation of step {n} gives {exp.model.bits} {value}")
        for part in (journal, waiting):
            part.pause()
        evaluating.done()

    def save(n: int, state: step.State) -> None:
        journal.flush()
        if jax.process_index() == 0:
            lock.confirm()
        about = goodput.sign() | {"done": n == exp.steps}
        more = {"average": state.average, "guard": state.guard}
        with goodput.on("saving"):
            arrays = state.params, (state.step, state.optim)
            checkpoints.save(n, exp, *arrays, data, about, more)
        for part in (journal, waiting):
            part.pause()
        saving.done()

    n, fetched = start, start - 1  # the step to do, and the newest one whose batch was fetched
    try:
        while True:
            record.step = n
            last = n == exp.steps
            stop = last or checkpoints.stop_asked(n, bool(stop_asked))
            try:
                # Order matters: evaluate and save before the data moves, so that parameters,
                # metrics and data agree on step n.
                both = n > start and evaluating.at(n), n > start and saving.at(n)
                if n > start and (last or both[0]):
                    evaluate(n, state)
                if n > start and (stop or both[1]):
                    save(n, state)
                if last and n > start:
                    checkpoints.settle()
                if stop:
                    break
                tracing.before(n, state)
                made, waited = waiting.next(data)
                fetched = n
                goodput.waited(float(waited["waiting"].total))
                batch = Batch(**made)
                with jax.set_mesh(mesh):
                    state, metrics = train_step(state, sharding.put(batch, mesh))
                waiting.runs(metrics["loss"])
                journal.push(n, metrics | data.shares() | waited, batch)
                n += 1
            except Spiked as spike:
                n = checkpoints.diverged(spike.step)
                if stop and not last:  # the next start meets it again
                    break
                if fetched == spike.step:  # heard of a step sooner than usual: the same text goes
                    next(data)
                del state, metrics  # there may not be room for two
                state = begin.again(exp, checkpoints, n, target)
                goodput.back(checkpoints.about(n))
                for part in (journal, evaluating, saving):
                    part.back(n)
                for part in (spikes, record):
                    part.went_back(spike.step, n)
                waiting.pause()
    except (log.NonFinite, NotFinite) as error:
        bad = n if isinstance(error, NotFinite) else n - 1  # a loss is examined one step late
        sound = checkpoints.diverged(bad)
        back = "there is no sound checkpoint"
        if sound is not None:
            back = f"the newest sound checkpoint is {sound}"
        fix = "change what made it diverge, such as optim.peak"
        found = CannotGoOn(f"{error}; {back}, where the same command begins again: {fix}")
        journal.close()
        others.failed(found)
        raise found from error
    except BaseException as error:
        journal.close()
        others.failed(error)
        raise
    finally:
        journal.close()
        checkpoints.close()
        data.close()
    if n >= exp.steps:
        return None
    saved = "saved" if n in steps_in(args.workdir) else "before there was anything to save"
    return f"stopped at step {n}, {saved}; start the same command again to continue"


def script() -> None:
    """The program. What one line explains ends in that line."""
    without_echoes()
    as_program(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    script()
