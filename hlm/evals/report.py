"""Results of several checkpoints side by side: tables, a JSON file and pictures; report.html is
made by hlm/evals/page.py.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from matplotlib import style
from matplotlib.figure import Figure
from rich.table import Column, Table
from rich.text import Text

from hlm.evals.measure import Difference, Measure, difference
from hlm.evals.suite import Found

GRID = {"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "font.size": 9}
LOOK = ("petroff10", GRID)  # colours that colour-blind people can tell apart
MARKERS = "osD^v<>Phx"
# By the beginning or the end of a metric's name; other numbers have four digits.
FORMATS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("change", "{:+z.1%}".format),
    ("drop", "{:+z.1%}".format),
    ("retained", "{:z.1%}".format),
    ("share", "{:.2%}".format),
    ("accuracy", "{:.2%}".format),
    ("majority", "{:.2%}".format),
    ("exact", "{:.2%}".format),
    ("bits", "{:.4f}".format),
    ("bytes_per_chunk", "{:.3f}".format),
    ("count", "{:,.0f}".format),
)


@dataclasses.dataclass
class Checkpoint:
    """One column: what the model is, and what each suite found."""

    model: dict[str, Any]
    suites: dict[str, Found]


Results = dict[str, Checkpoint]  # by the checkpoint's label


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table: one measure for each checkpoint; None where a suite did not find it."""

    name: str
    metric: str
    measures: tuple[Measure | None, ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """A table under a title. `metric`: that of all lines, if it is one."""

    suite: str
    title: str
    lines: tuple[Line, ...]


def sections(results: Results) -> Iterator[Section]:
    """Grids of one row become a section of metrics; others a section for each metric."""
    columns = list(results.values())
    for suite in dict.fromkeys(name for column in columns for name in column.suites):
        grids = [column.suites[suite].grids if suite in column.suites else {} for column in columns]
        for title in dict.fromkeys(title for grid in grids for title in grid):
            found = [grid.get(title, {}) for grid in grids]
            rows = list(dict.fromkeys(row for grid in found for row in grid))
            metrics = list(dict.fromkeys(m for grid in found for row in grid.values() for m in row))
            every = {
                (row, metric): tuple(grid.get(row, {}).get(metric) for grid in found)
                for row in rows
                for metric in metrics
            }
            some = {key: line for key, line in every.items() if any(m is not None for m in line)}
            if len(rows) == 1:
                lines = [Line(words(metric), metric, line) for (_, metric), line in some.items()]
                yield Section(suite, f"{title} {rows[0]}".strip(), tuple(lines))
                continue
            for metric in metrics:
                lines = [Line(row, m, line) for (row, m), line in some.items() if m == metric]
                yield Section(suite, f"{title}: {words(metric)}", tuple(lines))


def words(key: str) -> str:
    return key.replace("_", " ")


def shown(metric: str, value: float | None) -> str:
    """A value as its metric is usually written."""
    if value is None:
        return "-"
    known = (f for name, f in FORMATS if metric.startswith(name) or metric.endswith(name))
    return next(known, lambda v: f"{v:,.0f}" if abs(v) >= 10_000 else f"{v:.4g}")(value)


def cell(metric: str, measure: Measure | None) -> str:
    """The value with its standard error."""
    if measure is None or measure.value is None:
        return "-"
    error = measure.error
    spread = "" if not error else f" ± {shown(metric, error).removeprefix('+')}"
    return shown(metric, measure.value) + spread


def table(results: Results) -> Table:
    """One column for each checkpoint, and one for chance if it is known."""
    chances = any(
        m is not None and m.chance is not None
        for section in sections(results)
        for line in section.lines
        for m in line.measures
    )
    labels = [Column(Text(label), justify="right") for label in results]  # labels are no markup
    out = Table("", *labels, *(["chance"] if chances else []))
    for key in dict.fromkeys(key for column in results.values() for key in column.model):
        values = [column.model.get(key) for column in results.values()]
        if all(isinstance(value, int) for value in values):
            out.add_row(key, *(f"{value:,}" for value in values))
    for section in sections(results):
        out.add_section()
        out.add_row(Text(section.title, "bold"))
        for line in section.lines:
            chance = next((m.chance for m in line.measures if m and m.chance is not None), None)
            last = [shown(line.metric, chance) if chance is not None else ""] if chances else []
            out.add_row(Text(line.name), *(cell(line.metric, m) for m in line.measures), *last)
    return out


def differences(results: Results, seed: int = 0) -> dict[str, Any]:
    """{suite: {table: {line: {"a - b": a Difference}}}}, of all pairs of checkpoints."""
    found: dict[str, Any] = {}
    for section in sections(results):
        for line in section.lines:
            pairs = itertools.combinations(zip(results, line.measures, strict=True), 2)
            for (first, a), (second, b) in pairs:
                apart = difference(a, b, seed) if a is not None and b is not None else None
                if apart is not None:
                    lines = found.setdefault(section.suite, {}).setdefault(section.title, {})
                    lines.setdefault(line.name, {})[f"{first} - {second}"] = apart
    return found


def plain(value: Any) -> Any:
    """For JSON: measures and differences as dictionaries; a number that is not finite is null."""
    if isinstance(value, Measure):
        return plain(value.report())
    if isinstance(value, Difference):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(where: epath.PathLike, about: dict[str, Any], results: Results) -> list[epath.Path]:
    """results.json, and a picture of curves if there are some; returns their paths."""
    folder = epath.Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = {
        label: {"model": column.model}
        | {
            suite: {"tables": found.grids, "curves": found.curves, "notes": found.notes}
            | found.details
            for suite, found in column.suites.items()
        }
        for label, column in results.items()
    }
    content = about | {"checkpoints": checkpoints, "differences": differences(results)}
    written = [folder / "results.json"]
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
    written[0].write_text(text + "\n")
    if any(found.curves for column in results.values() for found in column.suites.values()):
        written.append(folder / "robustness_curves.png")
        with style.context(LOOK), written[-1].open("wb") as file:  # type: ignore
            draw_curves(results).savefig(file, format="png", dpi=120)
    return written


def curves_of(results: Results) -> dict[str, dict[str, tuple[tuple[float, float | None], ...]]]:
    """{name of a curve: {label of a checkpoint: its points}}."""
    found: dict[str, Any] = {}
    for label, column in results.items():
        for suite in column.suites.values():
            for name, points in suite.curves.items():
                found.setdefault(name, {})[label] = points
    return found


def draw_curves(results: Results) -> Figure:
    """Bits per byte over severity: a panel for each noise, a line for each checkpoint."""
    curves = curves_of(results)
    columns = min(5, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.7, 2.1 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    markers = dict(zip(results, itertools.cycle(MARKERS), strict=False))
    for axes, name in itertools.zip_longest(panels, curves):
        if name is None:
            axes.set_axis_off()
            continue
        for label, points in curves[name].items():
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=markers[label], markersize=3, linewidth=1.2, label=label)
        axes.set_title(name)
    figure.supxlabel("severity")
    figure.supylabel("bits per byte")
    legend(figure, results)
    return figure


def legend(figure: Figure, results: Results) -> None:
    """Labels as they are: matplotlib hides those that begin with "_", and sets what is between "$"
    as formulas.
    """
    box = figure.legend(
        figure.axes[0].lines,
        ["label"] * len(results),
        loc="outside upper center",
        ncols=min(len(results), 4),
        frameon=False,
    )
    for line, label in zip(box.get_texts(), results, strict=True):
        line.set_text(label)
        line.set_parse_math(False)
