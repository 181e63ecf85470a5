"""A text with what models make of it, for terminals: below each character a bar for its bits, and
lines for the chunks of every level, model by model.

    Call me Ishmael.
    ▆▃▁▁▁▄▁▁█▅▄▃▂▁▁▂    a step is a bit, and the last is seven or more
    ────┘──┘───────┘
"""

from collections.abc import Iterator, Mapping, Sequence

from rich.style import Style
from rich.text import Text

from hlm.look.as_html import COLOURS, summary
from hlm.look.cells import Cell, cells, levels_ended, lines
from hlm.look.view import View

BARS = "▁▂▃▄▅▆▇█"
DIM = Style(dim=True)


def drawing(views: Mapping[str, View], width: int, note: str = "") -> Iterator[Text]:
    """Lines of at most so many columns."""
    first = next(iter(views.values()))
    styles = [Style(color=COLOURS[k % len(COLOURS)]) for k in range(len(views))]
    margin = "  " if len(views) > 1 else ""  # a mark of each model's colour
    for (label, view), style in zip(views.items(), styles, strict=True):
        mark = Text("■ ", style) if margin else Text()
        said = Text(f"{label}: ") + Text("; ".join(summary(view)), DIM)
        yield Text.assemble(mark, said, overflow="fold")
    for line in lines(cells(first.text, first.gap), max(width - len(margin), 1)):
        yield Text(margin) + Text("".join(cell.shown for cell in line))
        for view, style in zip(views.values(), styles, strict=True):
            mark = Text("■ " if margin else "", style)
            for row, its in _lane(view, line):
                yield mark + Text(row, style if its else DIM)
                mark = Text(margin)
    if note:
        yield Text(note, DIM)


def _lane(view: View, line: Sequence[Cell]) -> Iterator[tuple[str, bool]]:
    """The rows of one model below a line of text, and whether they are of its surprise."""
    if view.bits is not None:
        yield "".join(bar(view.bits[c.start : c.stop]) * c.width for c in line), True
    sets = [frozenset(stops) for stops in view.ends]
    ended = [levels_ended(cell, sets) for cell in line]
    for level in range(len(sets)):
        row = ""
        for cell, end in zip(line, ended, strict=True):
            through = "─" if cell.stop > cell.start else " "
            row += through * (cell.width - 1) + ("┘" if end[level] else through)
        yield row, False


def bar(bits: Sequence[float]) -> str:
    """Of the bytes of a character, their sum."""
    return BARS[min(int(sum(bits)), len(BARS) - 1)] if bits else " "
