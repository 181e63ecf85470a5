"""What a notebook sees, on minute models with random parameters."""

import codecs
import copy
import functools
import itertools
import pickle

import jax
import numpy as np
import pytest

from hlm import (
    LM,
    Bytes,
    Embed,
    LanguageModel,
    config,
    export,
    load,
)
from hlm.checkpoint import Checkpoints
from hlm.data.pack import Window, empty_row
from hlm.infer.continued import Continuation, Stats
from hlm.infer.stream import Stream
from hlm.split import Unsplit
from tests.laws.subjects import corpus, random_params
from tests.unit.minute_models import HIERARCHIES, LENGTH, TEXT, language_model, stack, tokenizer

CLOSE = 1e-4

every_model = pytest.mark.parametrize("name", ["flat", *HIERARCHIES, "bpe"])
some_models = pytest.mark.parametrize("name", ["words", "bpe"])  # each compiles for itself
every_hierarchy = pytest.mark.parametrize("name", HIERARCHIES)


@every_model
def test_score_adds_up(name):
    lm = language_model(name)
    for text in (TEXT, "a", "", "a b", b"\xff\xc3"):
        (score,) = lm.score(text)
        assert score.nbytes == len(score.per_byte) == len(score.hits)
        assert score.per_byte.sum() + score.nats_of_end == pytest.approx(score.nats)
        assert score.nats_of_end > 0
        assert score.bits_per_byte == pytest.approx(score.nats / np.log(2) / max(score.nbytes, 1))
        # A text that stays open has the end of the document left out, and with it the end of its
        # last word if that is a symbol.
        (prompt,) = lm.score(text, complete=False)
        assert prompt.nats_of_end == 0
        assert prompt.per_byte.sum() == pytest.approx(prompt.nats)
        eow = name == "eow" and text != ""
        assert score.symbols - prompt.symbols == 1 + eow
        same = slice(0, -1) if eow else slice(None)
        np.testing.assert_allclose(prompt.per_byte[same], score.per_byte[same], atol=CLOSE)
    assert 0.1 < lm.score(TEXT)[0].bits_per_byte / 8 < 2


@every_model
def test_score_of_a_text_does_not_depend_on_the_others(name):
    """Long ones take several windows; more texts than rows take several batches."""
    lm = language_model(name)
    texts = [TEXT, "a", "", corpus()[:500], b"\xff\xfe \x80", "Ω" * 40]
    together = lm.score(texts)
    for text, score in zip(texts, together, strict=True):
        (alone,) = lm.score(text)
        np.testing.assert_allclose(alone.per_byte, score.per_byte, atol=CLOSE)
        assert alone.nats_of_end == pytest.approx(score.nats_of_end, abs=CLOSE)
        assert alone.nats == pytest.approx(score.nats, rel=1e-5)
        assert (alone.nbytes, alone.symbols, alone.chunks) == (
            score.nbytes,
            score.symbols,
            score.chunks,
        )
    assert together[2].nbytes == 0
    assert together[2].nats > 0


@every_hierarchy
def test_chunks_join_to_the_text(name):
    lm = language_model(name)
    for text in (TEXT, "", "a", corpus()[:700], b"\xff\xfe \x80 \xe2\x82"):
        raw = text.encode() if isinstance(text, str) else text
        levels = (1, 2) if name == "groups" else (1,)
        cuts = []
        for level in levels:
            chunks = lm.chunks(text, level)
            assert b"".join(chunks) == raw
            assert all(chunks)
            cuts.append(set(np.cumsum([len(c) for c in chunks])))
        assert all(high <= low for low, high in itertools.pairwise(cuts)), (
            "a group ends inside a word"
        )
    assert lm.chunks("one two three ")[:3] == [b"one ", b"two ", b"three "]
    with pytest.raises(
        ValueError, match=f"level: 3 but this model has {len(levels)} levels of chunks"
    ):
        lm.chunks("a", 3)


