"""report.html: results as one file that needs nothing else, to be read in any browser.

Tables, severity curves as SVG, and example texts with each model's chunks and surprise below. No
scripts; text of models and of users is escaped.
"""

import html
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from hlm.evals.measure import Difference
from hlm.evals.report import Results, Section, cell, curves_of, differences, sections, shown
from hlm.look import as_html
from hlm.look.as_html import COLOURS
from hlm.look.view import View, beginning

DASHES = ("none", "6 3", "2 2", "8 3 2 3")
LONGEST, MOST = 240, 3  # bytes of an example, examples
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #222; --line: #ddd; --quiet: #666; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181b; --ink: #ddd; --line: #3a3d42; --quiet: #999; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 75rem;
  color: var(--ink); background: var(--page); }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.1rem; margin: 1.4rem 0 0.4rem; }
.sections { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 32rem), 1fr));
  column-gap: 2rem; } section { min-width: 0; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.3rem 0; }
th, td { padding: 0.15rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; overflow-wrap: break-word;
  min-width: 5rem; max-width: 12rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--page); white-space: normal; min-width: 6rem; max-width: 14rem; }
small, .note { color: var(--quiet); }
@media (max-width: 40rem) { th, td { padding: 0.15rem 0.3rem; font-size: 0.75rem; }
  th { min-width: 3.5rem; } td small { display: block; line-height: 1; } }
