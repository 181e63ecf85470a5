"""A text with what models make of it, as HTML: the text once, and below each character the bits of
its bytes as bars and the chunks as lines, model by model.

No scripts, nothing from elsewhere, and colours that can be read on a light ground and on a dark
one: the figure has the ground of the page or notebook around it. Text of users is escaped.
"""

import html
from collections.abc import Mapping, Sequence

from hlm.look.cells import Cell, cells, levels_ended, words
from hlm.look.view import View

COLOURS = (
    "#3f90da", "#ffa90e", "#d4351c", "#94a4a2", "#a05fc0",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#5bbfc4",
)  # fmt: skip
MOST_BITS = 8.0  # of a byte: that of one without any idea; the height of the bars' ground
STYLE = """
.hlm-look { font: 14px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  direction: ltr; text-align: left; margin: .5rem 0; }
.hlm-look p { font: 13px/1.5 system-ui, sans-serif; margin: 0 0 .3rem; padding: 0; }
.hlm-look p > span { display: inline-block; margin-right: 1.2rem; overflow-wrap: anywhere; }
.hlm-look small { opacity: .7; font-size: inherit; color: inherit; }
.hlm-look q { display: inline-block; width: .7em; height: .7em; margin-right: .4em; }
.hlm-look q::before, .hlm-look q::after { content: none; }
.hlm-look .w { display: inline-block; vertical-align: top; margin-bottom: .5em; max-width: 100%; }
.hlm-look .c { display: inline-block; vertical-align: top; width: 1ch; }
.hlm-look .c:hover { background: rgba(128, 128, 128, .35); }
.hlm-look i { display: block; height: 1.5em; overflow: visible; white-space: pre;
  font-style: normal; text-align: center; }
.hlm-look i.sign { opacity: .55; }
.hlm-look b { display: flex; align-items: flex-end; height: 1.7em; margin-top: 4px;
  background: rgba(128, 128, 128, .13); }
.hlm-look b.none { height: 0; }
.hlm-look u { flex: 1; margin-right: 1px; text-decoration: none; }
.hlm-look s { display: block; height: 3px; margin-top: 2px; background: #888; }
.hlm-look s.end { margin-right: 2px; }
.hlm-look s.gap { background: none; }
""" + "".join(
    f".hlm-look b:nth-of-type({len(COLOURS)}n+{k}) u {{ background: {colour}; }}\n"
    for k, colour in enumerate(COLOURS, 1)
)
PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 15px/1.5 system-ui, sans-serif; }
"""
READING = (
    "A bar is the surprise of a byte, full at eight bits or more; a line below is a "
    "chunk, and the lines under it are those of higher levels. Point at a character for its bits."
)


def figure(views: Mapping[str, View], note: str = "") -> str:
    """Of one text, by the models' labels; it needs STYLE around it."""
    first = next(iter(views.values()))
    drawn = [_Lane(label, view) for label, view in views.items()]
    body = []
    for word in words(cells(first.text, first.gap)):
        inside = "".join(_cell(cell, drawn) for cell in word)
        body.append(f"<span class=w>{inside}</span>" + "<br>" * (word[-1].last == "\n"))
    said = f"<p><small>{html.escape(note)}</small></p>" if note else ""
    return f"<div class=hlm-look>{legend(views)}<div>{''.join(body)}</div>{said}</div>"


def page(body: str, title: str = "hlm") -> str:
    """A file that needs nothing else."""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}"
        '</title><meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{PAGE_STYLE}{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def legend(views: Mapping[str, View]) -> str:
    """Labels and numbers, in the order of the lanes."""
    out = []
    for k, (label, view) in enumerate(views.items()):
        swatch = f'<q style="background:{COLOURS[k % len(COLOURS)]}"></q>'
        numbers = html.escape("; ".join(summary(view)))
        out.append(f"<span>{swatch}{html.escape(label)} <small>{numbers}</small></span>")
    return f"<p>{''.join(out)}</p>"


def summary(view: View) -> list[str]:
    """What the view amounts to, in words."""
    size = len(view.text)
    if not size:
        return ["empty text"]
    said = ["looks both ways, so it gives no likelihood"]
    if view.bits is not None:
        said = [f"{sum(view.bits) / size:.2f} bits per byte"]
    for level, ends in enumerate(view.ends, 1):
        unit = view.unit if level == 1 else f"{view.unit} of level {level}"
        said.append(f"{size / max(len(ends), 1):.1f} bytes per {unit}")
    return said


class _Lane:
    """One model's view, ready to be asked for each cell."""

    def __init__(self, label: str, view: View):
        self.label, self.bits = label, view.bits
        self.ends = [frozenset(stops) for stops in view.ends]

    def of(self, cell: Cell) -> str:
        bars, end = "<b class=none></b>", levels_ended(cell, self.ends)
        if self.bits is not None:
            heights = (min(v / MOST_BITS, 1.0) for v in self.bits[cell.start : cell.stop])
            bars = "".join(f"<u style=height:{h:.0%}></u>" for h in heights)
            bars = f"<b>{bars}</b>"
        if cell.start == cell.stop:
            return bars + "<s class=gap></s>" * len(end)
        return bars + "".join("<s class=end></s>" if e else "<s></s>" for e in end)

    def told(self, cell: Cell) -> str:
        if self.bits is None:
            return ""
        return bits_of(self.bits[cell.start : cell.stop])


def bits_of(bits: Sequence[float]) -> str:
    """1.23 bits; of several bytes the sum and each."""
    each = f" ({' + '.join(f'{v:.2f}' for v in bits)})" if len(bits) > 1 else ""
    return f"{sum(bits):.2f} bits{each}"


def _cell(cell: Cell, lanes: Sequence[_Lane]) -> str:
    told = [(lane.label, lane.told(cell)) for lane in lanes]
    told = [f"{label}: {said}" if len(lanes) > 1 else said for label, said in told if said]
    if cell.start == cell.stop:
        told = ["what is missing"]
    title = f' title="{html.escape("&#10;".join(told)).replace("&amp;#10;", "&#10;")}"'
    width = f" style=width:{cell.width}ch" if cell.width != 1 else ""
    sign = " class=sign" if cell.sign else ""
    below = "".join(lane.of(cell) for lane in lanes)
    shape = f"<i{sign}>{html.escape(cell.shown)}</i>"
    return f"<span class=c{title if told else ''}{width}>{shape}{below}</span>"
