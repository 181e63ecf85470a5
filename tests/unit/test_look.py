"""Pictures of texts and of models: what is drawn is what the model says, whatever the text is."""

import functools
import html.parser
import itertools
import math
import re

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import hlm
from hlm import (
    LM,
    AdamW,
    Bytes,
    Data,
    Embed,
    Experiment,
    FIMCodec,
    Hierarchy,
    Infill,
    LanguageModel,
    Level,
    Mesh,
    TextFiles,
)
from hlm.look import about, as_html, as_text
from hlm.look.cells import cells, lines
from hlm.look.picture import Picture, show
from hlm.look.view import View, beginning
from hlm.model.pool import Select
from hlm.model.unpool import Prefix
from hlm.split import Words
from tests.laws.subjects import random_params
from tests.unit import test_masked
from tests.unit.minute_models import LENGTH, TEXT, language_model, stack

NASTY = [
    b"",
    b"\xff\xfe",
    b"a\xcc\x81b\xe2\x80\xaec",  # a combining accent, a right-to-left override
    "\u0301 ש\u200dל 小さい 🐋❤\ufe0f👨\u200d👩\u200d👧".encode(),
    b"\x1b[31mred\x07\x00\x7f\r\n\n\t<script>&\"'</b>",
    "\u2028\u2029\ud7ff\U0010ffff\u00ad".encode(),
    b"x" * 300,
    " \u3000".encode() * 60,
]
texts = st.lists(st.sampled_from(NASTY) | st.binary(max_size=4), max_size=4).map(b"".join)
any_text = functools.reduce(lambda f, text: example(text)(f), NASTY, given(text=texts))


def words_model(codec):
    both, causal = stack(9, False, True), stack(9, True, True)
    parts = (both, Level(1), Select(24), stack(), Prefix(), causal, 24, True)
    return LM(codec, Embed(16, size=codec.size), Hierarchy(*parts))


@functools.cache
def made(name):
    """A model that fills gaps, or one that looks both ways."""
    fills = FIMCodec(Bytes(Words(longest=8)))
    model = words_model(fills) if name == "fills" else test_masked.hlm()
    text = TextFiles(paths=("corpus:mobydick/valid.txt",))
    exp = Experiment(model, Data(text, LENGTH), text, text, AdamW(1e-3, 1), steps=1, rows=4)
    mesh = Mesh().make(jax.devices()[:1])
    return LanguageModel(exp, jax.tree.map(np.asarray, random_params(model, LENGTH)), mesh)


