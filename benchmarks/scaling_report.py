"""Tables and picture of scaling_laws.py."""

import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import scaling_fit as fit
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from scaling_runs import Family

# Videau et al. 2025 (2506.14761), fitted at 1e19 to 1e22 FLOPs: a C^b of the learning rate, and of
# bytes a step (for BPE: tokens a step)
PUBLISHED = {
    "aunet": (fit.Power(1.0, 6.6, -0.176), fit.Power(1.0, 0.66, 0.321)),
    "bpe": (fit.Power(1.0, 19.3, -0.177), fit.Power(1.0, 29.9, 0.231)),
}

FAR = 1e40  # FLOPs: where laws that meet only beyond it, or below 1, do not meet


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def curves(found: Sequence[Family]) -> str:
    """The best size of each budget."""
    head = ["model", "FLOPs", "size", "M parameters", "MFLOPs a byte", "MB of text", "steps"]
    head += ["bytes a step", "peak", "validation", "**test, bits per byte**"]
    rows = []
    for family in found:
        for point in family.curve:
            r, tests = point.best, point.tests
            spread = (max(tests) - min(tests)) / 2
            rows.append(
                [
                    family.name,
                    f"{r.budget:.2g}",
                    f"{r.eighths}/8",
                    f"{r.parameters / 1e6:.3f}",
                    f"{r.flops / 1e6:.2f}",
                    f"{r.text / 1e6:.2f}",
                    f"{r.steps:,}",
                    f"{r.nbytes:,.0f}",
                    f"{r.peak:g}" + ("" if point.peak[1] else " (edge)"),
                    f"{r.valid:.3f}",
                    f"**{np.mean(tests):.3f}**" + (f" ± {spread:.3f}" if len(tests) > 1 else ""),
                ]
            )
    return markdown(head, rows) + "\n±: half the way between the seeds.\n"


def laws(found: Sequence[Family]) -> str:
    """What is fitted."""
    head = ["model", "bits per byte of C FLOPs", "exponent", "a point's noise", "floor"]
    head += ["best peak", "best bytes a step", "bytes of text a FLOP a byte"]
    rows = []
    for family in found:
        low, high = np.percentile([law.exponent for law in family.drawn], fit.INNER)
        least, _, most = fit.floors(family.budgets, family.bits, family.noise)
        off = fit.error(family.peaks, family.budgets, [p.peak[0] for p in family.curve])
        batch = family.batch.formula() if len(family.batches) > 1 else f"{family.batch.scale:,.0f}"
        sure = "" if all(inside for *_, inside in family.batches) else " (edge)"
        best, inside = family.ratio
        rows.append(
            [
                family.name,
                family.law.formula(),
                f"{low:.3f} to {high:.3f}",
                f"{family.noise:.3f}",
                f"{least:.2f} to {most:.2f}",
                family.peaks.formula() + ("" if math.isnan(off) else f" (± {off:.2f})"),
                batch + (sure if family.batches else " (no other tried)"),
                f"{best:.2g}" + ("" if inside else " (edge)"),
            ]
        )
    return markdown(head, rows)


def scale(compute: float) -> str:
    if not 1 < compute < FAR:
        return "nowhere"
    return f"{compute:.0e}"


def leads(found: Sequence[Family]) -> str:
    """Who is ahead at each budget that all have, and where laws meet."""
    shared = [b for b in found[0].budgets if all(b in family.budgets for family in found)]
    rows = []
    for one, other in itertools.combinations(found, 2):
        gaps = []
        for budget in shared:
            gap = one.bits[one.budgets.index(budget)] - other.bits[other.budgets.index(budget)]
            gaps.append(f"{gap:+.3f}")
        meets = [fit.crossing(a, b) for a, b in zip(one.drawn, other.drawn, strict=True)]
        slower = np.mean(
            [a.exponent > b.exponent for a, b in zip(one.drawn, other.drawn, strict=True)]
        )
        low, middle, high = np.percentile(np.clip(meets, 1, FAR), (16, 50, 84))
        rows.append(
            [
                f"{one.name} - {other.name}",
                *gaps,
                f"{math.hypot(one.noise, other.noise):.3f}",
                scale(fit.crossing(one.law, other.law)),
                ", ".join(map(scale, (low, middle, high))),
                f"{slower:.0%}",
            ]
        )
    head = ["bits per byte", *(f"{b:.2g}" for b in shared), "noise", "laws meet at", "in draws"]
    return markdown([*head, "falls slower"], rows)


