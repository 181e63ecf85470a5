"""The page of a report: whole, without anything from elsewhere, examples under each other."""

import functools
import html.parser
import math
import re

import pytest

from hlm.evals import page, report
from hlm.look.view import views
from tests.unit.minute_models import language_model
from tests.unit.suite_settings import found

LABELS = ("runs/<em>a</em>@3", 'a"b&c@2')


@functools.cache
def shown_page():
    texts = [b"The old house <script> stands.\nIt is cold.", "Ä小\xff".encode("latin-1", "ignore")]
    columns, looks = {}, {}
    for label, model in zip(LABELS, ("words", "bpe"), strict=True):
        suites = {name: found(name, model) for name in ("perplexity", "robustness", "choice")}
        columns[label] = report.Checkpoint({"step": 3, "workdir": label}, suites)
        looks[label] = views(language_model(model), page.examples(texts))
    return columns, looks, page.page({"text": "<i>x</i>"}, columns, looks)


class Reader(html.parser.HTMLParser):
    """Tags that are open, those that there are, and the text."""

    EMPTY = ("meta", "path", "circle", "polyline", "br")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_is_whole_and_needs_nothing_else():
    columns, _, text = shown_page()
    reader = read(text)
    assert not reader.open
    assert not {"script", "link", "img", "iframe", "em"} & {tag for tag, _ in reader.tags}
    assert not re.search(r"https?://|url\(|@import", text)
    said = "".join(reader.text)
    for label in LABELS:
        assert label in said
    assert "<i>x</i>" in said
    bits = columns[LABELS[0]].suites["perplexity"].grids["perplexity"][""]["bits_per_byte"]
    assert f"{bits.value:.4f}" in said
    panels = [tag for tag, attrs in reader.tags if attrs.get("role") == "img"]
    lines = [tag for tag, _ in reader.tags if tag == "polyline"]
    curves = report.curves_of(columns)
    assert len(panels) == len(curves)
    assert len(lines) == sum(map(len, curves.values()))


def test_examples_stand_under_each_other():
    _, looks, text = shown_page()
    for label, model in zip(LABELS, ("words", "bpe"), strict=True):
        assert looks[label][0].text == b"The old house <script> stands.\nIt is cold."
        score = language_model(model).score(looks[label][0].text, complete=False)[0]
        assert looks[label][0].bits == pytest.approx(score.per_byte / math.log(2))
    figures = [attrs for tag, attrs in read(text).tags if attrs.get("class") == "hlm-look"]
    assert len(figures) == len(looks[LABELS[0]]) == 2
    assert "&lt;" in text
