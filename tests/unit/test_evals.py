"""Suites and reports, with models whose scores are known."""

import dataclasses
import io
import itertools
import json
import math
import re
import types
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hlm.data.pipeline import documents
from hlm.data.source import JsonLines, Prompted, prompt_of
from hlm.evals import fill, perplexity, report, robustness
from hlm.evals.noise import NOISES
from hlm.evals.shelf import Shelf
from hlm.evals.suite import Document, Setting, named
from hlm.infer.api import Score


class Fake:
    """Half a bit for every byte and for EOS, and more for those that are not lower case; words are
    chunks; "x" is never guessed.
    """

    rows, budget = 2, types.SimpleNamespace(length=8)

    def __init__(self, worse: float = 1.0):
        self.worse, self.seen = worse, []

    def score(self, texts):
        self.seen.extend(texts)
        return [self.one(text) for text in texts]

    def one(self, text):
        byte = np.frombuffer(text, np.uint8)
        plain = ((byte >= ord("a")) & (byte <= ord("z"))) | (byte == ord(" "))
        per_byte = np.where(plain, 0.5, 2.5 * self.worse) * math.log(2)
        end = 0.5 * math.log(2)
        return Score(
            float(per_byte.sum() + end),
            len(text),
            per_byte,
            byte != ord("x"),
            len(text) + 1,
            1 + text.count(b" "),
            end,
        )


DOCUMENTS = [b"the whale sx axb c", b"two\nwords", b"", b"   ", "Éà x".encode()]


