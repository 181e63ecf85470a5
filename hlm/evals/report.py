"""Results of several checkpoints side by side: a table, a JSON file and pictures.

`results` is {label of a checkpoint: {"model": what it is, suite: what its `evaluate` gave, ...}},
the same suites for each.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Column, Table
from rich.text import Text

from hlm.evals.noise import NOISES

Results = dict[str, dict[str, Any]]
FORMATS: dict[str, Callable[[Any], str]] = {
    "bits_per_byte": "{:.4f}".format,
    "byte_accuracy": "{:.2%}".format,
    "word_accuracy": "{:.2%}".format,
    "bytes_per_chunk": "{:.3f}".format,
    "bytes": "{:,}".format,
    "symbols": "{:,}".format,
}
MASKED_FORMATS: dict[str, Callable[[Any], str]] = {
    "masked_accuracy": "{:.2%}".format,
    "masked_word_accuracy": "{:.2%}".format,
    "bits_per_masked_letter": "{:.4f}".format,
    "letters": "{:,}".format,
}
FILL_FORMATS: dict[str, Callable[[Any], str]] = {
    "bits_per_byte": "{:.4f}".format,
    "bits_per_byte_without_suffix": "{:.4f}".format,
    "exact": "{:.2%}".format,
    "exact_given_length": "{:.2%}".format,
    "exact_given_length_without_suffix": "{:.2%}".format,
    "gaps": "{:,}".format,
}
MASKED_TITLES = {
    "together": "every seventh word masked",
    "alone": "each word masked alone (pseudo-likelihood)",
}
GRID = {"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "font.size": 9}
LOOK = ("petroff10", GRID)  # colours that colour-blind people can tell apart
MARKERS = "osD^v<>Phx"


def table(results: Results) -> Table:
    """One column for each checkpoint; robustness at the severity nearest to the usual one."""
    out = Table("", *(Column(Text(label)) for label in results))  # labels are no markup
    for _, column in zip(results, out.columns[1:], strict=True):
        column.justify = "right"
    for title, rows in sections(results):
        out.add_section()
        out.add_row(f"[bold]{title}[/bold]")
        for name, cells in rows:
            out.add_row(name, *cells)
    return out


def sections(results: Results) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """(title, [(row name, a cell for each checkpoint), ...])."""
    suites = list(results.values())
    yield (
        "model",
        [
            (key, [f"{s['model'][key]:,}" for s in suites])
            for key in ("parameters", "row", "context")
        ],
    )
    if "perplexity" in suites[0]:
        yield (
            "perplexity",
            [(words(key), [cell(key, s["perplexity"]) for s in suites]) for key in FORMATS],
        )
    if "fill" in suites[0]:
        yield (
            "fill: what is missing in gaps",
            [(words(key), [cell(key, s["fill"]) for s in suites]) for key in FILL_FORMATS],
        )
    if "masked" in suites[0]:
        for way, title in MASKED_TITLES.items():
            yield (
                title,
                [
                    (words(key), [cell(key, s["masked"][way]) for s in suites])
                    for key in MASKED_FORMATS
                ],
            )
    if "robustness" in suites[0]:
        for key in ("bits_per_byte", "word_accuracy", "bytes_per_chunk"):
            rows = [("clean", [cell(key, s["robustness"]["clean"]) for s in suites])]
            for name in suites[0]["robustness"]["noises"]:
                points = [usual_point(s, name) for s in suites]
                cells = [f"{cell(key, p)} {percent(p['change'][key]):>7}" for p in points]
                rows.append((f"{name} {points[0]['severity']:g}", cells))
            yield f"robustness: {words(key)}", rows


def words(key: str) -> str:
    return key.replace("_", " ")


def cell(key: str, found: dict[str, Any]) -> str:
    return "-" if found[key] is None else (FORMATS | FILL_FORMATS | MASKED_FORMATS)[key](found[key])


def percent(change: float | None) -> str:
    return "-" if change is None else f"{change:+z.1%}"


def usual_point(suites: dict[str, Any], name: str) -> dict[str, Any]:
    """Of a noise's curve, the point nearest to its usual severity."""
    return min(
        suites["robustness"]["noises"][name],
        key=lambda point: abs(point["severity"] - NOISES[name].severity),
    )


def write(where: epath.PathLike, about: dict[str, Any], results: Results) -> list[epath.Path]:
    """results.json and the pictures of the suites that ran; returns their paths."""
    folder = epath.Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "results.json"]
    written[0].write_text(
        json.dumps(about | {"checkpoints": results}, indent=1, allow_nan=False) + "\n"
    )
    if all("robustness" in suites for suites in results.values()):
        for name, draw in (("robustness_curves", draw_curves), ("robustness_change", draw_change)):
            written.append(folder / f"{name}.png")
            with style.context(LOOK), written[-1].open("wb") as file:  # type: ignore
                draw(results).savefig(file, format="png", dpi=120)
    return written


def draw_curves(results: Results) -> Figure:
    """Bits per byte over severity: a panel for each noise, a line for each checkpoint."""
    noises = list(next(iter(results.values()))["robustness"]["noises"])
    columns = min(5, len(noises))
    rows = math.ceil(len(noises) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.7, 2.1 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axes, name in itertools.zip_longest(panels, noises):
        if name is None:
            axes.set_axis_off()
            continue
        for (label, suites), marker in zip(results.items(), itertools.cycle(MARKERS), strict=False):
            found = suites["robustness"]
            points = [
                (0.0, found["clean"]),
                *((p["severity"], p) for p in found["noises"][name] if p["severity"]),
            ]
            x, y = [severity for severity, _ in points], [p["bits_per_byte"] for _, p in points]
            axes.plot(x, y, marker=marker, markersize=3, linewidth=1.2, label=label)
        axes.set_title(name)
    figure.supxlabel("severity")
    figure.supylabel("bits per byte")
    legend(figure, figure.axes[0], results)
    return figure


def draw_change(results: Results) -> Figure:
    """Relative change of bits per byte at the usual severity: a group of bars for each noise."""
    noises = list(next(iter(results.values()))["robustness"]["noises"])
    figure = Figure(
        figsize=(7, 1 + (0.14 + 0.16 * len(results)) * len(noises)), layout="constrained"
    )
    axes = figure.subplots()
    height = 0.8 / len(results)
    for i, (label, suites) in enumerate(results.items()):
        points = [usual_point(suites, name) for name in noises]
        where = [k + (i - (len(results) - 1) / 2) * height for k in range(len(noises))]
        axes.barh(
            where, [100 * (p["change"]["bits_per_byte"] or 0) for p in points], height, label=label
        )
    axes.set_yticks(
        range(len(noises)),
        [f"{name} {p['severity']:g}" for name, p in zip(noises, points, strict=True)],
    )
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("change of bits per byte, %")
    legend(figure, axes, results)
    return figure


def legend(figure: Figure, axes: Axes, results: Results) -> None:
    """Labels as they are: matplotlib hides those that begin with "_", and sets what is between "$"
    as formulas.
    """
    handles: Any = axes.containers or axes.lines
    box = figure.legend(
        handles,
        ["label"] * len(results),
        loc="outside upper center",
        ncols=min(len(results), 4),
        frameon=False,
    )
    for shown, label in zip(box.get_texts(), results, strict=True):
        shown.set_text(label)
        shown.set_parse_math(False)
