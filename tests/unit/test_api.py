"""What a notebook sees, on minute models with random parameters."""

import functools
import itertools

import jax
import numpy as np
import pytest

from hlm import (
    BPE,
    LM,
    AdamW,
    Attention,
    Block,
    Bytes,
    Data,
    Embed,
    Experiment,
    Hierarchy,
    LanguageModel,
    Level,
    Mesh,
    Stack,
    SwiGLU,
    TextFiles,
    config,
)
from hlm.infer.continued import ContextFull, Stats
from hlm.model.pool import Mean, Select
from hlm.model.unpool import Broadcast, Prefix
from hlm.split import Unsplit, WordGroups, Words
from tests.laws.subjects import corpus, random_params

TEXT = "Die Häuser — 小さい — stand. " * 2
LENGTH = 64
CLOSE = 1e-4


def stack(window=None, causal=True, per_chunk=False):
    return Stack(
        1, Block(Attention(2, window=window, causal=causal), SwiGLU(16)), per_chunk=per_chunk
    )


def word_level(split):
    return LM(
        Bytes(split),
        Embed(16),
        Hierarchy(
            stack(9, False, True),
            Level(1),
            Select(24),
            stack(),
            Prefix(),
            stack(9, True, True),
            24,
            True,
        ),
    )


MODELS = {
    "flat": lambda: LM(Bytes(Unsplit()), Embed(16), stack()),
    "words": lambda: word_level(Words(longest=8)),
    "eow": lambda: word_level(Words(longest=8, eow=True)),
    "groups": lambda: LM(
        Bytes(WordGroups((1, 2), longest=8)),
        Embed(16),
        Hierarchy(
            stack(8),
            Level(1),
            Mean(24),
            Hierarchy(stack(), Level(2), Mean(24), stack(), Broadcast(), stack(), 12),
            Broadcast(),
            stack(8),
            24,
        ),
    ),
    "bpe": lambda: LM(tokenizer(), Embed(16, size=400), stack()),
    "windows": lambda: LM(Bytes(Unsplit()), Embed(16), stack(9)),
}
HIERARCHIES = ["words", "eow", "groups"]


@functools.cache
def tokenizer():
    return BPE.train([TEXT.encode() * 3, corpus()[:5000]], 400)


@functools.cache
def language_model(name):
    text = TextFiles(paths=("corpus:mobydick/valid.txt",))
    exp = Experiment(
        MODELS[name](), Data(text, LENGTH), text, text, AdamW(1e-3, 1), steps=1, rows=4
    )
    mesh = Mesh().make(jax.devices()[:1])
    return LanguageModel(exp, jax.tree.map(np.asarray, random_params(exp.model, LENGTH)), mesh)


every_model = pytest.mark.parametrize("name", ["flat", *HIERARCHIES, "bpe"])
some_models = pytest.mark.parametrize("name", ["words", "bpe"])  # each compiles for itself
every_hierarchy = pytest.mark.parametrize("name", HIERARCHIES)


@every_model
def test_score_adds_up(name):
    lm = language_model(name)
    (score,) = lm.score(TEXT)
    assert score.nbytes == len(TEXT.encode()) == len(score.per_byte) == len(score.hits)
    assert score.per_byte.sum() == pytest.approx(score.nats)
    assert score.bits_per_byte == pytest.approx(score.nats / np.log(2) / score.nbytes)
    assert 0.1 < score.bits_per_byte / 8 < 2
    assert score.symbols == len(lm.codec.encode(TEXT.encode()).token) - 1
    # A text that stays open has the end of the document left out, and nothing else.
    (prompt,) = lm.score(TEXT, complete=False)
    closing = score.symbols - prompt.symbols
    assert closing in (1, 2)  # EOS, and before it EOW
    np.testing.assert_allclose(prompt.per_byte[:-1], score.per_byte[:-1], atol=CLOSE)
    assert score.nats > prompt.nats


@every_model
def test_score_of_a_text_does_not_depend_on_the_others(name):
    """Long ones take several windows; more texts than rows take several batches."""
    lm = language_model(name)
    texts = [TEXT, "a", "", corpus()[:500], b"\xff\xfe \x80", "Ω" * 40]
    together = lm.score(texts)
    for text, score in zip(texts, together, strict=True):
        (alone,) = lm.score(text)
        np.testing.assert_allclose(alone.per_byte, score.per_byte, atol=CLOSE)
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


@every_hierarchy
def test_embed_gives_a_vector_per_chunk(name):
    lm = language_model(name)
    text = "one two three "
    a, b = lm.embed([text, text + "four "])
    assert a.dtype == np.float32
    assert a.shape[1] == 24
    assert np.isfinite(a).all()
    assert len(b) == len(a) + 1 == len(lm.chunks(text + "four ")) + 1  # and BOS
    np.testing.assert_allclose(b[: len(a)], a, atol=CLOSE)
    assert np.abs(b[1] - b[2]).max() > 100 * CLOSE
    long = corpus()[:400]
    (c,) = lm.embed(long)
    assert abs(len(c) - len(lm.chunks(long)) - 1) <= 1


def test_flat_models_have_no_chunks():
    with pytest.raises(ValueError, match="level: 1 but this model has 0 levels"):
        language_model("flat").chunks("a")


@every_model
def test_generate(name):
    """Greedy is a function of the prompt; rows do not meet; budgets are kept."""
    lm = language_model(name)
    # the third ends inside a character
    prompts = [TEXT[:20], "", "Häuser".encode()[:2], corpus()[:30]]
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
    """The bytes that are generated are those that the model finds most likely when it reads
    them.
    """
    lm = language_model(name)
    prompt = TEXT[:20].encode()
    (made,) = lm.generate(prompt, max_bytes=8)
    # the same bytes may be encoded in other ways, of which generation chose one
    if name in ("bpe", "eow"):
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
    # words have eight bytes at most; with EOW, this model need not end any
    if name in ("words", "groups"):
        assert 0 < lm.stats.backbone_steps[0] <= lm.stats.steps
    # the first symbols come from reading the prompts
    assert lm.stats.symbols - 3 <= 3 * lm.stats.steps <= 3 * 2 * lm.stats.symbols
    assert 0 < lm.stats.bytes_per_step <= lm.stats.bytes_per_backbone_step


@pytest.mark.parametrize("name", ["flat", "words"])
def test_a_full_context_is_an_error_that_loses_nothing(name):
    lm = language_model(name)
    (whole,) = lm.generate("", max_bytes=4)
    with pytest.raises(
        ContextFull, match=r"text 1 has \d+ symbols, and layers without a window hold \(64"
    ) as raised:
        lm.generate(["", corpus()[: LENGTH - 10]], max_bytes=300)
    assert raised.value.made[0].startswith(whole)


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


def test_repr_says_what_it_is():
    assert "parameters, step 0" in repr(language_model("flat"))