@given(st.binary(max_size=40) | st.text(" a\n\x1c\x85é", max_size=20).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_words_are_maximal_runs_without_ascii_whitespace(text):
    expected = [m.span() for m in re.finditer(rb"\S+", text)]
    assert list(zip(*perplexity.words(text), strict=True)) == expected


def test_perplexity_divides_totals():
    got = perplexity.evaluate(Fake(), DOCUMENTS[:2])
    assert got["bytes"] == 27
    assert got["symbols"] == 29
    # the newline costs two more; two EOS
    assert got["bits_per_byte"] == pytest.approx((27 * 0.5 + 2 + 2 * 0.5) / 27)
    assert got["byte_accuracy"] == pytest.approx(25 / 27)
    assert (got["words"], got["words_right"], got["word_accuracy"]) == (7, 5, pytest.approx(5 / 7))
    assert (got["chunks"], got["bytes_per_chunk"]) == (6, pytest.approx(4.5))


def test_totals_do_not_depend_on_groups(monkeypatch):
    many = DOCUMENTS * 30
    whole = perplexity.evaluate(Fake(), many)
    monkeypatch.setattr(perplexity, "BATCHES", 1)
    assert perplexity.evaluate(Fake(), many) == whole
    halves = [
        [perplexity.totals(t, Fake().one(t)) for t in part] for part in (many[:71], many[71:])
    ]
    added = sum(halves[0], perplexity.Totals()) + sum(halves[1], perplexity.Totals())
    assert added.report() == pytest.approx(whole, rel=1e-12)


def test_every_byte_must_be_scored():
    lm = Fake()
    lm.one = lambda text: Fake().one(text[:-1])
    with pytest.raises(RuntimeError, match="scored 17 bytes of 18"):
        perplexity.evaluate(lm, DOCUMENTS[:1])


def test_a_model_that_gives_nan_is_an_error():
    with pytest.raises(FloatingPointError, match="two"):
        perplexity.evaluate(Fake(worse=math.nan), DOCUMENTS[:2])


def test_no_text_has_no_ratios():
    got = perplexity.evaluate(Fake(), [])
    assert got["bits_per_byte"] is None
    assert got["bytes"] == 0


@given(st.lists(st.text("ab\n", max_size=12).map(str.encode), max_size=5), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_an_excerpt_ends_with_the_line_nearest_to_the_limit(documents, limit):
    chosen = robustness.excerpt(documents, limit)
    starts = np.cumsum([0, *map(len, documents)])
    ends = [
        s + e
        for s, text in zip(starts, documents, strict=False)
        for e in range(1, len(text) + 1)
        if text[:e][-1:] == b"\n"
    ]
    ends += [e for e in starts if e > 0]
    size = min(ends, key=lambda e: (abs(e - limit), e), default=0)
    assert b"".join(chosen) == b"".join(documents)[:size]
    assert chosen[:-1] == documents[: len(chosen)][:-1]


def test_robustness_compares_with_clean():
    lm = Fake()
    text = [b"some plain words here again", b"and more of them"]
    got = robustness.evaluate(lm, text, robustness.curves(("upper", "delete")))
    assert list(got["noises"]) == ["upper", "delete"]
    assert [p["severity"] for p in got["noises"]["upper"]] == list(NOISES["upper"].severities)
    clean, caps = got["noises"]["upper"][0], got["noises"]["upper"][-1]
    assert set(clean["change"].values()) == {0.0}
    assert {key: clean[key] for key in got["clean"]} == got["clean"]
    assert caps["bits_per_byte"] > 3 * clean["bits_per_byte"]
    assert caps["change"]["bits_per_byte"] == pytest.approx(
        caps["bits_per_byte"] / clean["bits_per_byte"] - 1
    )
    assert got["noises"]["delete"][-1]["bytes"] < clean["bytes"]
    assert lm.seen.count(text[0]) == 1  # severity 0 is not computed again


def test_noise_is_the_same_for_every_model_and_choice_of_noises():
    text, first, second, other = (
        [b"some plain words here again"] * 2 + [b"and more of them"],
        Fake(),
        Fake(),
        Fake(),
    )
    robustness.evaluate(first, text, robustness.usual())
    robustness.evaluate(second, text[::-1], robustness.usual(("delete", "permute")))
    assert set(second.seen) <= set(first.seen)
    robustness.evaluate(other, text, robustness.usual(), seed=1)
    assert zlib.crc32(b"".join(other.seen)) != zlib.crc32(b"".join(first.seen))


def test_change_from_nothing_is_unknown():
    got = robustness.evaluate(Fake(), [b"x"], {"upper": (1.0,)})
    assert got["clean"]["word_accuracy"] == 0
    assert got["noises"]["upper"][0]["change"]["word_accuracy"] is None


def test_pieces_are_the_text():
    text = b"some words\n" * 500 + b"x" * 3000 + b" end"
    cut = perplexity.pieces(text)
    assert b"".join(cut) == text
    assert [len(part) for part in cut[:-1]] == [2002, 2002, 4497]
    assert perplexity.pieces(b"") == [b""]


def test_units_are_the_totals_of_pieces():
    cut = [perplexity.pieces(text * 300) for text in DOCUMENTS]
    every = perplexity.units(Fake(), cut)
    whole = perplexity.evaluate(Fake(), [b"".join(parts) for parts in cut])
    assert len(every.document) == sum(map(len, cut)) > len(cut)
    for column in ("nats", "bytes", "bytes_right", "words", "words_right", "chunks"):
        assert every.sums[column].sum() == pytest.approx(whole[column])
    assert every.sums["characters"].sum() == len(b"".join(DOCUMENTS).decode()) * 300
    for name, measure in every.measures().items():
        assert measure.value == pytest.approx(whole.get(name, measure.value))
    first = every.of([0])
    assert first.measures()["bits_per_byte"].value == pytest.approx(
        perplexity.evaluate(Fake(), [DOCUMENTS[0] * 300])["bits_per_byte"]
    )


@pytest.fixture(scope="module")
def results():
    def suites(worse):
        lm = Fake(worse)
        setting = Setting(
            documents=[Document(text, "x") for text in DOCUMENTS],
            excerpt=DOCUMENTS,
            shelf=Shelf(None),
            severities=robustness.curves(("permute", "upper", "drop")),
            seeds=2,
        )
        found = {n: named(n).evaluate(lm, setting) for n in ("perplexity", "robustness")}
        return report.Checkpoint({"workdir": "runs/a", "parameters": 1234567}, found)

    return {"good@1": suites(1.0), "bad@2": suites(2.0)}


def test_table_shows_checkpoints_side_by_side(results):
    lines = {
        f"{section.title}/{line.name}": [report.cell(line.metric, m) for m in line.measures]
        for section in report.sections(results)
        for line in section.lines
    }
    bits = lines["perplexity/bits per byte"]
    assert [float(text.partition(" ")[0]) for text in bits] == [
        round(r.suites["perplexity"].grids["perplexity"][""]["bits_per_byte"].value, 4)
        for r in results.values()
    ]
    assert bits[0] < bits[1]
    noise = "robustness: noise"
    got = [results["bad@2"].suites["robustness"].grids[noise]["upper 1"]["change"].value]
    assert lines[f"{noise}: change/upper 1"][1].startswith(f"{got[0]:+.1%} ± ")
    assert len(report.table(results).columns) == 3
    file = io.StringIO()
    Console(width=300, file=file).print(report.table(results))
    assert "1,234,567" in file.getvalue()


def test_json_and_pictures_are_written(results, tmp_path):
    paths = report.write(tmp_path / "new", {"text": {"bytes": 3}}, results)
    assert [p.name for p in paths] == ["results.json", "robustness_curves.png"]
    got = json.loads(paths[0].read_text())
    assert got["text"] == {"bytes": 3}
    bits = got["checkpoints"]["bad@2"]["perplexity"]["tables"]["perplexity"][""]["bits_per_byte"]
    assert bits["units"] == len(DOCUMENTS)
    assert bits["error"] > 0
    apart = got["differences"]["perplexity"]["perplexity"]["bits per byte"]["good@1 - bad@2"]
    assert apart["low"] < apart["value"] < apart["high"] <= 0
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    without = {
        label: report.Checkpoint(c.model, {"perplexity": c.suites["perplexity"]})
        for label, c in results.items()
    }
    assert [p.name for p in report.write(tmp_path / "less", {}, without)] == ["results.json"]


def test_curves_show_what_was_measured(results):
    axes = report.draw_curves(results).axes
    assert [a.get_title() for a in axes if a.get_title()] == ["permute", "upper", "drop"]
    line = axes[1].get_lines()[1]
    assert list(line.get_xdata()) == list(NOISES["upper"].severities)
    points = results["bad@2"].suites["robustness"].curves["upper"]
    assert list(line.get_ydata()) == [value for _, value in points]
    assert points[-1][1] > points[0][1]


def test_one_severity_is_drawn_from_the_clean_text_on():
    setting = Setting((), DOCUMENTS, Shelf(None), severities=robustness.usual(("upper",)))
    found = named("robustness").evaluate(Fake(), setting)
    clean = found.grids["robustness: clean text"][""]["bits_per_byte"].value
    assert [severity for severity, _ in found.curves["upper"]] == [0, 1]
    assert found.curves["upper"][0][1] == clean


def test_noise_is_drawn_several_times():
    setting = Setting(
        (), DOCUMENTS[:1], Shelf(None), severities={"repeat": (0.4,), "upper": (1.0,)}
    )
    lm = Fake()
    grid = named("robustness").evaluate(lm, setting).grids["robustness: noise"]
    assert len({text for text in lm.seen if text not in (DOCUMENTS[0], DOCUMENTS[0].upper())}) == 3
    assert lm.seen.count(DOCUMENTS[0].upper()) == 1  # the same in each draw: read once
    assert grid["upper 1"]["change_spread_over_seeds"].value == pytest.approx(0, abs=1e-9)
    assert grid["repeat 0.4"]["change_spread_over_seeds"].value > 0


LABELS = ["runs/[bold]a[/bold]@3", "[/]@2", "a:x:@1", "_hidden@2", "a$b$_@7", "run@425@5"]


def test_labels_are_shown_as_they_are(results):
    results = dict.fromkeys(LABELS, results["good@1"])
    file = io.StringIO()
    Console(width=400, file=file).print(report.table(results))
    shown = file.getvalue()
    assert all(label in shown for label in LABELS)
    (box,) = report.draw_curves(results).legends
    assert [text.get_text() for text in box.get_texts()] == LABELS
    assert not any(text.get_parse_math() for text in box.get_texts())


# --- prompts


PROMPTS = [  # prompt, rest
    ("ask: ", "the whale sx"),
    ("", "axb c"),
    ("x x x", ""),
    ("half a wo", "rd, É"),  # the word that is begun is none of the rest
]


def prompted(tmp_path, piece=5):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"q": q, "a": a}) for q, a in PROMPTS))
    return [t for _, t in documents(JsonLines((str(path),), "a", piece, prompt="q"))]


