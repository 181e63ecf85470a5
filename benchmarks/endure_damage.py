"""Damaged checkpoints of endure.py: what is read is all of one step, or nothing."""

import json
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from endure_runs import CONFIG, ROOT, Outcome


def flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) * 8)
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


DAMAGES: dict[str, Callable[[pathlib.Path, random.Random], Any]] = {
    "truncated": lambda p, rng: p.write_bytes(p.read_bytes()[: rng.randrange(p.stat().st_size)]),
    "emptied": lambda p, rng: p.write_bytes(b""),
    "deleted": lambda p, rng: p.unlink(),
    "one bit flipped": lambda p, rng: p.write_bytes(flip(p.read_bytes(), rng)),
}


class Reader:
    """Reads a run's state as train.py does when it goes on."""

    def __init__(self, given: Sequence[str]):
        from hlm import config
        from hlm.checkpoint import abstract_on
        from hlm.train import step

        self.exp = config.load(str(ROOT / CONFIG), list(given))
        import jax

        self.mesh = self.exp.mesh.make(jax.devices()[:1])
        abstract, shardings, _ = step.init_state(self.exp, self.mesh)
        self.target = abstract_on(abstract, shardings)

    def state(self, run: pathlib.Path) -> tuple[int, list[bytes], str]:
        """(step, arrays, position in the data) of what would be resumed."""
        import jax
        import numpy as np

        from hlm.checkpoint import Checkpoints
        from hlm.data import pipeline
        from hlm.data.pack import Budget
        from hlm.model.hierarchy import capacities

        exp = self.exp
        budget = Budget(exp.data.length, capacities(exp.model.trunk))
        data = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, exp.seed)
        train = self.target.step, self.target.optim
        found = Checkpoints(str(run)).resume(self.target.params, train, data)
        position = json.dumps(data.get_state())
        data.close()
        if found is None:
            raise ValueError("there is no checkpoint")
        arrays = [np.asarray(x).tobytes() for x in jax.tree.leaves(found[1:])]
        return found[0], arrays, position


def damage(
    run: pathlib.Path, given: Sequence[str], seed: int, until: float, share: float = 1.0
) -> Iterator[Outcome]:
    """Every file of every checkpoint, damaged in every way: resumed is one step in whole, or an
    error names the file.
    """
    import warnings

    rng, reader = random.Random(seed), Reader(given)
    steps = sorted(p for p in (run / "checkpoints").iterdir() if p.name.isdecimal())
    sound: dict[int, Any] = {}
    for at in steps:  # what each step holds
        alone = run.with_name("alone")
        shutil.copytree(at, alone / "checkpoints" / at.name)
        sound[int(at.name)] = reader.state(alone)
        shutil.rmtree(alone)
    files = [p for at in steps for p in sorted(at.rglob("*")) if p.is_file() and p.stat().st_size]
    found: dict[str, Outcome] = {name: Outcome(f"a file {name}", 0, []) for name in DAMAGES}
    jobs = [(file, name) for file in files for name in DAMAGES if rng.random() < share]
    rng.shuffle(jobs)
    for file, name in jobs:
        if time.monotonic() > until:
            break
        before, told = file.read_bytes(), ""
        DAMAGES[name](file, rng)
        try:
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                state = reader.state(run)
            if state != sound.get(state[0]):
                told = f"{file.relative_to(run)}: resumed with other values"
        except ValueError as error:
            told = "" if str(file.parent.name) in str(error) else f"{file.name}: {error}"
        except Exception as error:
            told = f"{file.relative_to(run)}: {type(error).__name__}: {error}"
        file.write_bytes(before)
        found[name] = Outcome(
            found[name].kind, found[name].tried + 1, found[name].lost + [told] * bool(told)
        )
    yield from found.values()