details { margin: 0.2rem 0 0.8rem; }
summary { cursor: pointer; color: var(--quiet); font-size: 0.85rem; }
.curves { display: flex; flex-wrap: wrap; gap: 0.6rem; }
.curves svg { flex: 1 1 9rem; max-width: 13rem; height: auto; }
.legend span { display: inline-block; margin-right: 1rem; overflow-wrap: anywhere; }
.legend svg { width: 2rem; height: 0.6rem; vertical-align: middle; }
.curves text { fill: var(--ink); } .curves .grid { stroke: var(--line); }
code { overflow-wrap: anywhere; }
"""


def page(about: Mapping[str, Any], results: Results, views: Mapping[str, Sequence[View]]) -> str:
    """The whole file. `views`: of each checkpoint the same texts."""
    apart = differences(results)
    body = [
        "<h1>Evaluation</h1>",
        *models(results),
        *pictures(views),
        *curves(results),
        "<div class=sections>",
        *(part for section in sections(results) for part in table(section, results, apart)),
        "</div>",
        "<h2>Where it comes from</h2>",
        f"<details><summary>versions, commit, checksums, seeds</summary><div class=wide><pre>"
        f"{escaped(json.dumps(about, indent=1, ensure_ascii=False))}</pre></div></details>",
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Evaluation</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{as_html.STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def write(
    folder: epath.PathLike,
    about: Mapping[str, Any],
    results: Results,
    views: Mapping[str, Sequence[View]],
) -> epath.Path:
    """FOLDER/report.html."""
    path = epath.Path(folder) / "report.html"
    path.write_text(page(about, results, views))
    return path


def escaped(text: Any) -> str:
    return html.escape(str(text))


def row(cells: Sequence[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def models(results: Results) -> Iterator[str]:
    keys = dict.fromkeys(key for column in results.values() for key in column.model)
    yield "<div class=wide><table>" + row(["", *map(escaped, results)], "th")
    for key in keys:
        values = [column.model.get(key) for column in results.values()]
        yield row([escaped(key), *(f"{v:,}" if isinstance(v, int) else escaped(v) for v in values)])
    yield "</table></div>"
    for suite, note in dict.fromkeys(
        (suite, note)
        for column in results.values()
        for suite, found in column.suites.items()
        for note in found.notes
    ):
        yield f"<p class=note>{escaped(suite)}: {escaped(note)}</p>"


def table(section: Section, results: Results, apart: Mapping[str, Any]) -> Iterator[str]:
    """Values with standard errors; differences with intervals below, folded."""
    chances = [
        next((m.chance for m in line.measures if m and m.chance is not None), None)
        for line in section.lines
    ]
    known = any(chance is not None for chance in chances)
    yield f"<section><h2>{escaped(section.title)}</h2><div class=wide><table>"
    yield row(["", *map(escaped, results), *(["chance"] if known else [])], "th")
    for line, chance in zip(section.lines, chances, strict=True):
        cells = []
        for measure in line.measures:
            value, _, error = cell(line.metric, measure).partition(" ± ")
            cells.append(escaped(value) + (f" <small>± {escaped(error)}</small>" if error else ""))
        last = [shown(line.metric, chance) if chance is not None else ""] if known else []
        yield row([escaped(line.name), *cells, *last])
    yield "</table></div>"
    found: Mapping[str, Mapping[str, Difference]] = apart.get(section.suite, {}).get(
        section.title, {}
    )
    if found:
        metric = {line.name: line.metric for line in section.lines}
        yield "<details><summary>differences, with 95 % intervals of a paired bootstrap</summary>"
        yield "<div class=wide><table>" + row(["", "", "difference", "from", "to", "clear"], "th")
        for name, pairs in found.items():
            for pair, d in pairs.items():
                numbers = [signed(metric[name], v) for v in (d.value, d.low, d.high)]
                cells = [escaped(name), escaped(pair), *numbers, "yes" if d.clear else "no"]
                yield row(cells)
        yield "</table></div></details>"
    yield "</section>"


def signed(metric: str, value: float) -> str:
    text = shown(metric, value)
    return escaped(text if text.startswith(("+", "-")) else f"+{text}")


def curves(results: Results) -> Iterator[str]:
    """A panel for each noise, with the same scale."""
    found = curves_of(results)
    values = [v for lines in found.values() for line in lines.values() for _, v in line if v]
    if not values:
        return
    low, high = min(values), max(values)
    high += (high == low) + 0.05 * (high - low)
    yield "<h2>Bits per byte over the severity of noise, or over FLOPs of adaptation</h2>"
    yield "<p class=legend>"
    marks = dict(zip(results, itertools.cycle(range(len(COLOURS) * len(DASHES))), strict=False))
    for label, i in marks.items():
        stroke = f'stroke="{colour(i)}" stroke-dasharray="{dash(i)}" stroke-width="2.5"'
        line = f'<svg viewBox="0 0 32 10"><path d="M0 5H32" {stroke} fill="none"/></svg>'
        yield f"<span>{line} {escaped(label)}</span>"
    yield "</p><div class=curves>"
    for name, lines in found.items():
        drawn = (
            polyline(points, marks[label], low, high)
            for label, points in lines.items()
            if label in marks
        )
        yield panel(name, lines, "".join(drawn), low, high)
    yield "</div>"


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def dash(i: int) -> str:
    return DASHES[i // len(COLOURS) % len(DASHES)]


def place(x: float, y: float, low: float, high: float) -> tuple[float, float]:
    return 34 + 160 * x, 118 - 96 * (y - low) / (high - low)


def polyline(points: Sequence[tuple[float, float | None]], i: int, low: float, high: float) -> str:
    most = max(x for x, _ in points) or 1.0
    at = [place(x / most, y, low, high) for x, y in points if y is not None]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    stroke = f'stroke="{colour(i)}" stroke-dasharray="{dash(i)}"'
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour(i)}"/>' for x, y in at)
    return f'<polyline points="{path}" fill="none" stroke-width="1.8" {stroke}/>{dots}'


def panel(name: str, lines: Mapping[str, Any], drawn: str, low: float, high: float) -> str:
    most = max((x for points in lines.values() for x, _ in points), default=1.0)
    grid = ""
    for share in (0, 0.5, 1):
        value = low + share * (high - low)
        _, y = place(0, value, low, high)
        grid += f'<path d="M34 {y:.1f}H194" class=grid />'
        grid += f'<text x="30" y="{y + 3:.1f}" text-anchor="end">{value:.1f}</text>'
    for share in (0, 0.5, 1):
        x, _ = place(share, low, low, high)
        grid += f'<text x="{x:.1f}" y="132" text-anchor="middle">{share * most:.3g}</text>'
    title = f'<text x="114" y="12" text-anchor="middle" font-size="11">{escaped(name)}</text>'
    return (
        '<svg viewBox="0 0 206 138" role="img" font-size="9" '
        f'font-family="system-ui, sans-serif"><title>{escaped(name)}</title>'
        f"{title}{grid}{drawn}</svg>"
    )


def examples(texts: Sequence[bytes]) -> list[bytes]:
    """Beginnings of the first texts of different kinds, whole characters."""
    found = []
    for text in texts:
        start = beginning(text.strip(), LONGEST)
        if start and start not in found:
            found.append(start)
        if len(found) == MOST:
            break
    return found


def pictures(views: Mapping[str, Sequence[View]]) -> Iterator[str]:
    """What all models make of each example (hlm/look)."""
    if not any(views.values()):
        return
    yield f"<h2>Examples</h2><p class=note>{escaped(as_html.READING)}</p>"
    for n in range(max(len(found) for found in views.values())):
        yield as_html.figure({label: v[n] for label, v in views.items() if n < len(v)})
