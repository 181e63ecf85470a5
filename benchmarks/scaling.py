"""Time and memory of training, scoring and generating, against the length of a row, room for
chunks, width, depth and rows; fitted exponents, and a picture.

    python benchmarks/scaling.py runs/scaling.json --picture docs/pictures/scaling.png
    python benchmarks/scaling.py runs/scaling.json --report         # tables of what was measured
    python benchmarks/scaling.py runs/scaling.json --models hat --axes length --whats train

Models are small (SMALL below). `near`: the same model whose chunks attend to the last NEAR chunks
only: what grows faster in the model itself is attention among chunks. Every curve is a process of
its own with a time limit, and what is in the file already is not measured again. Seconds are those
of the processor, all cores together, because other work on a machine changes them little. Memory is
what XLA plans for arguments and temporaries of the program; for generation, the process's largest.

`exponent`: the slope of log time over log size, from the second point on. 1 is linear.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from sized import near_chunks_only, sized

from hlm import LanguageModel, sharding
from hlm.config import Experiment
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.model.hierarchy import capacities
from hlm.model.lm import init_params
from hlm.seq import Batch
from hlm.train import step

SMALL: dict[str, Any] = dict(width=64, depth=2, length=4096, rows=1, remat=True)
NEAR = 128
MODELS = ("flat", "hat", "hat near", "aunet", "aunet near")
WHATS = ("train", "score", "generate")
AXES = {
    "length": (1024, 4096, 16384, 65536),
    "chunks": (512, 1024, 2048, 4096),
    "width": (64, 128, 256),
    "depth": (2, 4, 8),
    "rows": (1, 2, 4),
}
LONGEST_FLAT = 16384  # full attention over bytes holds their square
MADE = 48  # bytes that are generated
ENOUGH, MOST = 2.0, 5  # seconds that are enough for a point, and runs at most


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is measured in one process."""

    model: str
    what: str
    axis: str

    @property
    def key(self) -> str:
        return f"{self.model}/{self.what}/{self.axis}"

    def sizes(self, most: int) -> list[int]:
        most = min(most, LONGEST_FLAT) if self.model == "flat" else most
        sizes = [x for x in AXES[self.axis] if self.axis != "length" or x <= most]
        return [] if self.axis == "chunks" and self.model == "flat" else sizes

    def experiment(self, size: int) -> Experiment:
        family, _, near = self.model.partition(" ")
        changed: dict[str, Any] = SMALL | {self.axis: size}
        exp = sized(family, **changed)
        return near_chunks_only(exp, NEAR) if near else exp


def curves(models: list[str], whats: list[str], axes: list[str]) -> Iterator[Curve]:
    """`near` is of interest along the row only, and when whole rows are read."""
    for axis, what, model in itertools.product(axes, whats, models):
        if "near" not in model or (axis == "length" and what != "generate"):
            yield Curve(model, what, axis)


def timed(run: Callable[[], Any]) -> float:
    """Median seconds of the processor of a run, after one that is not counted."""
    seconds: list[float] = []
    run()
    while not seconds or (sum(seconds) < ENOUGH and len(seconds) < MOST):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def planned(compiled: Any) -> float:
    memory = compiled.memory_analysis()
    return (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20


def batch_of(exp: Experiment) -> Batch:
    budget = Budget(exp.data.length, capacities(exp.model.trunk))
    source = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, exp.seed)
    with contextlib.closing(source):
        return Batch(**next(source))


def training(exp: Experiment) -> dict[str, float]:
    mesh = sharding.Mesh().make(jax.devices()[:1])
    _, shardings, make_state = step.init_state(exp, mesh)
    batch, held = batch_of(exp), [make_state()]
    on_device = sharding.put(batch, mesh)
    with jax.set_mesh(mesh):
        compiled = step.compiled_train_step(exp, mesh, shardings).lower(held[0], on_device)
        compiled = compiled.compile()

        def run() -> None:
            held[0], _ = jax.block_until_ready(compiled(held[0], on_device))

        seconds = timed(run)
    return {"seconds": seconds, "mebibytes": planned(compiled), "bytes": int(batch.nbytes.sum())}


def scoring(exp: Experiment) -> dict[str, float]:
    batch, params = batch_of(exp), made_params(exp)

    def likelihoods(params: Any, batch: Batch) -> Any:
        out: Any = exp.model.apply({"params": params}, batch)
        return out.nll_BLN, out.hit_BL

    compiled = jax.jit(likelihoods).lower(params, batch).compile()
    seconds = timed(lambda: jax.block_until_ready(compiled(params, batch)))
    return {"seconds": seconds, "mebibytes": planned(compiled), "bytes": int(batch.nbytes.sum())}


def generating(exp: Experiment) -> dict[str, float]:
    """Of the same few bytes whatever the room of the row."""
    mesh = sharding.Mesh().make(jax.devices()[:1])
    lm = LanguageModel(exp, made_params(exp), mesh)
    made: list[int] = []

    def run() -> None:
        texts = lm.generate(["Call me "] * exp.rows, MADE, temperature=1.0, seed=1)
        made.append(sum(map(len, texts)))

    seconds = timed(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "mebibytes": peak, "bytes": made[0]}