def spread(text, worse=1.0):
    """Fake's score with nats of each byte."""
    one = Fake(worse).one(text)
    each = np.array([Fake(worse).one(bytes([b])).nats for b in text]) - 0.5 * math.log(2)
    return dataclasses.replace(one, per_byte=each, nats_of_end=0.5 * math.log(2))


def test_prompts_are_not_scored(tmp_path, monkeypatch):
    texts = prompted(tmp_path)
    assert texts == [(q + a).encode() for q, a in PROMPTS]
    assert [prompt_of(text) for text in texts] == [len(q.encode()) for q, _ in PROMPTS]
    monkeypatch.setattr(Fake, "score", lambda self, texts: [spread(text) for text in texts])
    got = perplexity.evaluate(Fake(), texts)
    rest = perplexity.evaluate(Fake(), [a.encode() for _, a in PROMPTS])
    for name in ("bytes", "bits_per_byte", "byte_accuracy", "documents"):
        assert got[name] == pytest.approx(rest[name]), name
    assert (got["words"], got["words_right"]) == (rest["words"] - 1, rest["words_right"] - 1)
    assert got["bytes_of_prompts"] == sum(len(q.encode()) for q, _ in PROMPTS)
    assert got["symbols"] == sum(len(text) + 1 for text in texts)


