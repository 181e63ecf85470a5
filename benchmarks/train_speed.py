"""Bytes a second of one training step (forward, backward, AdamW), for every size called `peer...`
in configs/.

    python benchmarks/train_speed.py runs/train_speed.json

These sizes were made to be measured beside reference implementations: about 5 M parameters, rows of
512 bytes, 8 rows, float32. Models take turns, so that they share the machine's moods; medians are
printed. A ratio to a reference is printed only from a run in which both took turns on one machine:

    python benchmarks/train_speed.py --beside RUN.json
"""

import argparse
import itertools
import json
import os
import pathlib
import runpy
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # configs import configs.common

from hlm import config, sharding  # noqa: E402
from hlm.data import pipeline  # noqa: E402
from hlm.data.pack import Budget  # noqa: E402
from hlm.model.hierarchy import capacities  # noqa: E402
from hlm.seq import Batch  # noqa: E402
from hlm.train import step  # noqa: E402

FLAT = "flat:peer"
BATCHES = 4  # different batches of text, used in turn


# the reference implementation that a size was made to be measured beside
REFERENCES = {
    FLAT: "flat",
    "aunet:peer": "aunet1",
    "aunet:peer3": "aunet2",
    "blt:peer": "blt",
    "dtp:peer": "dp_gumbel",
    "dtp:peer_fixed4": "dp_fixed4",
    "dtp:peer_space": "dp_whitespaces",
    "hnet:peer": "hnet_T",
    "hnet:peer_ssm": "hnet_m",
    "megabyte:peer": "megabyte",
    "spacebyte:peer": "spacebyte",
}


def discover(prefix: str) -> list[str]:
    """NAME:SIZE of every size of every config whose name starts with `prefix`."""
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        sizes = runpy.run_path(str(path)).get("SIZES", ())
        found += [f"{path.stem}:{size}" for size in sizes if size.startswith(prefix)]
    return found


class Case:
    """One model, ready to step."""

    def __init__(self, name: str):
        stem, _, size = name.partition(":")
        exp = config.load(f"{ROOT / 'configs' / stem}.py:{size}")
        mesh = sharding.Mesh().make(jax.devices()[:1])
        _, shardings, make_state = step.init_state(exp, mesh)
        self.state = make_state()
        self.parameters = sum(a.size for a in jax.tree.leaves(self.state.params))
        budget = Budget(exp.data.length, capacities(exp.model.trunk))
        source = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, exp.seed)
        texts = [Batch(**batch) for batch in itertools.islice(source, BATCHES)]
        source.close()
        self.nbytes = sum(int(batch.nbytes.sum()) for batch in texts) / BATCHES
        self.batches: Iterator[Any] = itertools.cycle(
            [sharding.put(batch, mesh) for batch in texts]
        )
        with jax.set_mesh(mesh):
            self.step = (
                step.compiled_train_step(exp, mesh, shardings)
                .lower(self.state, next(self.batches))
                .compile()
            )
        memory = self.step.memory_analysis()
        self.mebibytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
        self.seconds: list[float] = []
        self.run(1)

    def run(self, steps: int) -> float:
        """Seconds a step."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, next(self.batches))
        jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - start) / steps


def result(case: Case) -> dict[str, Any]:
    speeds = sorted(case.nbytes / s for s in case.seconds)
    return {
        "parameters": case.parameters,
        "mebibytes": case.mebibytes,
        "bytes_per_step": case.nbytes,
        "bytes_per_second": statistics.median(speeds),
        "slowest": speeds[0],
        "fastest": speeds[-1],
    }


def show(results: dict[str, dict[str, Any]]) -> None:
    title = (
        f"one training step, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, JAX "
        f"{jax.__version__}"
    )
    table = columns(title, "M params", "MiB", "bytes/s", "+-", "of flat")
    flat = results.get(FLAT)
    for name, r in results.items():
        speed = r["bytes_per_second"]
        table.add_row(
            name,
            f"{r['parameters'] / 1e6:.2f}",
            f"{r['mebibytes']:,.0f}",
            f"{speed:,.0f}",
            f"{(r['fastest'] - r['slowest']) / 2 / speed:.0%}",
            f"{speed / flat['bytes_per_second']:.2f}" if flat else "-",
        )
    Console().print(table)


def show_beside(run: dict[str, dict[str, Any]]) -> None:
    """Ours and the references of one run in which they took turns: workers `j_NAME:SIZE` (ours),
    `t_REFERENCE` (PyTorch, eager) and `tc_REFERENCE` (compiled), each with `bytes_per_s` and
    `rss_mb`.
    """
    table = columns(
        "bytes/s, all in one run", "ours", "eager", "compiled", "ours / best", "RSS, MB", "theirs"
    )
    for name, reference in REFERENCES.items():
        ours = run.get(f"j_{name}", {})
        theirs = [run.get(f"{how}_{reference}", {}) for how in ("t", "tc")]
        best = max((r for r in theirs if "bytes_per_s" in r), key=speed_of, default=None)
        if "bytes_per_s" in ours and best is not None:
            table.add_row(
                name,
                f"{speed_of(ours):,.0f}",
                *(f"{speed_of(r):,.0f}" if "bytes_per_s" in r else "-" for r in theirs),
                f"{speed_of(ours) / speed_of(best):.2f}",
                f"{ours['rss_mb']:,.0f}",
                f"{best['rss_mb']:,.0f}",
            )
    if not table.rows:
        raise SystemExit("--beside: no model of ours and its reference are both in this run")
    Console().print(table)


def speed_of(worker: dict[str, Any]) -> float:
    return worker["bytes_per_s"]


def columns(title: str, *names: str) -> Table:
    table = Table("model", title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every model (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn (%(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME:SIZE",
        help="these models, for example flat:peer aunet:peer",
    )
    parser.add_argument(
        "--beside",
        type=pathlib.Path,
        metavar="RUN.json",
        help="measure nothing; print ours beside the references from one interleaved run of both",
    )
    given = parser.parse_args()
    if given.beside:
        show_beside(json.loads(given.beside.read_text()))
        return
    if given.rounds < 1 or given.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    cases = {}
    for name in given.only or sorted(discover("peer"), key=lambda name: (name != FLAT, name)):
        cases[name] = Case(name)
        print(f"{name} is ready", file=sys.stderr)
    for _ in range(given.rounds):
        for case in cases.values():
            case.seconds.append(case.run(given.steps))
    results = {name: result(case) for name, case in cases.items()}
    show(results)
    if given.out:
        about = {
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
        about |= {"rounds": given.rounds, "steps": given.steps, "models": results}
        path = pathlib.Path(given.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