def made_params(exp: Experiment) -> Any:
    return jax.jit(lambda: init_params(exp.model, exp.data.length, exp.seed))()


MEASURES: dict[str, Callable[[Experiment], dict[str, float]]] = {
    "train": training,
    "score": scoring,
    "generate": generating,
}


def measured(curve: Curve, sizes: list[int], limit: float) -> tuple[list[dict[str, float]], str]:
    """The points of a curve, from a process of its own, and why there are no more (or "")."""
    command = [sys.executable, __file__, "--curve", json.dumps(dataclasses.asdict(curve))]
    command += ["--sizes", *map(str, sizes)]
    why = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        out = done.stdout
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    except subprocess.TimeoutExpired as error:
        out, why = (error.stdout or b"").decode(), f"more than {limit:.0f} s"
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], why


def exponents(points: list[dict[str, float]], field: str) -> tuple[float, float] | None:
    """The slope of log `field` over log size: from the second point on, and of the last two."""
    if len(points) < 3:
        return None
    x = np.log([p["size"] for p in points[1:]])
    y = np.log([p[field] for p in points[1:]])
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def show(found: dict[str, Any]) -> None:
    for axis in AXES:
        title = f"against {axis}"
        table = Table("model", "what", title=title, box=box.SIMPLE_HEAD, pad_edge=False)
        columns = ("sizes", "seconds", "time", "last two", "MiB", "memory", "last two")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for key, curve in found.items():
            model, what, along = key.split("/")
            points = curve["points"]
            if along != axis or not points:
                continue
            ends = [points[0], points[-1]]
            cells = [" to ".join(f"{p['size']:,.0f}" for p in ends)]
            for field in ("seconds", "mebibytes"):
                cells.append(" to ".join(f"{p[field]:,.3g}" for p in ends))
                slopes = exponents(points, field)
                cells += [f"{slope:.2f}" for slope in slopes] if slopes else ["-", "-"]
            table.add_row(model, what, *cells)
        if table.row_count:
            Console(width=120).print(table)
    for key, curve in found.items():
        if curve["stopped"]:
            print(f"{key}: {curve['stopped']}")


def picture(found: dict[str, Any], path: str) -> None:
    axes = [axis for axis in AXES if any(key.endswith(axis) for key in found)]
    figure = Figure(figsize=(3.2 * len(axes), 6.5), layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False)
    lines, marks = {"train": "-", "score": "--", "generate": ":"}, "os^dv"
    for (row, (field, label)), (column, axis) in itertools.product(
        enumerate((("seconds", "seconds of the processor"), ("mebibytes", "MiB"))), enumerate(axes)
    ):
        plot = grid[row][column]
        for key, curve in found.items():
            model, what, along = key.split("/")
            if along == axis and curve["points"]:
                i = MODELS.index(model)
                x, y = ([p[name] for p in curve["points"]] for name in ("size", field))
                style: dict[str, Any] = dict(color=f"C{i}", linestyle=lines[what], marker=marks[i])
                plot.loglog(x, y, markersize=4, label=f"{model}, {what}", **style)
        plot.set_xlabel({"length": "bytes in a row", "chunks": "room for chunks"}.get(axis, axis))
        plot.set_xticks(AXES[axis], [f"{size:,}" for size in AXES[axis]])
        plot.minorticks_off()
        plot.grid(True, alpha=0.3)
        if column == 0:
            plot.set_ylabel(label)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file", nargs="?", help="JSON file of results")
    add("--models", nargs="+", choices=MODELS, default=MODELS)
    add("--whats", nargs="+", choices=WHATS, default=WHATS)
    add("--axes", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    add("--longest", type=int, default=65536, help="row (%(default)s)")
    add("--limit", type=float, default=300, help="seconds for each curve (%(default)s)")
    add("--picture", help="file for the picture")
    add("--report", action="store_true", help="measure nothing")
    add("--curve", help=argparse.SUPPRESS)
    add("--sizes", nargs="+", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.curve:
        curve = Curve(**json.loads(args.curve))
        for size in args.sizes:
            result = MEASURES[curve.what](curve.experiment(size))
            print(json.dumps({"size": size} | result), flush=True)
        return
    if not args.file:
        parser.error("give a file for the results")
    path = pathlib.Path(args.file)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for curve in () if args.report else curves(args.models, args.whats, args.axes):
        sizes = curve.sizes(args.longest)
        have = found.get(curve.key, {"points": []})["points"]
        todo = [size for size in sizes if size not in {p["size"] for p in have}]
        if not todo:
            continue
        points, why = measured(curve, todo, args.limit)
        points = sorted([*have, *points], key=lambda p: p["size"])
        found[curve.key] = {"points": points, "stopped": why}
        print(f"{curve.key}: {len(points)} of {len(sizes)} points {why}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    if args.picture:
        picture(found, args.picture)


if __name__ == "__main__":
    main()