class Reader(html.parser.HTMLParser):
    """What stands in each cell, and the tags; every tag is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.shown = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "i":
            self.shown.append(data)

    def of(self, kind):
        return [attrs for tag, attrs in self.tags if tag == kind]


# --- what is shown is what the model says


@pytest.mark.parametrize("name", ["flat", "words", "groups", "bpe"])
def test_a_view_is_what_the_model_says(name):
    lm = language_model(name)
    text = (TEXT * 2).encode()  # several windows
    (view,) = show(lm, text).views.values()
    assert view.text == text
    np.testing.assert_allclose(
        np.array(view.bits) * math.log(2), lm.score(text, complete=False)[0].per_byte
    )
    depth = len(lm.budget.chunks)
    expected = [np.cumsum([len(c) for c in lm.chunks(text, k + 1)]).tolist() for k in range(depth)]
    if name == "bpe":
        sizes = lm.codec.encode(text, complete=False).nbytes[1:]
        expected = [np.cumsum(sizes, dtype=int).tolist()]
    assert list(map(list, view.ends)) == expected
    assert len(view.ends) == {"flat": 0, "words": 1, "groups": 2, "bpe": 1}[name]
    assert view.unit == ("chunk" if depth else "piece")


def test_of_a_gap_both_sides_are_shown_in_their_place():
    lm, gap = made("fills"), Infill("The wh", "e, and \xe9 more")
    (view,) = show(lm, gap).views.values()
    before, after = (part.encode() for part in (gap.prefix, gap.suffix))
    assert (view.text, view.gap) == (before + after, 6)
    bits = lm.score(gap, complete=False)[0].per_byte / math.log(2)  # the suffix first
    np.testing.assert_allclose(view.bits, [*bits[len(after) :], *bits[: len(after)]])
    # Words of the prefix "The wh", and of the suffix, which is split by itself.
    edges = [4, 6, *(6 + n for n in itertools.accumulate((3, 4, 3, 4)))]
    assert view.ends == (tuple(edges),)
    shown = Reader(show(lm, gap).html()).shown
    assert "".join(shown).startswith("The wh▢e, and")
    with pytest.raises(ValueError, match="an Infill, but the model was not made to fill any"):
        show(language_model("words"), gap)


def test_a_masked_model_has_chunks_and_no_surprise():
    (view,) = show(made("masked"), "the old whale").views.values()
    assert view.bits is None
    assert view.ends == ((4, 8, 13),)
    page = Reader(show(made("masked"), "the old whale").html())
    assert not page.of("u")
    assert len(page.of("s")) == 13
    assert "no likelihood" in str(show(made("masked"), "the old whale"))


def test_of_a_long_text_the_beginning_is_read():
    lm = language_model("words")
    picture = show(lm, "é" * 500, most=31)
    (view,) = picture.views.values()
    assert view.text == ("é" * 15).encode()
    assert "970 further bytes" in picture.note
    for said in (str(picture), picture.html(), picture._repr_html_()):
        assert "970 further bytes" in said
    assert not show(lm, "é" * 15, most=30).note
    with pytest.raises(ValueError, match="text: an Infill of 40 bytes; give parts of at most 31"):
        show(made("fills"), Infill("a" * 20, "b" * 20), most=31)


@settings(deadline=None, max_examples=40)
@given(text=st.binary(max_size=12) | st.text(max_size=8).map(str.encode), most=st.integers(0, 12))
def test_a_beginning_is_of_whole_characters(text, most):
    found = beginning(text, most)
    assert text.startswith(found)
    assert min(most - 3, len(text)) <= len(found) <= most
    whole = text.decode(errors="replace")
    if "�" not in whole:
        assert whole.startswith(found.decode())


# --- the drawing


def view_of(text, levels=1, gap=None):
    bits = tuple(float(b % 10) for b in text)
    ends = tuple((*range(k + 2, len(text), k + 2), len(text)) for k in range(levels))
    return View(text, bits, ends if text else ((),) * levels, gap=gap)


@settings(deadline=None, max_examples=60)
@any_text
def test_every_byte_is_drawn_once_and_nothing_else_happens(text):
    gap = len(text) // 2 if len(text) % 2 else None
    found = cells(text, gap)
    edges = [(c.start, c.stop) for c in found]
    assert [e[0] for e in edges[1:]] == [e[1] for e in edges[:-1]]
    assert (edges[0][0], edges[-1][1]) == (0, len(text)) if text else gap is None
    picture = Picture({"<one>": view_of(text, 2, gap), "two": view_of(text, 0, gap)})
    page = Reader(picture.html())
    assert not {"script", "link", "img", "one"} & {tag for tag, _ in page.tags}
    assert "".join(page.shown) == "".join(c.shown for c in found)
    assert len(page.of("u")) == 2 * len(text)
    assert len(page.of("s")) == 2 * len(found)
    drawn = str(picture)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200d-\u200f\u202a-\u202e]", drawn)


@settings(deadline=None, max_examples=30)
@any_text
def test_no_line_is_wider_than_the_terminal(text):
    for width in (4, 10, 33, 80):
        whole = [c for line in lines(cells(text), width) for c in line]
        assert whole == cells(text)
        narrow = [c for c in cells(text) if c.width > width - 2]
        for line in as_text.drawing({"a": view_of(text)}, width):
            plain = line.plain
            if not plain.startswith("a: ") and not narrow:
                assert cell_len(plain) <= width


def test_a_drawing_in_full():
    """A step is a bit, seven or more are full; the lines of chunks end with them."""
    text = "ab éd\n小f".encode()
    bits = (0.4, 1.0, 2.9, 1.5, 1.5, 7.0, 99.0, 1.0, 1.0, 1.0, 3.0)
    view = View(text, bits, ((3, 6, 10, 11), (6, 11)))
    expected = [
        "m: 10.85 bits per byte; 2.8 bytes per chunk; 5.5 bytes per chunk of level 2",
        "ab éd⏎",
        "▁▂▃▄██",
        "──┘─┘─",
        "────┘─",
        "小f",
        "▄▄▄",
        "─┘┘",
        "──┘",
    ]
    assert [line.plain for line in as_text.drawing({"m": view}, 80)] == expected
    page = Reader(as_html.figure({"m": view}))
    assert page.shown == ["a", "b", " ", "é", "d", "⏎", "小", "f"]
    heights = [attrs["style"] for attrs in page.of("u")]
    assert heights[:4] == ["height:5%", "height:12%", "height:36%", "height:19%"]
    assert heights[6] == "height:100%"
    ended = "".join("|" if attrs else "-" for attrs in page.of("s"))  # two for each character
    assert ended == "----|---||--|-||"
    titles = [attrs.get("title") for attrs in page.of("span") if attrs.get("class") == "c"]
    assert titles[3] == "3.00 bits (1.50 + 1.50)"


def test_colours_are_for_terminals_alone(monkeypatch):
    picture = Picture({"a": view_of(b"one two"), "b": view_of(b"one two", 2)})
    assert "\x1b" not in str(picture)
    assert repr(picture) == str(picture)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[38;" in str(picture)
    console = Console(width=20, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture)
    assert "one two" in console.export_text()
    console.file.close()


def test_save_writes_a_page_that_needs_nothing_else(tmp_path):
    picture = Picture({"a": view_of(b"one two \xff")}, "a note")
    picture.save(tmp_path / "look.html")
    page = (tmp_path / "look.html").read_text()
    assert page == picture.html()
    assert not re.search(r"https?://|url\(|@import", page)
    assert "a note" in page
    assert as_html.STYLE in page
    assert picture._repr_html_().partition("</style>")[2] in page


# --- several models, and what a model is


def test_models_have_labels():
    flat, words = language_model("flat"), language_model("words")
    assert list(hlm.show([flat, words, flat], "ab").views) == ["LM", "LM (2)", "LM (3)"]
    assert list(hlm.show({"flat": flat, 2: words}, "ab").views) == ["flat", "2"]
    page = Reader(hlm.show({"flat": flat, "words": words}, "ab").html())
    titles = [attrs["title"] for attrs in page.of("span") if attrs.get("class") == "c"]
    assert re.fullmatch(r"flat: \d+\.\d\d bits\nwords: \d+\.\d\d bits", titles[0])
    for wrong in ([], {}, "runs/hat", None, [flat, "runs/hat"]):
        with pytest.raises(ValueError, match=r"^models: .*; give a LanguageModel"):
            hlm.show(wrong, "ab")
    for text in (None, 5, ["a", "b"], [], ["a"]):
        with pytest.raises(ValueError, match=r"^text: "):
            flat.show(text)
    with pytest.raises(ValueError, match="most: 0 must be a whole number of at least 1"):
        flat.show("a", most=0)


def test_a_model_says_what_it_is_and_where_from(tmp_path):
    hlm.export(language_model("groups"), tmp_path / "mine")
    lm = hlm.load(tmp_path / "mine")
    assert (lm.name, lm.origin) == ("mine", str(tmp_path / "mine"))
    page, line = lm._repr_html_(), repr(lm)
    count = f"{about.count(lm.params):,}"
    for said in (page, line):
        assert str(tmp_path / "mine") in said
        assert count in said
        assert "Level" in said
        assert str(LENGTH) in said
    assert "WordGroups(longest=8)" in page
    assert "level 2" in page
    assert "\n" not in line
    Reader(page)
    parts = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", page)]
    assert sum(parts) == about.count(lm.params)
    assert "Router" in language_model("router")._repr_html_()
    assert "no likelihood" in made("masked")._repr_html_()
    for name in ("flat", "bpe"):
        Reader(language_model(name)._repr_html_())
        assert len(language_model(name)._repr_html_()) < 3000
    assert about.name_of(lm) == "mine"
    lm.origin, lm.step = "gs://bucket/runs/<b>hat</b>/", 7
    assert lm.name == "b>@7" or lm.name.endswith("@7")
    assert "<b>hat" not in lm._repr_html_()
