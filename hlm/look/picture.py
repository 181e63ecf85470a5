"""Pictures: what one model or several make of a text, drawn by whatever shows the object.

A notebook shows HTML and a terminal colours; `html()` is a file by itself, and `save` writes it.
"""

import io
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.text import Text

from hlm.fim import Infill
from hlm.infer import given
from hlm.look import as_html, as_text
from hlm.look.view import View, as_bytes, beginning, views

MOST = 2000  # bytes that are drawn if nothing else is asked for


class Picture:
    """One text and what models make of it, by their labels; `note`: a line below."""

    def __init__(self, looks: Mapping[str, View], note: str = ""):
        self.views, self.note = dict(looks), note

    def _repr_html_(self) -> str:
        return f"<style>{as_html.STYLE}</style>{as_html.figure(self.views, self.note)}"

    def html(self) -> str:
        """A whole page that needs nothing else."""
        note = f"<p><small>{as_html.READING}</small></p>"
        figure = as_html.figure(self.views, self.note)
        return as_html.page(figure + f"<div class=hlm-look>{note}</div>", ", ".join(self.views))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `html()` to a file."""
        pathlib.Path(path).expanduser().write_text(self.html(), encoding="utf-8")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield from as_text.drawing(self.views, options.max_width, self.note)

    def __str__(self) -> str:
        """In colours if standard output is a terminal."""
        console = Console(
            file=io.StringIO(), force_terminal=sys.stdout.isatty(), force_jupyter=False
        )
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip("\n")

    __repr__ = __str__


def show(models: Any, text: given.Text | Infill, most: int = MOST) -> Picture:
    """Chunks and surprise of models below a text: of one LanguageModel, of several, or of
    {label: model}.

    Of a longer text its first `most` bytes are read and drawn. What is read counts as open: its
    end is not the end of a document. A model that looks both ways has chunks and no surprise, a
    flat one surprise and no chunks, and one over subwords its pieces.
    """
    named = labelled(models)
    most = given.whole(most, "most", 1)
    prompt = text if isinstance(text, Infill) else given.text(text, "text")
    note = ""
    if isinstance(prompt, Infill):
        prompt = Infill(*(given.text(p, "text") for p in (prompt.prefix, prompt.suffix)))
        size = len(as_bytes(prompt.prefix)) + len(as_bytes(prompt.suffix))
        if size > most:
            raise ValueError(
                f"text: an Infill of {size} bytes; give parts of at most {most} together, or most="
            )
    elif len(prompt) > most:
        whole, prompt = len(prompt), beginning(prompt, most)
        note = f"{whole - len(prompt):,} further bytes are not drawn (most={most})"
    return Picture({label: views(lm, [prompt])[0] for label, lm in named.items()}, note)


def labelled(models: Any) -> dict[str, Any]:
    """Models by their labels: given ones, or their names, numbered where two are the same."""
    if isinstance(models, Mapping):
        found = {str(label): lm for label, lm in models.items()}
    elif hasattr(models, "score"):
        found = {models.name: models}
    elif isinstance(models, Iterable) and not isinstance(models, (str, bytes)):
        found = {}
        for lm in models:
            name = getattr(lm, "name", "")
            same = sum(label == name or label.startswith(f"{name} (") for label in found)
            found[f"{name} ({same + 1})" if same else name] = lm
    else:
        found = {"": None}
    if not found or not all(hasattr(lm, "score") for lm in found.values()):
        raise ValueError(
            f"models: {given.shown(models)}; give a LanguageModel (hlm.load), a list of them, or "
            "{label: model}"
        )
    return found
