"""Table and picture of benchmarks/quality.py."""

import json
import os
import pathlib
import statistics
from typing import Any

import jax
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown

from hlm.evals.first_look import NOISES

FINISHED = "quality.json"
Runs = dict[str, list[dict[str, Any]]]  # the runs of each model, one for each seed


def finished(out: pathlib.Path) -> Runs:
    """Results so far, best first."""
    runs: Runs = {}
    for path in sorted(out.glob(f"*/{FINISHED}")):
        found = json.loads(path.read_text())
        runs.setdefault(found["name"], []).append(found)
    return dict(sorted(runs.items(), key=lambda item: mean(bits(item[1]))))


def bits(runs: list[dict[str, Any]]) -> list[float]:
    return [run["perplexity"]["bits_per_byte"] for run in runs]


def mean(values: list[float]) -> float:
    return statistics.fmean(values)


def spread(values: list[float]) -> float:
    """Half the way from the least to the greatest."""
    return (max(values) - min(values)) / 2


def table(results: Runs) -> str:
    """Markdown; means over seeds where they measure."""
    head = [
        "model",
        "M parameters",
        "MFLOPs a byte",
        "steps",
        "MB of text",
        "of the budget",
        "bytes a chunk",
        "peak",
        "**bits per byte**",
        "byte accuracy",
        "word accuracy",
    ]
    noises = next(iter(results.values()))[0]["robustness"]["noises"]
    head += [*(f"{noise} {noises[noise][0]['severity']:g}" for noise in NOISES), "kB/s"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name, runs in results.items():
        r, clean = runs[0], bits(runs)
        chunks = [
            r["made"]["bytes_per_row"] / level["elements"] for level in r["made"]["levels"][1:]
        ]

        def over(*path: Any, runs: list[dict[str, Any]] = runs) -> float:
            return mean([at(run, path) for run in runs])

        lines.append(
            [
                name,
                f"{r['made']['parameters'] / 1e6:.2f}",
                f"{r['made']['training'] / 1e6:.2f}",
                f"{r['steps']:,}",
                f"{r['text_bytes'] / 1e6:.2f}",
                f"{r['spent'] / r['budget']:.0%}",
                ", ".join(f"{size:.1f}" for size in chunks) or "-",
                f"{r['peak']['value']:g}",
                f"**{mean(clean):.3f}**" + (f" ± {spread(clean):.3f}" if len(clean) > 1 else ""),
                f"{over('perplexity', 'byte_accuracy'):.1%}",
                f"{over('perplexity', 'word_accuracy'):.1%}",
                *(
                    f"{over('robustness', 'noises', noise, 0, 'change', 'bits_per_byte'):+.0%}"
                    for noise in NOISES
                ),
                f"{r['bytes_per_second'] / 1000:.1f}",
            ]
        )
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    notes = "Under a noise: the change of bits per byte."
    if max(map(len, results.values())) > 1:
        notes += " ±: half the way from the least to the greatest of the seeds."
    return "\n".join([*rows, "", notes, "", *sweeps(results)])


def at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def sweeps(results: Runs) -> list[str]:
    """Markdown: bits per byte of the validation text by peak, as multiples of the config's."""
    tried = {name: runs[0]["peak"] for name, runs in results.items() if runs[0]["peak"]["tried"]}
    if not tried:
        return []
    factors = sorted(
        {float(peak) / found["own"] for found in tried.values() for peak in found["tried"]}
    )
    factors = [f for i, f in enumerate(factors) if i == 0 or f > 1.2 * factors[i - 1]]
    lines = [
        ["validation by peak", "own", *(f"x {factor:.3g}" for factor in factors)],
        ["---"] + ["--:"] * (1 + len(factors)),
    ]
    for name, found in tried.items():
        cells = []
        for factor in factors:
            near = [
                value
                for peak, value in found["tried"].items()
                if 0.9 < float(peak) / found["own"] / factor < 1.1
            ]
            best = near and near[0] == min(found["tried"].values())
            cells.append((f"**{near[0]:.3f}**" if best else f"{near[0]:.3f}") if near else "")
        lines.append([name, f"{found['own']:g}", *cells])
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def draw(results: Runs, path: pathlib.Path) -> None:
    """Bars of bits per byte, best first, beside the reference lines of the text; files of configs
    by colour, a dot for each seed.
    """
    files = sorted({name.partition(":")[0] for name in results})
    figure = Figure(figsize=(7, 1 + 0.25 * len(results)), layout="constrained")
    axes = figure.subplots()
    means = [mean(bits(runs)) for runs in results.values()]
    axes.barh(
        list(results),
        means,
        color=[f"C{files.index(name.partition(':')[0]) % 10}" for name in results],
    )
    most = max(max(bits(runs)) for runs in results.values())
    for at_y, (runs, value) in enumerate(zip(results.values(), means, strict=True)):
        if len(runs) > 1:
            axes.plot(bits(runs), [at_y] * len(runs), "k|", markersize=6)
        beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(f"{value:.3f}", (max(bits(runs)), at_y), **beside)
    first = next(iter(results.values()))[0]
    references = [(name, value) for name, value in first["references"] if value < max(means)]
    for name, value in references:
        axes.axvline(value, color="black", linewidth=0.8, linestyle=":")
        axes.text(value, -0.8, name, fontsize=8, ha="center", va="bottom")
    lowest = min([*means, *(value for _, value in references)])
    axes.set_xlim(lowest - 0.1, most + 0.12 * (most - lowest) + 0.02)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"bits per byte of the test text after {first['budget']:.2g} training FLOPs\n"
        "(a mark for each seed; the axis does not start at 0)"
    )
    figure.savefig(path, dpi=120)


def report(out: pathlib.Path) -> None:
    """Print the table; write results.json, results.md and quality.png."""
    results = finished(out)
    if not results:
        return
    text = table(results)
    Console(width=200).print(Markdown(text))
    about = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "models": results,
    }
    (out / "results.json").write_text(json.dumps(about, indent=1) + "\n")
    (out / "results.md").write_text(text)
    draw(results, out / "quality.png")
    print(*(out / name for name in ("results.json", "results.md", "quality.png")))