def profiles(found: Sequence[Family]) -> str:
    """All sizes at the middle budget, best peaks."""
    sizes = sorted({p.best.eighths for f in found for p in sizes_of(f)})
    rows = []
    for family in found:
        at = {p.best.eighths: p.best for p in sizes_of(family)}
        least = min(r.valid for r in at.values())
        cells = []
        for size in sizes:
            if size not in at:
                cells.append("")
                continue
            r = at[size]
            bits = f"**{r.valid:.3f}**" if r.valid == least else f"{r.valid:.3f}"
            cells.append(f"{bits} ({r.flops / 1e6:.2f}, {r.text / 1e6:.2f})")
        best = math.sqrt(family.middle / family.ratio[0])
        rows.append(
            [family.name, *cells, f"{best / 1e6:.2f}" + ("" if family.ratio[1] else " (edge)")]
        )
    head = ["validation (MFLOPs a byte, MB of text)", *(f"{size}/8" for size in sizes)]
    return markdown([*head, "best MFLOPs a byte"], rows)


def sizes_of(family: Family) -> list:
    return family.points(budget=family.middle, rows=family.rows)


def batches(found: Sequence[Family]) -> str:
    """Validation by bytes a step, where others than the usual were tried."""
    rows = []
    for family in found:
        for point in family.curve:
            same = family.points(budget=point.best.budget, eighths=point.best.eighths)
            if len(same) > 1:
                tried = [
                    f"{p.best.nbytes:,.0f}: {p.best.valid:.3f} ({p.best.peak:g})" for p in same
                ]
                rows.append([family.name, f"{point.best.budget:.2g}", ", ".join(tried)])
    return markdown(["model", "FLOPs", "bytes a step: validation (peak)"], rows) if rows else ""


def draw(found: Sequence[Family], path: pathlib.Path) -> None:
    """Bits per byte by FLOPs, by size at the middle budget, and best peaks by FLOPs."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for i, family in enumerate(found):
        color, budgets = f"C{i}", np.array(family.budgets)
        line = np.geomspace(budgets.min() / 1.5, budgets.max() * 10, 50)
        low, high = np.percentile([law(line) for law in family.drawn], fit.INNER, axis=0)
        left.fill_between(line, low, high, color=color, alpha=0.2, linewidth=0)
        label = f"{family.name}: {family.law.formula()}"
        left.plot(line, family.law(line), color=color, linewidth=1, label=label)
        for point in family.curve:
            left.plot([point.best.budget] * len(point.tests), point.tests, "o", color=color, ms=4)
        sizes = sorted((p.best.flops, p.best.valid) for p in sizes_of(family))
        middle.plot(*zip(*sizes, strict=True), "o-", color=color, label=family.name, ms=4)
        middle.axvline(math.sqrt(family.middle / family.ratio[0]), color=color, ls=":", lw=1)
        right.plot(budgets, [p.peak[0] for p in family.curve], "o", color=color, ms=4)
        label = f"{family.name}: {family.peaks.formula()}"
        right.plot(line, family.peaks(line), color=color, lw=1, label=label)
        if family.name in PUBLISHED:
            law = PUBLISHED[family.name][0]
            label = f"{family.name}, Videau et al.: {law.formula()}"
            right.plot(line, law(line), color=color, lw=1, ls="--", label=label)
    for axes, x, y in (
        (left, "training FLOPs C", "bits per byte of the test text"),
        (
            middle,
            f"FLOPs a byte, {found[0].middle:.2g} in all",
            "bits per byte of the validation text",
        ),
        (right, "training FLOPs C", "best peak of the learning rate"),
    ):
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        axes.legend(fontsize=7)
    for axes in (left, middle):
        axes.yaxis.set_major_formatter("{x:.1f}")
        axes.yaxis.set_minor_formatter("{x:.1f}")
    figure.savefig(path, dpi=120)


def report(found: Sequence[Family], out: pathlib.Path) -> None:
    """Print the tables; write results.md and laws.png."""
    if not found:
        print("no family has two budgets and a profile yet")
        return
    parts = curves(found), laws(found), leads(found), profiles(found), batches(found)
    text = "\n".join(part for part in parts if part)
    Console(width=200).print(Markdown(text))
    (out / "results.md").write_text(text)
    draw(found, out / "laws.png")
    print(out / "results.md", out / "laws.png")
