"""Every suite on the shipped sample, with models whose scores are known or minute ones with random
parameters.
"""

import functools
import html.parser
import json
import lzma
import math
import re
import types

import numpy as np
import pytest

from hlm.data.source import Mixture, Streamed, TextFiles
from hlm.data.unchosen import Unchosen
from hlm.evals import (
    adaptation,
    boundaries,
    choice,
    continuation,
    cost,
    cute,
    efficiency,
    frequency,
    inputs,
    misspell,
    noised_choice,
    page,
    probes,
    report,
    robustness,
    tagging,
    words,
)
from hlm.evals.choice import Item
from hlm.evals.measure import change, difference, mean, ratio, single
from hlm.evals.noise import Misspell
from hlm.evals.shelf import SAMPLES, Missing, Shelf, some
from hlm.evals.suite import SUITES, Document, Found, Setting, named
from hlm.infer.api import Score
from hlm.look.view import views
from tests.laws.subjects import corpus
from tests.unit.test_api import language_model

DOCUMENTS = (
    Document(b"The water was cold because of some years. " * 4, "eng"),
    Document("Das Wasser war kalt, über 3,14 Grad. ".encode(), "deu"),
)


def setting(folder=SAMPLES, **changes):
    given = dict(
        documents=DOCUMENTS,
        excerpt=[document.text[:60] for document in DOCUMENTS],
        shelf=Shelf(folder),
        training=[b"the water was cold and the water " * 60],
        items=3,
        severities=robustness.usual(("upper", "drop", "misspell")),
        seeds=2,
    )
    return Setting(**(given | changes))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One speed, of a few bytes, is as good a test as two of many."""
    for name, value in {"ROWS": (1,), "REPEATS": 1, "WRITTEN": 3}.items():
        monkeypatch.setattr(efficiency, name, value)


@functools.cache
def found(suite, model) -> Found:
    return named(suite).evaluate(language_model(model), setting())


class Oracle:
    """A model that is sure of the texts it is given: a bit for each byte of theirs, eight for
    others; greedy where it is sure.
    """

    rows, budget = 4, types.SimpleNamespace(length=64)

    def __init__(self, *texts):
        self.texts, self.read = {t.encode() for t in texts}, []

    def score(self, texts, complete=True):
        self.read += texts
        return [self.one(text, complete) for text in texts]

    def one(self, text, complete):
        sure = text in self.texts
        per_byte = np.full(len(text), math.log(2) * (1 if sure else 8))
        return Score(
            float(per_byte.sum()), len(text), per_byte, np.full(len(text), sure), len(text), 1
        )


@pytest.mark.parametrize(
    "suite", [name for name in SUITES if name not in ("fill", "masked", "lm_eval", "adaptation")]
)
@pytest.mark.parametrize("model", ["words", "bpe"])
def test_every_suite_runs_on_the_sample(suite, model):
    lm = language_model(model)
    if not named(suite).fits(lm):
        pytest.skip("does not fit")
    grids = found(suite, model).grids
    measures = [m for grid in grids.values() for row in grid.values() for m in row.values()]
    assert measures
    for measure in measures:
        assert np.isfinite(measure.total).all()
        assert np.isfinite(measure.weight).all()
        assert measure.chance is None or 0 <= measure.chance <= 1


@pytest.mark.parametrize("suite", ["choice", "fairness", "boundaries"])
def test_without_its_data_a_suite_is_missing(suite, tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(Missing):
            named(suite).evaluate(language_model("words"), setting(folder))


# Measures


def test_a_mean_has_the_error_that_everybody_knows():
    values = np.random.default_rng(0).normal(size=50)
    assert mean(values).value == pytest.approx(values.mean())
    assert mean(values).error == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert single(3.0).value == 3.0
    assert single(3.0).error is single(None).value is None


def test_errors_are_those_of_many_samples():
    rng = np.random.default_rng(0)

    def sample():
        weight = rng.integers(1, 30, 80)
        total = weight * rng.normal(2, 0.5, 80)
        now = ratio(total, weight)
        return now, change(ratio(total * rng.normal(1.2, 0.2, 80), weight), now)

    for which in (0, 1):
        many = [sample()[which] for _ in range(400)]
        spread = np.std([m.value for m in many])
        assert np.mean([m.error for m in many]) == pytest.approx(spread, rel=0.15)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    hard, noise = rng.normal(3, 2, 300), rng.normal(0.1, 0.1, 300)
    apart = difference(mean(hard + noise), mean(hard))
    assert apart is not None
    assert apart.clear
    assert 0.05 < apart.low < apart.value < apart.high < 0.15
    assert apart.high - apart.low < mean(hard).error  # of unpaired ones it would be five errors
    same = difference(mean(hard), mean(hard))
    assert same is not None
    assert not same.clear
    assert difference(mean(hard), mean(hard[1:])) is None
    assert difference(single(1.0), single(2.0)) is None


def test_intervals_hold_what_they_should():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        a, b = rng.normal(0, 1, 60), rng.normal(0.2, 1, 60)
        apart = difference(mean(a), mean(b))
        assert apart is not None
        held += apart.low <= -0.2 <= apart.high
    assert 88 <= held <= 99


def test_many_units_are_grouped():
    values = np.random.default_rng(0).normal(1, 1, 9001)
    whole = difference(mean(values), mean(values * 0))
    assert whole is not None
    assert whole.value == pytest.approx(values.mean())
    assert (whole.high - whole.low) / 2 == pytest.approx(1.96 * mean(values).error, rel=0.15)


# Choice


def test_the_likelihood_of_what_follows_is_that_of_its_bytes():
    lm = language_model("words")
    pairs = [(b"The whale ", b"swims."), (b"", b"The whale "), (b"The whale ", b"swims.")]
    got = continuation.likelihoods(lm, pairs)
    whole, first = (
        lm.score(t, complete=False)[0].nats for t in (b"The whale swims.", b"The whale ")
    )
    assert got[0] == got[2]
    assert got[1].nats == pytest.approx(-first)
    assert got[0].nats == pytest.approx(first - whole, rel=1e-4)
    assert [g.nbytes for g in got] == [6, 10, 6]


def test_what_greedy_decoding_writes_is_greedy():
    lm = language_model("words")
    made = bytes(lm.generate("The ", 6)[0])
    other = bytes([made[0] ^ 1]) + made[1:]
    right, wrong = continuation.likelihoods(lm, [(b"The ", made), (b"The ", other)])
    assert (right.greedy, wrong.greedy) == (True, False)


@pytest.mark.parametrize("name", choice.TASKS)
def test_the_right_option_is_found(name):
    if not Shelf(SAMPLES).has(choice.TASKS[name].file):
        pytest.skip("not in the sample")
    items = choice.read(name, Shelf(SAMPLES), None, 0)
    answers = ["".join(item.options[item.answer]) for item in items]
    others = ["".join(o) for item in items for i, o in enumerate(item.options) if i != item.answer]
    right, wrong = choice.judge(Oracle(*answers), items), choice.judge(Oracle(*others), items)
    assert right.right.mean() == right.right_per_byte.mean() == 1
    assert wrong.right.mean() == wrong.right_per_byte.mean() == 0
    if others:
        assert right.gap.min() > 0 > wrong.gap.max()


def test_options_that_tie_share_the_point():
    items = [Item((("", "ab"), ("", "cd"), ("", "ef")), 0), Item((("", "ab"), ("", "cdef")), 0)]
    got = choice.judge(Oracle(), items)
    assert list(got.right) == [pytest.approx(1 / 3), 1]  # fewer bytes, fewer bits
    assert list(got.right_per_byte) == [pytest.approx(1 / 3), 0.5]
    assert got.chance == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_prompts_are_those_of_the_harness():
    def first(name):
        return choice.read(name, Shelf(SAMPLES), None, 0)[0].options

    assert first("piqa")[0] == (
        "Question: How do I keep soup warm on the way to work?\nAnswer:",
        " Pour it into a closed flask.",
    )
    assert first("copa")[1] == ("The glass fell on the floor therefore", " it flew away.")
    assert [context for context, _ in first("winogrande")] == [
        "The box did not fit into the bag because the box",
        "The box did not fit into the bag because the bag",
    ]
    context, ending = choice.read("hellaswag", Shelf(SAMPLES), None, 0)[2].options[3]
    assert context.startswith("How to wash a cup: How to wash a cup. Fill the sink")
    assert "[" not in context + ending
    assert first("lambada")[0][1] == " clock"


def test_noise_changes_the_prompt_alone_or_everything():
    items = choice.read("arc_easy", Shelf(SAMPLES), None, 0)
    noises = misspell.noises(Shelf(None))
    for item in items:
        prompt, every = (
            noised_choice.noised(item, "upper", 1.0, 0, noises, way) for way in (False, True)
        )
        assert [c for c, _ in prompt.options] == [c.upper() for c, _ in item.options]
        assert [t for _, t in prompt.options] == [t for _, t in item.options]
        assert [t for _, t in every.options] == [t.upper() for _, t in item.options]


def test_drops_are_those_of_the_draws():
    right, noisy = np.array([1.0, 1, 0, 1]), [np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 0])]
    zero = np.zeros(4)
    clean, *draws = (choice.Judged(r, r, zero, zero, zero, 0.25) for r in (right, *noisy))
    row = noised_choice.compared(clean, draws)
    assert row["accuracy"].value == 0.375
    assert row["drop"].value == pytest.approx((0.75 - 0.375) / 0.75)
    assert row["retained"].value == pytest.approx((0.375 - 0.25) / (0.75 - 0.25))
    assert row["accuracy_spread_over_seeds"].value == pytest.approx(np.std([0.25, 0.5], ddof=1))


# Characters


VOCABULARY = words.vocabulary(
    b"the whale swims in cold water because sailors never sleep " * 2
    + b"a little longer harpooner follows something wonderful an to ax my"
)


@pytest.mark.parametrize("task", words.CHARBENCH)
def test_numbers_are_right(task):
    for item in words.charbench(task, VOCABULARY, 20, np.random.default_rng(0)):
        *_, question = item.options[0][0].split("\n")
        letter, word = re.findall(r'"(\w+)"', question)[0], re.findall(r'"(\w+)"', question)[-1]
        truth = {
            "count of a letter": word.count(letter),
            "count of different letters": len(set(word)),
            "first index of a letter": word.find(letter),
            "last index of a letter": word.rfind(letter),
        }[task]
        assert item.options[item.answer][1] == f" {truth}\n"
        assert len(item.options) == 11


@pytest.mark.parametrize("task", words.LANGGAME)
def test_games_have_one_answer_anywhere(task):
    vocabulary = words.vocabulary(corpus(), 500)
    items = words.langgame(task, vocabulary, 60, np.random.default_rng(0))
    assert {item.answer for item in items} == {0, 1, 2, 3}
    for item in items:
        *_, question = item.options[0][0].split("\n")
        options = [option.strip() for _, option in item.options]
        part = (re.findall(r'"(\w+)"', question) or [""])[0]
        score = {
            "most of a letter": str.count,
            "contains": lambda o, p: p in o,
            "starts with": str.startswith,
            "ends with": str.endswith,
            "longest": lambda o, p: len(o),
            "shortest": lambda o, p: -len(o),
        }[task]
        points = [score(o, part) for o in options]
        best = [i for i, found in enumerate(points) if found == max(points)]
        assert best == [item.answer]


def test_sums_are_reversed():
    for item in words.addition(2, 10, np.random.default_rng(0)):
        ((context, answer),) = item.options
        a, b = context.split("\n")[-1].removesuffix("=").split("+")
        assert answer == str(int(a) + int(b))[::-1] + "\n"


def test_cute_shows_other_rows_and_asks_for_one():
    rng = np.random.default_rng(0)
    for name in ("spell", "contains_char", "orth", "del_char"):
        for item in cute.read(name, Shelf(SAMPLES), None, rng):
            context, answer = item.options[item.answer]
            *shown, question = context.split("\n")
            assert len(shown) == cute.SHOTS
            assert question + answer not in shown
            assert answer.endswith('"')
    assert len(cute.read("orth", Shelf(SAMPLES), None, rng)[0].options) == 2


def test_made_questions_follow_from_the_seed():
    one, two, other = (
        words.langgame("contains", VOCABULARY, 3, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one == two != other


# Misspellings, frequency, fairness


def test_misspellings_stand_in_place(tmp_path):
    known = misspell.read(Shelf(SAMPLES))
    assert known["receive"] == ("recieve",)
    assert known["women"] == ("wimen",)
    assert not {"which", "witch"} & set(known)  # of two meanings nobody knows which
    noise = Misspell(known=known)
    rng = np.random.default_rng(0)
    text = b"Water, because (some) women's cats; naive \xff."
    noisy = noise(text, rng, 1.0)
    assert re.fullmatch(rb"Wa(tt|rt)er, becuase \(som\) women's cats; naive \xff\.", noisy)
    assert noise(text, rng, 0.0) == text
    assert noise(b"nothing here", rng, 1.0) == b"nothing here"


def test_words_are_counted_by_the_training_text():
    rows = found("perplexity", "words").grids["words by frequency in the training text"]
    assert set(rows) >= {"unseen", "common: 100 times or more", "numbers"}
    assert rows["numbers"]["count"].value == 1
    text = b" ".join(document.text for document in DOCUMENTS)
    every = re.findall(rb"[A-Za-z\x80-\xff]+", text)
    counted = [row["count"].value for name, row in rows.items() if "byte" not in name]
    assert sum(counted) == len(every) + 1
    assert rows["common: 100 times or more"]["count"].value == every.count(b"water")


def test_words_are_counted_in_what_the_runs_were_trained_on(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("one two three " * 50)
    here, other = TextFiles((str(path),)), TextFiles(("corpus:mobydick/test.txt",))
    given = {}

    def trained(*sources, format=None):
        names = [f"{i}" for i in range(len(sources))]
        given.update(zip(names, sources, strict=True))
        return inputs.own_training([inputs.Reference(name, format=format) for name in names])

    def experiment(reference):
        data = types.SimpleNamespace(source=given[reference.path])
        return types.SimpleNamespace(data=data)

    monkeypatch.setattr(inputs.Reference, "experiment", experiment)
    assert trained(here, here) == [path.read_bytes()]
    monkeypatch.setattr(inputs, "TRAINING", 100)
    assert 50 < len(trained(here)[0]) <= 100
    far = TextFiles(("gs://nobody/asked/*.txt",))
    for sources in (
        (here, other),
        (far,),
        (Streamed(far),),
        (Mixture((here, other), (1, 1)),),
        (TextFiles((str(tmp_path / "none.txt"),)),),
        (Unchosen(),),
    ):
        assert trained(*sources) == []
    assert trained(here, format="llama") == []


def test_units_add_up_to_documents():
    lm = language_model("words")
    every = found("perplexity", "words").grids
    assert set(every["perplexity by domain"]) == {"eng", "deu"}
    scores = lm.score([document.text for document in DOCUMENTS])
    got = every["perplexity"][""]
    nbytes = sum(len(document.text) for document in DOCUMENTS)
    characters = sum(len(document.text.decode()) for document in DOCUMENTS)
    nats = sum(score.nats for score in scores)
    assert got["bits_per_byte"].value == pytest.approx(nats / math.log(2) / nbytes, rel=1e-6)
    assert got["bits_per_character"].value == pytest.approx(
        got["bits_per_byte"].value * nbytes / characters
    )
    assert got["bytes_per_chunk"].value == pytest.approx(nbytes / sum(s.chunks for s in scores))


def test_premiums_are_sums_over_the_same_sentences():
    grid = found("fairness", "words").grids["fairness against English"]
    size = {
        code: sum(map(len, Shelf(SAMPLES).read(f"ntrex-128/{code}.txt").split(b"\n")))
        for code in ("eng", "rus")
    }
    assert grid["rus"]["premium in bytes"].value == pytest.approx(size["rus"] / size["eng"])
    assert {m.value for name, m in grid["eng"].items() if "premium" in name} == {1.0}
    # words of at most 8 bytes with their blank: no Chinese sentence is one, nor "stopped."
    assert grid["zho-CN"]["share of words cut"].value == 1
    assert grid["eng"]["share of words cut"].value == pytest.approx(1 / 21)
    assert grid["rus"]["premium in FLOPs"].value > 1


# Files


def test_a_shelf_reads_packed_files_and_remembers_them(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "a.jsonl.xz").write_bytes(lzma.compress(b'{"a": 1}\r\n\n{"a": 2}\n'))
    (tmp_path / "eval" / "b.jsonl.xz").write_bytes(b"not packed")
    (tmp_path / "eval" / "c.jsonl").write_text('{"a": 1}\n[2]\n')
    shelf = Shelf(tmp_path)
    assert shelf.rows("eval/a.jsonl") == [{"a": 1}, {"a": 2}]
    assert list(shelf.digests) == ["eval/a.jsonl"]
    assert shelf.names("eval/*.jsonl") == ["eval/a.jsonl", "eval/b.jsonl", "eval/c.jsonl"]
    with pytest.raises(ValueError, match=r"b.jsonl.xz is damaged"):
        shelf.rows("eval/b.jsonl")
    with pytest.raises(ValueError, match=r"c.jsonl:2 is no JSON object"):
        shelf.rows("eval/c.jsonl")
    with pytest.raises(Missing, match="--benchmarks sample"):
        shelf.read("eval/d.jsonl")


def test_a_row_without_its_fields_is_named(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "piqa_val.jsonl").write_text(json.dumps({"goal": "x"}) + "\n")
    with pytest.raises(ValueError, match=r"piqa_val.jsonl:1: no question of piqa .*sol1"):
        choice.read("piqa", Shelf(tmp_path), None, 0)


def test_some_items_are_drawn_in_order():
    items = list(range(100))
    assert some(items, 10, 0) == some(items, 10, 0) == sorted(some(items, 10, 0))
    assert some(items, 10, 0) != some(items, 10, 1)
    assert some(items, None) == some(items, 100) == items


def test_real_files_are_read(shared):
    shelf = Shelf(shared / "data")
    for name, task in choice.TASKS.items():
        if name not in ("blimp", "turblimp") and not name.startswith("clams"):
            items = choice.read(name, shelf, 20, 0)
            assert len(items) == 20
            assert all(0 <= item.answer < len(item.options) for item in items), task.file
    assert len(misspell.read(shelf)) > 5000
    for name in cute.ASK:
        assert len(cute.read(name, shelf, 5, np.random.default_rng(0))) == 5


# Boundaries, efficiency


def test_ends_of_a_rule_are_those_of_words():
    grids = found("boundaries", "words").grids
    english, chinese = (grids["boundaries"][name] for name in ("english", "chinese"))
    # 18 blanks between words, each behind one of the 26 gold tokens in 3 sentences
    assert english["word_precision"].value == 1
    assert english["word_recall"].value == pytest.approx(18 / 23)
    for row in (english, chinese):  # a rule looks at nothing that comes later
        assert row["kept_with_more_text"].value == row["kept_under_typo"].value == 1
    assert english["share_on_character_edges"].value == 1
    assert chinese["share_on_character_edges"].value < 1  # cut after 8 bytes
    assert found("boundaries", "bpe").grids["boundaries"]["english"]["bytes_per_chunk"].value > 1
    assert "first_byte_bits_change" not in found("boundaries", "bpe").grids["boundaries"]["english"]


def test_surprise_at_boundaries_is_that_of_the_score():
    lm = language_model("words")
    texts = [b"The old house stands by the river.", b"She sold"]
    got = boundaries.enrichment(lm, texts, boundaries.ends(lm, texts))
    first, every = [], []
    for text, score in zip(texts, lm.score(texts, complete=False), strict=True):
        at = np.cumsum([len(chunk) for chunk in lm.chunks(text)])[:-1]
        first += list(score.per_byte[at])
        every += list(score.per_byte)
    assert got.value == pytest.approx(np.mean(first) / np.mean(every) - 1)


def test_what_moves_is_seen(monkeypatch):
    """A segmenter that counts from the end of the text keeps nothing."""

    def from_the_end(lm, texts):
        return [{len(text) - k for k in range(3, len(text), 5)} for text in texts]

    lm, texts = language_model("words"), [b"The old house stands by the river and waits."] * 8
    monkeypatch.setattr(boundaries, "ends", from_the_end)
    moved = boundaries.with_more_text(lm, texts, from_the_end(lm, texts), 0)
    assert moved.value < 0.6
    monkeypatch.setattr(
        boundaries, "ends", lambda lm, texts: [set(range(5, len(t), 5)) for t in texts]
    )
    assert boundaries.with_more_text(lm, texts, boundaries.ends(lm, texts), 0).value == 1
    monkeypatch.setattr(boundaries, "ends", from_the_end)
    sentences = [boundaries.aligned(text.decode(), text.decode().split()) for text in texts]
    kept = boundaries.under_typos(lm, sentences, from_the_end(lm, texts), 0)
    assert kept.value == 1  # a typo of the same length moves nothing


def test_gold_tokens_stand_in_the_text():
    text = "Änne didn't go."
    sentence = boundaries.aligned(text, ["Änne", "did", "n't", "go", "."])
    assert [sentence.text[a:b].decode() for a, b in sentence.tokens] == text.replace(
        "did", "did "
    ).replace(".", " .").split()
    assert not boundaries.aligned(text, ["Änne", "not"]).tokens
    new, (start, stop) = boundaries.typo(sentence, np.random.default_rng(0))
    assert len(new) == len(sentence.text)
    assert new[:start] + new[stop:] == sentence.text[:start] + sentence.text[stop:]
    assert new != sentence.text


def test_morphemes_are_those_that_spell_the_word():
    got = dict(boundaries.morphemes(Shelf(SAMPLES), "eval/sigmorphon2022seg/eng.word.dev.tsv"))
    assert got["rereads"] == {2, 6}
    assert got["stone"] == set()
    assert "making" not in got


def test_costs_are_those_of_the_chunks():
    row = found("efficiency", "words").grids["efficiency"][""]
    lm = language_model("words")
    scores = lm.score(list(setting().excerpt))
    of_symbol, of_chunk = cost.price(lm)
    flops = sum(of_symbol * s.symbols + of_chunk * s.chunks for s in scores)
    assert row["FLOPs_per_byte"].value == pytest.approx(flops / sum(s.nbytes for s in scores))
    assert of_symbol > 0 < of_chunk
    bits = sum(s.nats for s in scores) / math.log(2) / sum(s.nbytes for s in scores)
    expected = (8 - bits) / math.log2(row["FLOPs_per_byte"].value)
    assert row["saved_bits_per_log_flop"].value == pytest.approx(expected)
    assert row["bytes_per_second_reading_1"].value > 0
    assert row["peak_memory_MiB"].value > row["parameters_MiB"].value > 0
    assert cost.price(language_model("bpe"))[1] == 0


# The page


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


# Tagging, adaptation


def test_a_head_finds_what_is_there():
    rng = np.random.default_rng(0)
    tags = ["NOUN", "VERB", "DET"] * 60
    means = {tag: rng.normal(size=8) for tag in set(tags)}

    def vectors():
        return np.stack([means[tag] + 0.2 * rng.normal(size=8) for tag in tags])

    known = tagging.Tokens(vectors(), tags, tags)
    assert tagging.tagged(known, vectors()) == tags
    shuffled = known._replace(tags=[str(tag) for tag in rng.permutation(tags)])
    guessed = tagging.tagged(shuffled, vectors())
    assert np.mean([a == b for a, b in zip(guessed, tags, strict=True)]) < 0.7


def test_a_word_has_the_tag_that_it_had_most_often():
    known = tagging.Tokens(np.zeros((4, 1)), ["A", "B", "B", "C"], ["x", "x", "x", "y"])
    assert tagging.most_often(known, ["x", "y", "z"]) == ["B", "C", "B"]


def test_a_token_has_the_vectors_of_its_chunks(tmp_path):
    lm, shelf = language_model("words"), Shelf(SAMPLES)
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"text": "Abcdefgh.", "tokens": ["Abcdefgh", "."], "upos": ["X", "PUNCT"]})
    )
    edge = tagging.tokens(lm, Shelf(tmp_path), "x.jsonl", None, 0)  # a chunk has 8 bytes at most
    np.testing.assert_allclose(edge.vectors_NE, lm.embed("Abcdefgh.")[0], rtol=1e-4, atol=1e-4)
    got = tagging.tokens(lm, shelf, "ud-mono/en_small.test.jsonl", None, 0)
    assert got.words[:4] == ["The", "cat", "sleeps", "."]
    (vectors,) = lm.embed("The cat sleeps.")
    np.testing.assert_allclose(got.vectors_NE[:4], vectors[[0, 1, 2, 2]], rtol=1e-4, atol=1e-4)
    assert set(found("tagging", "words").grids["tagging: parts of speech"]) == {"en_small"}


def test_a_model_adapts_and_forgets(tmp_path, monkeypatch):
    """To a text of one letter, which costs less and less, and the old text more; as many FLOPs as
    were asked for, and the model itself stays.
    """
    monkeypatch.setattr(adaptation, "POINTS", 3)
    (tmp_path / "new.txt").write_text("zz zz zz\n" * 200)
    lm = language_model("words")
    before = lm.score("The whale")[0].nats
    _, spent = adaptation.planned(lm, TextFiles((str(tmp_path / "new.txt"),)), 1.0)
    given = setting(
        adapt_to=TextFiles((str(tmp_path / "new.txt"),)),
        adapt_test=[b"zz zz zz\n" * 20],
        flops=30.2 * spent,
        excerpt=[b"The whale swims. " * 6],
    )
    got = named("adaptation").evaluate(lm, given)
    grid = got.grids["adaptation"]
    assert grid["training"]["steps_count"].value == 30
    assert grid["training"]["FLOPs"].value == pytest.approx(30 * spent)
    assert grid["new text"]["bits_after"].value < grid["new text"]["bits_before"].value - 0.1
    curve = got.curves["adaptation: new text"]
    assert [x / spent for x, _ in curve] == pytest.approx([0, 15, 30])
    assert curve[0][1] == grid["new text"]["bits_before"].value
    assert curve[1][1] < curve[0][1]
    assert lm.score("The whale")[0].nats == before
    with pytest.raises(Missing, match="--adapt-to"):
        named("adaptation").evaluate(lm, setting())


# Probes


def test_a_cipher_is_one_letter_for_another():
    text = b"The whale, the Whale! 42 \xc3\xa9"
    one = probes.ciphered(text, np.random.default_rng(0), False)
    two = probes.ciphered(text, np.random.default_rng(1), False)
    assert one != text != two != one
    assert (one[:3].lower(), one[9:10]) == (one[11:14], b",")
    assert [bytes([b]).isalpha() for b in one] == [bytes([b]).isalpha() for b in text]
    assert one[15:16].isupper()
    assert one.count(b" ") == 5
    spaced = [probes.ciphered(text, np.random.default_rng(seed), True) for seed in range(3)]
    assert any(new.count(b" ") != 5 for new in spaced)


def test_what_vectors_hold_can_be_read():
    """Vectors that are the first byte of the chunk two behind, and no other."""
    rng = np.random.default_rng(0)
    texts = [bytes(rng.choice(list(b"abcd"), 60).tolist()) for _ in range(40)]
    stops = [list(range(3, 61, 3)) for _ in texts]
    codes = rng.normal(size=(256, 6))
    found = [
        (
            s,
            np.stack(
                [codes[text[s[k + 1]]] if k + 2 < len(s) else codes[0] for k in range(len(s))]
            ),
        )
        for text, s in zip(texts, stops, strict=True)
    ]
    grid = probes.ahead(texts, found)
    assert grid["2 ahead"]["accuracy"].value == 1
    assert grid["1 ahead"]["accuracy"].value < 0.5
    assert grid["2 ahead"]["majority"].value < 0.5


def test_cosines_are_of_different_pieces():
    one, other = np.array([[1.0, 0], [2, 0]]), np.array([[0.0, 3]])
    assert probes.cosines([one, other], 0).value == 0
    assert probes.cosines([one, one], 0).value == pytest.approx(1)
    assert probes.cosines([one], 0).value is None


def pair(good, bad):
    return choice.pair({"good": good, "bad": bad})


def test_pairs_that_differ_in_one_word():
    assert probes.replaced(pair("The dog barks.", "The dog bark.")) == (b"barks", b"bark")
    for other in ("The cat barked.", "barks The dog.", "The dog.", "The dog barks."):
        assert probes.replaced(pair("The dog barks.", other)) is None


def test_a_model_that_knows_frequent_words_is_biased():
    words = ["one", "two", "six", "ten", "red", "big", "old", "new", "hot"]
    items = [pair(f"It is {word}a.", f"It is {word}b.") for word in words]
    seen = frequency.counts([f"{w}a {w}b ".encode() * 4**i for i, w in enumerate(words)])
    sure = Oracle(*(f"It is {w}a." for w in words[6:]), *(f"It is {w}b." for w in words[:3]))
    grid = probes.frequency_bias(sure, items[::-1], seen)  # type: ignore
    assert [row["accuracy"].value for row in grid.values()] == [0, 0.5, 1, 1]
    assert grid["frequent less rare"]["accuracy"].error == 0
    even = probes.frequency_bias(Oracle(*(f"It is {w}a." for w in words)), items, seen)  # type: ignore
    assert even["frequent less rare"]["accuracy"].value == 0
    assert not probes.frequency_bias(sure, items[:2], seen)  # type: ignore


def test_the_error_of_a_bias_is_that_of_new_pairs():
    rng = np.random.default_rng(0)
    many = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    items = [pair(f"{word}a.", f"{word}b.") for word in many]
    biases = []
    for _ in range(60):
        sure = Oracle(*(f"{word}a." for word in many if rng.random() < 0.7))
        seen = frequency.counts([" ".join(f"{w}a" for w in rng.permutation(many)[:50]).encode()])
        grid = probes.frequency_bias(sure, items, seen)  # type: ignore
        biases.append(grid["frequent less rare"]["accuracy"])
    errors = [bias.error for bias in biases]
    assert np.mean(errors) == pytest.approx(np.std([bias.value for bias in biases]), rel=0.3)