@pytest.mark.parametrize("name", [*HIERARCHIES, "router"])
def test_each_chunk_has_its_vector(name):
    """Also the last one, which may be open, of any beginning of a text, in several windows."""
    lm, raw = language_model(name), TEXT.encode()
    texts = [raw[:n] for n in range(0, 40, 3)] + [corpus()[:n] for n in (63, 64, 65, 400)]
    texts += [b"a" * 200, b"\xff\xfe \x80", b" "]
    for level in range(1, 1 + len(lm.budget.chunks)):
        for text, vectors in zip(texts, lm.embed(texts, level), strict=True):
            assert vectors.shape == (len(lm.chunks(text, level)), 24)
            assert b"".join(lm.chunks(text, level)) == text
            assert vectors.dtype == np.float32
            assert np.isfinite(vectors).all()


@every_hierarchy
def test_the_vector_is_that_of_its_chunk(name):
    lm = language_model(name)
    text = "one two three "
    a, b, other = lm.embed([text, text + "four ", "one too three "])
    assert (len(a), len(b)) == (3, 4)
    np.testing.assert_allclose(b[:3], a, atol=CLOSE)
    changed = np.abs(other - a).max(axis=1) > 100 * CLOSE
    assert changed[:2].tolist() == [False, True]


def test_flat_models_have_no_chunks():
    with pytest.raises(ValueError, match="level: 1 but this model has 0 levels"):
        language_model("flat").chunks("a")


@every_model
def test_generate(name):
    """Greedy is a function of the prompt; rows do not meet; budgets are kept."""
    lm = language_model(name)
    prompts = [
        TEXT[:20],
        "",
        "Häuser".encode()[:2],
        corpus()[:30],
    ]  # the third ends inside a character
    made = lm.generate(prompts, max_bytes=6)
    assert made == lm.generate(prompts, max_bytes=6)
    assert [lm.generate(p, max_bytes=6)[0] for p in prompts] == made
    assert all(len(m) <= 6 for m in made)
    assert lm.generate(prompts, max_bytes=0) == [b""] * 4
    shorter = lm.generate(prompts, max_bytes=3)
    if name != "bpe":
        assert all(long.startswith(short) for long, short in zip(made, shorter, strict=True))


@every_model
def test_greedy_is_the_best_guess_of_score(name):
    """The bytes that are generated are those that the model finds most likely on reading them."""
    lm = language_model(name)
    prompt = TEXT[:20].encode()
    (made,) = lm.generate(prompt, max_bytes=8)
    if name in (
        "bpe",
        "eow",
    ):  # the same bytes may be encoded in other ways, of which generation chose one
        return
    (score,) = lm.score(prompt + made, complete=False)
    assert made == b"" or score.hits[len(prompt) :].all()


@every_model
def test_stats_count_what_generation_cost(name):
    lm = language_model(name)
    lm.stats = Stats()
    made = lm.generate([TEXT[:20], "a", ""], max_bytes=12)
    assert lm.stats.nbytes == sum(map(len, made))
    assert lm.stats.symbols >= lm.stats.nbytes or name == "bpe"
    assert len(lm.stats.backbone_steps) == len(lm.budget.chunks)
    if name in (
        "words",
        "groups",
    ):  # words have eight bytes at most; with EOW, this model need not end any
        assert 0 < lm.stats.backbone_steps[0] <= lm.stats.steps
    assert (
        lm.stats.symbols - 3 <= 3 * lm.stats.steps <= 3 * 2 * lm.stats.symbols
    )  # the first symbols come from reading the prompts
    assert 0 < lm.stats.bytes_per_step <= lm.stats.bytes_per_backbone_step


@pytest.mark.parametrize("name", ["flat", "words"])
def test_a_full_context_ends_its_own_text_only(name):
    lm = language_model(name)
    short, long = b"", b"a " * 23  # 24 chunks, BOS included
    prompts = [short, b"a " * 40, long]
    made = lm.generate(prompts, max_bytes=30)
    assert (made[1], made[1].ended) == (b"", "full")  # it has no room itself
    assert made[2].ended == "full"
    assert 0 < len(made[2]) < 30
    assert made[0].ended == "length"
    assert [lm.generate(p, max_bytes=30)[0] for p in prompts] == made
    stream = lm.stream(long, max_bytes=30)
    assert "".join(stream) == made[2].decode(errors="replace")
    assert (stream.made, stream.ended) == (made[2], "full")


