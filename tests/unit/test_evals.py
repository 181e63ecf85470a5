"""Suites and reports, with models whose scores are known."""

import io
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

from hlm.evals import perplexity, report, robustness
from hlm.evals.noise import NOISES
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
        nats = (np.where(plain, 0.5, 2.5 * self.worse).sum() + 0.5) * math.log(2)
        return Score(
            float(nats),
            len(text),
            np.zeros(len(text)),
            byte != ord("x"),
            len(text) + 1,
            1 + text.count(b" "),
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


@pytest.fixture(scope="module")
def results():
    def suites(worse):
        lm, model = Fake(worse), {"parameters": 1234567, "row": 8, "context": 4}
        severities = robustness.curves(("permute", "upper", "drop"))
        return {
            "model": model,
            "perplexity": perplexity.evaluate(lm, DOCUMENTS),
            "robustness": robustness.evaluate(lm, DOCUMENTS, severities),
        }

    return {"good@1": suites(1.0), "bad@2": suites(2.0)}


def test_table_shows_checkpoints_side_by_side(results):
    rows = {
        f"{title}/{name}": cells for title, rows in report.sections(results) for name, cells in rows
    }
    assert rows["model/parameters"] == ["1,234,567"] * 2
    assert rows["perplexity/bits per byte"] == [
        f"{r['perplexity']['bits_per_byte']:.4f}" for r in results.values()
    ]
    assert rows["perplexity/bits per byte"][0] < rows["perplexity/bits per byte"][1]
    point = results["bad@2"]["robustness"]["noises"]["upper"][-1]
    assert rows["robustness: bits per byte/upper 1"][1].split() == [
        f"{point['bits_per_byte']:.4f}",
        f"{100 * point['change']['bits_per_byte']:+.1f}%",
    ]
    assert len(report.table(results).columns) == 3


def test_json_and_pictures_are_written(results, tmp_path):
    paths = report.write(tmp_path / "new", {"text": {"bytes": 3}}, results)
    assert [p.name for p in paths] == [
        "results.json",
        "robustness_curves.png",
        "robustness_change.png",
    ]
    assert json.loads(paths[0].read_text()) == {"text": {"bytes": 3}, "checkpoints": results}
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths[1:])
    without = {
        label: {"model": suites["model"], "perplexity": suites["perplexity"]}
        for label, suites in results.items()
    }
    assert [p.name for p in report.write(tmp_path / "less", {}, without)] == ["results.json"]


def test_curves_show_what_was_measured(results):
    axes = report.draw_curves(results).axes
    assert [a.get_title() for a in axes if a.get_title()] == ["permute", "upper", "drop"]
    line = axes[1].get_lines()[1]
    assert list(line.get_xdata()) == list(NOISES["upper"].severities)
    assert list(line.get_ydata()) == [
        p["bits_per_byte"] for p in results["bad@2"]["robustness"]["noises"]["upper"]
    ]


def test_one_severity_is_drawn_from_the_clean_text_on(results):
    found = results["good@1"] | {
        "robustness": robustness.evaluate(Fake(), DOCUMENTS, robustness.usual(("upper",)))
    }
    (line,) = report.draw_curves({"good": found}).axes[0].get_lines()
    assert list(line.get_xdata()) == [0, 1]
    assert line.get_ydata()[0] == found["robustness"]["clean"]["bits_per_byte"]


def test_bars_show_the_usual_severity(results):
    axes = report.draw_change(results).axes[0]
    widths = [bar.get_width() for bar in axes.containers[1]]
    noises = results["bad@2"]["robustness"]["noises"]
    assert widths[1] == pytest.approx(100 * noises["upper"][-1]["change"]["bits_per_byte"])
    assert widths[2] == pytest.approx(100 * noises["drop"][2]["change"]["bits_per_byte"])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["permute 0.1", "upper 1", "drop 0.1"]


LABELS = ["runs/[bold]a[/bold]@3", "[/]@2", "a:x:@1", "_hidden@2", "a$b$_@7", "run@425@5"]


@pytest.mark.parametrize("picture", [report.draw_curves, report.draw_change])
def test_labels_are_shown_as_they_are(results, picture):
    results = dict.fromkeys(LABELS, results["good@1"])
    file = io.StringIO()
    Console(width=300, file=file).print(report.table(results))
    shown = file.getvalue()
    assert all(label in shown for label in LABELS)
    (box,) = picture(results).legends
    assert [text.get_text() for text in box.get_texts()] == LABELS
    assert not any(text.get_parse_math() for text in box.get_texts())