def test_prompts_stay_clean_and_are_not_counted(tmp_path, monkeypatch):
    """As pieces of a document: those of the rest, and one that is read as it is and counts
    nothing.
    """
    texts, rests = prompted(tmp_path), [a.encode() for _, a in PROMPTS]
    read = []

    def score(self, texts):
        read.extend(texts)
        return [spread(text) for text in texts]

    monkeypatch.setattr(Fake, "score", score)
    cut = [perplexity.pieces(text) for text in texts]
    assert [p for parts in cut for p in parts if prompt_of(p)] == [
        b"ask: ",
        b"x x x",
        b"half a wo",
    ]
    got, wanted = perplexity.units(Fake(), cut), perplexity.units(Fake(), [[r] for r in rests])
    for name in ("nats", "bytes", "bytes_right", "words", "words_right"):
        one = name.startswith("words")
        assert got.sums[name].sum() == pytest.approx(wanted.sums[name].sum() - one), name
    read.clear()
    robustness.evaluate(Fake(), texts, {name: (NOISES[name].severity,) for name in NOISES})
    prompts = [q.encode() for q, _ in PROMPTS]
    assert len(read) >= len(NOISES) * len(texts)
    assert all(text.startswith(q) for text, q in zip(read, itertools.cycle(prompts), strict=False))
    excerpt = robustness.excerpt([*texts, texts[0]], 40)
    assert [prompt_of(text) for text in excerpt] == [5, 0, 5, 9]


def test_no_gap_is_in_a_prompt():
    texts = [Prompted(b"p" * 300 + b"a" * 150, 300), Prompted(b"q" * 500, 500), b"b" * 200]
    found = fill.holes(texts, 0)
    assert {hole.middle[:1] for hole in found} == {b"a", b"b"}
    assert all(set(hole.middle) <= {*b"ab"} for hole in found)