def test_every_text_says_how_it_ended():
    lm = language_model("words")
    (whole,) = lm.generate("", 20)
    assert (len(whole), whole.ended) == (20, "length")
    for stop, most, text, ended in (
        (whole[5:9], 20, whole[: whole.find(whole[5:9])], "stop"),
        (whole[-2:], 20, whole[: whole.find(whole[-2:])], "stop"),
        (b"\x00none", 7, whole[:7], "length"),
        (b"\x00none", 0, b"", "length"),
    ):
        (made,) = lm.generate("", most, stop=stop)
        assert (made, made.ended) == (text, ended)
        stream = lm.stream("", most, stop=stop)
        assert stream.ended is None
        list(stream)
        assert (stream.made, stream.ended) == (text, ended)
        for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert (again, again.ended) == (made, ended)


def test_the_end_of_a_document_is_an_end():
    codec = Bytes(Unsplit())
    for symbols, ended in (
        ([97, codec.eos, 98], "eos"),
        ([97, 98, codec.eos], "length"),  # as if it had stopped after two bytes, drafts or not
        ([115, codec.eos], "stop"),
    ):
        row = Continuation([b"s"], 2)
        row.add(symbols, codec)
        assert row.ended == ended


def test_a_model_of_windows_goes_on_without_end():
    lm = language_model("windows")
    prompt = corpus()[: 3 * LENGTH]
    (made,) = lm.generate(prompt, max_bytes=4 * LENGTH)
    assert len(made) == 4 * LENGTH
    cut = 2 * LENGTH
    assert lm.generate(prompt + made[:cut], max_bytes=50)[0] == made[cut : cut + 50]


def test_symbols_that_no_tokenizer_has_are_no_hindrance():
    """A table may have more rows than the tokenizer has symbols."""
    codec = config.replace(tokenizer(), size=tokenizer().size + 20)
    exp = config.replace(
        language_model("bpe").experiment, model=LM(codec, Embed(16, size=codec.size), stack())
    )
    lm = LanguageModel(
        exp, jax.tree.map(np.asarray, random_params(exp.model, LENGTH)), language_model("bpe").mesh
    )
    (made,) = lm.generate(TEXT[:20], max_bytes=8, temperature=1.0)
    assert 0 < len(made) <= 8


@some_models
def test_stream_is_generate_in_pieces(name):
    lm = language_model(name)
    options = dict(max_bytes=20, temperature=1.0, seed=3)
    pieces = list(lm.stream(TEXT[:20], **options))
    assert "".join(pieces) == lm.generate(TEXT[:20], **options)[0].decode(errors="replace")
    assert len(pieces) > 1


@pytest.mark.parametrize("character", ["ä", "小", "🐋", "e\u0301"])
def test_a_character_that_the_prompt_leaves_open_is_shown_once(character):
    """What is shown, whole characters of the prompt and then the pieces, is the text itself."""
    lm, raw = language_model("words"), character.encode()
    for cut in range(len(raw) + 1):
        for before in (b"", b"The ", b"\xff"):
            prompt = before + raw[:cut]
            (made,) = lm.generate(prompt, 9, temperature=1.0, seed=5)
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            shown = decoder.decode(prompt)
            for piece in lm.stream(prompt, 9, temperature=1.0, seed=5):
                shown += piece
            assert shown == (prompt + made).decode(errors="replace")


@pytest.mark.parametrize("rest", [b"\xa4 b", b"", b"x", b"\xc3\xa4"])
def test_pieces_go_on_inside_a_character(rest):
    """With continuations that a random model does not make."""
    rows = []
    for n in range(len(rest) + 1):
        row = Continuation([], 100, text=rest[:n], ended="eos" if n == len(rest) else None)
        rows.append([row])
    stream = Stream(iter(rows), "H\u00e4".encode()[:-1])
    assert "H" + "".join(stream) == (b"H\xc3" + rest).decode(errors="replace")
    assert (stream.made, stream.ended) == (rest, "eos")


def test_a_suspended_stream_holds_no_mesh():
    lm = language_model("words")
    other = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("of_the_caller",))
    before = jax.sharding.get_abstract_mesh()
    stream = lm.stream("a", 30, temperature=1.0, seed=1)
    for _ in zip(range(3), stream, strict=False):
        assert jax.sharding.get_abstract_mesh() == before
        with jax.set_mesh(other):
            assert jax.jit(lambda x: x + 1)(1) == 2
    del stream
    for pieces in (lm._run([(0, Window(empty_row(lm.budget), 0, 0))] * 9, lambda *a: 0),):
        for _ in pieces:
            assert jax.sharding.get_abstract_mesh() == before


