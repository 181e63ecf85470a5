"""Compare training runs: python -m hlm.runs runs/* [--picture curves.png]

One row for each run folder: the settings that are not the same in all of them, how far it came,
bits per byte of the training text (mean of the last ten reports) and of the validation text (the
last one), speed (the median) and the time that it took; `~` is the time of its steps alone, where
the run did not note more. Folders of older versions, which say less of themselves, are read too.
"""

import argparse
import io
import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from matplotlib import style
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hlm.checkpoint import Checkpoints
from hlm.evals.report import LOOK, MARKERS
from hlm.registry import to_json
from hlm.train.log import of, words
from hlm.train.metrics_file import content, lines_until, parsed
from hlm.train.record import compared, read
from hlm.train.stop import as_program, brief, say
from hlm.train.whole_files import is_remote

HIDDEN = ("steps", "every", "keep", "mesh")  # settings that decide how far and where, not what
LAST = 10  # reports whose mean is the training figure


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    name: str
    config: dict[str, Any]  # as JSON; empty where it cannot be read
    starts: list[dict[str, Any]]
    lines: list[dict[str, Any]]  # of metrics.jsonl

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def bits(self) -> list[str]:
        """Names of what is measured: a masked model's is another than that of a model that predicts
        what follows.
        """
        return list(
            dict.fromkeys(
                name for line in self.lines for name in line if name.startswith("bits_per_")
            )
        )

    def last(self, kind: str, name: str, count: int) -> float | None:
        values = [value for _, value in of(self.lines, kind, name)][-count:]
        return statistics.fmean(values) if values else None

    @property
    def speed(self) -> float | None:
        """Bytes a second; the median, since the first steps also compile."""
        values = [value for _, value in of(self.lines, "train", "bytes_per_second")]
        return statistics.median(values) if values else None

    @property
    def seconds(self) -> tuple[float, bool] | None:
        """(time, whether the run noted it itself): without that, what its steps took."""
        noted = [
            start["seconds"]
            for start in self.starts
            if isinstance(start.get("seconds"), (int, float))
        ]
        if noted and len(noted) == len(self.starts):
            return sum(noted), True
        reports = [
            line for line in self.lines if line["kind"] == "train" and line.get("bytes_per_second")
        ]
        if not reports or not self.config:
            return None
        before = [0, *(line["step"] for line in reports)]
        rows = self.config["rows"]
        return sum(
            (line["step"] - last) * rows * line.get("bytes_per_row", 0) / line["bytes_per_second"]
            for last, line in zip(before, reports, strict=False)
        ), False


def find(path: str) -> Run | None:
    """The run in a folder; None if it is none."""
    folder = epath.Path(path)
    if not any((folder / name).exists() for name in ("run.json", "metrics.jsonl", "checkpoints")):
        return None
    record = read(path) or {}
    try:
        metrics = content(folder / "metrics.jsonl")
    except Exception as error:
        say(f"warning: {folder / 'metrics.jsonl'} cannot be read ({brief(error)})")
        metrics = b""
    lines = parsed(lines_until(metrics, float("inf"))[0])
    return Run(path, record.get("config") or saved_config(path), record.get("starts", []), lines)


def saved_config(path: str) -> dict[str, Any]:
    """The config of the newest checkpoint that tells it; {} if none does."""
    if not (epath.Path(path) / "checkpoints").exists():
        return {}
    try:
        checkpoints = Checkpoints(path)
    except Exception as error:  # orbax raises many types
        say(f"warning: {path}/checkpoints cannot be read ({brief(error)})")
        return {}
    try:
        for step in checkpoints.steps:
            try:
                return to_json(checkpoints.config(step))
            except Exception as error:
                say(
                    f"warning: the config of {path}/checkpoints/{step} cannot be read "
                    f"({brief(error)})"
                )
        return {}
    finally:
        checkpoints.close()


def short_names(paths: Sequence[str]) -> list[str]:
    """The folders' names, as long as they differ."""
    names = [path if is_remote(path) else path.rstrip("/") for path in paths]
    ends = [name.rsplit("/", 1)[-1] for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]


def settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings that differ between runs, by name, as text for each run."""
    known = [
        {key: value for key, value in run.config.items() if key not in HIDDEN}
        for run in runs
        if run.config
    ]
    found = compared(known) if known else {}
    out = {}
    for name, values in found.items():
        each = iter(values)
        out[name] = [shown(next(each)) if run.config else "?" for run in runs]
    return out


def shown(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def table(runs: Sequence[Run]) -> Table:
    """A row for each run."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    out.add_column("run", overflow="fold")
    different = settings(runs)
    for name in different:
        out.add_column(Text(name.replace(".", ".\n")), overflow="fold")
    out.add_column("steps", justify="right")
    measures = list(dict.fromkeys(name for run in runs for name in run.bits)) or ["bits_per_byte"]
    for name, kind in itertools.product(measures, ("train", "valid")):
        out.add_column(f"{words(name)}\n{kind}", justify="right")
    out.add_column("bytes/s", justify="right")
    out.add_column("time", justify="right")
    for i, (run, name) in enumerate(
        zip(runs, short_names([run.name for run in runs]), strict=True)
    ):
        cells = [
            name,
            *(values[i] for values in different.values()),
            f"{run.step:,}/{run.config.get('steps', 0) or '?'}",
        ]
        for measure, (kind, count) in itertools.product(measures, (("train", LAST), ("valid", 1))):
            value = run.last(kind, measure, count)
            cells.append("-" if value is None else f"{value:.4f}")
        cells += ["-" if run.speed is None else f"{run.speed:,.0f}", duration(run.seconds)]
        out.add_row(*map(Text, cells))
    return out


def duration(found: tuple[float, bool] | None) -> str:
    if found is None:
        return "-"
    seconds = round(found[0])
    return f"{'' if found[1] else '~'}{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def picture(runs: Sequence[Run]) -> Figure:
    """Curves of all runs: training thin, validation with markers. A panel for each measure, for
    they are not the same thing.
    """
    measures = list(dict.fromkeys(name for run in runs for name in run.bits)) or ["bits_per_byte"]
    names = short_names([run.name for run in runs])
    figure = Figure(figsize=(8, 4.5 * len(measures)), layout="constrained")
    panels = figure.subplots(len(measures), squeeze=False)[:, 0]
    handles: dict[str, Any] = {}
    for panel, measure in zip(panels, measures, strict=True):
        every = []
        for i, (run, name, marker) in enumerate(
            zip(runs, names, itertools.cycle(MARKERS), strict=False)
        ):
            for kind, look in (
                ("train", {"alpha": 0.6}),
                ("valid", {"marker": marker, "markersize": 4}),
            ):
                points = of(run.lines, kind, measure)
                every += [value for _, value in points]
                if points:
                    (line,) = panel.plot(
                        *zip(*points, strict=True), color=f"C{i % 10}", linewidth=1, **look
                    )
                    handles[name] = line
        panel.set(xlabel="step", ylabel=words(measure))
        if every:
            panel.set_ylim(top=sorted(every)[int(0.98 * (len(every) - 1))] * 1.05)
    figure.legend(
        handles.values(),
        handles,
        loc="outside upper center",
        ncols=min(max(len(handles), 1), 4),
        frameon=False,
    )
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hlm.runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="+", help="workdir of a training run")
    parser.add_argument(
        "--picture",
        metavar="FILE",
        help="draw the curves of all runs, for example curves.png or curves.pdf",
    )
    args = parser.parse_args(arguments)
    found = {path: find(path) for path in dict.fromkeys(args.folder)}
    runs = [run for run in found.values() if run is not None]
    if others := [path for path, run in found.items() if run is None]:
        say(f"no run in {', '.join(others)}: there is no run.json, metrics.jsonl or checkpoints")
    if not runs:
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know the letters of a name
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    if not console.is_terminal:
        console.width = 1000
    console.print(table(runs))
    if args.picture:
        try:
            with style.context(LOOK):  # type: ignore
                picture(runs).savefig(args.picture, dpi=120)
        # a folder that is not there, a kind of picture that is none
        except (OSError, ValueError) as error:
            say(f"--picture: {args.picture} cannot be written: {brief(error)}")
            return 1
        print(args.picture)
    return 0


if __name__ == "__main__":
    as_program(lambda: sys.exit(main()))