@some_models
def test_a_stop_ends_the_text(name):
    lm = language_model(name)
    options = dict(max_bytes=25, temperature=1.0, seed=4)
    (whole,) = lm.generate(TEXT[:20], **options)
    stop = whole[7:10]
    at = whole.find(stop)
    assert lm.generate(TEXT[:20], stop=[b"\x00\x01\x02", stop], **options) == [whole[:at]]
    assert "".join(lm.stream(TEXT[:20], stop=stop, **options)) == whole[:at].decode(
        errors="replace"
    )
    # Held back while it may be a stop, told when it is none, wherever a slice of steps ends.
    for start in range(6, 10):
        begun = whole[start : start + 3] + b"\x00\x01"
        assert "".join(lm.stream(TEXT[:20], stop=begun, **options)) == whole.decode(
            errors="replace"
        )
    with pytest.raises(ValueError, match="stop: an empty text"):
        lm.generate("a", stop="", **options)


def test_seeds_of_rows():
    lm = language_model("words")
    made = lm.generate([TEXT[:20]] * 3, max_bytes=20, temperature=1.0, seed=[5, 6, 5])
    assert len(set(made)) == 3, "equal seeds, but other rows"
    assert (
        made[1] == lm.generate([TEXT[:20]] * 2, max_bytes=20, temperature=1.0, seed=np.int32(6))[1]
    )
    with pytest.raises(ValueError, match="seed: 2 seeds for 1 prompts"):
        lm.generate("a", max_bytes=1, seed=[1, 2])


@every_model
def test_sampling(name):
    lm = language_model(name)
    sample = functools.partial(lm.generate, [TEXT[:20], TEXT[:20]], max_bytes=5, temperature=1.0)
    a = sample(seed=1)
    assert a == sample(seed=1)
    assert a[0] != a[1], "equal prompts share their randomness"
    assert a != sample(seed=2)
    assert a[0] == lm.generate(TEXT[:20], max_bytes=5, temperature=1.0, seed=1)[0], (
        "the first row depends on the second"
    )
    greedy = lm.generate([TEXT[:20]] * 2, max_bytes=5)
    assert sample(top_p=1e-6) == greedy
    with pytest.raises(ValueError, match=r"Sampling.temperature: -1 must be at least 0"):
        lm.generate("a", max_bytes=1, temperature=-1)
    with pytest.raises(ValueError, match="top_p: 2 must be at most 1"):
        lm.generate("a", max_bytes=1, top_p=2)


def test_a_path_may_begin_at_home_and_name_a_step(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lm = language_model("flat")
    export(lm, "~/exported")
    assert load("~/exported").step == load(tmp_path / "exported").step == 0
    for name, steps in (("run", (2, 5)), ("run@2", (7,))):
        checkpoints = Checkpoints(str(tmp_path / name), keep=2)
        for step in steps:
            checkpoints.save(step, lm.experiment, lm.params)
        checkpoints.close()
    (tmp_path / "run@5").mkdir()  # a folder, but no run
    assert [load(path).step for path in ("~/run", "~/run@5", "~/run@2", "~/run@2@7")] == [
        5,
        5,
        7,
        7,
    ]
    assert [load("~/run", step).step for step in (2, np.int64(5))] == [2, 5]
    assert load("~/run@5", 5).step == 5
    with pytest.raises(ValueError, match=r"step: 2, but the path .*run@5 says 5"):
        load("~/run@5", 2)
    with pytest.raises(ValueError, match="has no checkpoint of step 9; it has"):
        load("~/run@9")
    for step in (1.5, True, "2", -1):
        with pytest.raises(ValueError, match=r"^step: .* must be a whole number"):
            load("~/run", step)
    for path in (None, 5, b"run", "", ["run"]):
        with pytest.raises(ValueError, match=r"^path: .* is no path"):
            load(path)


def test_repr_says_what_it_is():
    assert "parameters, step 0" in repr(language_model("flat"))
