"""hlm/evals/masked.py against loops over words: what it hides, and what it counts."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import LM, Attention, Block, Bytes, Embed, LanguageModel, Stack, SwiGLU, config
from hlm.data.pack import windows
from hlm.data.pipeline import encode
from hlm.data.source import Prompted, Record
from hlm.evals import masked
from hlm.papers.byte2word import PieceHeads
from hlm.seq import Batch, Seq, index_in_document
from hlm.split import Unsplit
from hlm.vocab import MASK
from tests.laws.subjects import corpus, open_row
from tests.unit.test_masked import (
    LONGEST,
    TEXT,
    WIDTH,
    byte2word,
    each_model,
    language_model,
    pieces,
    words_of,
)

NATS = 1e-4  # relative


@functools.cache
def reader(name):
    lm = language_model(name)
    return jax.jit(lambda seq: lm.model.apply({"params": lm.params}, seq, method="read")[0])


def guesses(name, text, hidden):
    """[(letters, nats, letters right) of each hidden word], by numpy from the output of the trunk
    for a row with MASK.
    """
    lm = language_model(name)
    encoded = lm.codec.encode(text)
    row = open_row(lm.experiment, encoded)
    token = row["token"].copy()
    for start, stop in hidden:
        token[start:stop] = MASK
    doc = jnp.asarray(row["doc"])[None]
    seq = Seq(
        jnp.asarray(token)[None], doc, index_in_document(doc), jnp.asarray(row["level"])[None]
    )
    y, p = np.asarray(reader(name)(seq))[0], jax.device_get(lm.params["heads"])
    out = []
    for start, stop in hidden:
        if name == "hlm":
            h, answers, sizes = y[start:stop], row["token"][start:stop], [1] * (stop - start)
        else:
            begins = np.flatnonzero(row["label"][start:stop])
            h = y[start:stop][: len(begins)] + p["slot_position"][: len(begins)]
            h = h @ p["transform"]["kernel"] + p["transform"]["bias"]
            h = np.asarray(jax.nn.gelu(h, approximate=False))
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
            h = h * p["transform_scale"] + p["transform_bias"]
            answers, sizes = row["label"][start:stop][begins] - 1, np.diff([*begins, stop - start])
        logits = (h @ p["head"][:, 0] + p["bias"]).astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats = -log_p[np.arange(len(answers)), answers].sum()
        out.append((stop - start, nats, int(np.sum((logits.argmax(-1) == answers) * sizes))))
    return out


def added(model, found):
    letters, nats, right = (sum(column) for column in zip(*found, strict=True))
    return {
        model.bits: nats / math.log(2) / letters,
        model.accuracy: right / letters,
        "masked_word_accuracy": sum(a == c for a, _, c in found) / len(found),
    }


@each_model
def test_pseudo_likelihood_and_accuracy_are_those_of_a_loop_over_words(name):
    lm, every = language_model(name), masked.TOGETHER
    words = words_of(TEXT)
    assert len(words) == 13
    alone = [guesses(name, TEXT, [word])[0] for word in words]
    together = [found for turn in range(every) for found in guesses(name, TEXT, words[turn::every])]
    got = masked.evaluate(lm, [TEXT], [TEXT])
    for way, found in (("alone", alone), ("together", together)):
        assert got[way]["letters"] == len(re.sub(rb"\s", b"", TEXT))
        assert got[way]["words"] == len(words)
        for key, value in added(lm.model, found).items():
            assert got[way][key] == pytest.approx(value, rel=NATS), (way, key)
    assert got["alone"][lm.model.bits] != got["together"][lm.model.bits]
    first = masked.glance(lm, [TEXT])
    assert first[lm.model.bits] == pytest.approx(
        added(lm.model, guesses(name, TEXT, words[::every]))[lm.model.bits], rel=NATS
    )


@each_model
def test_every_letter_of_a_long_text_is_hidden_once(name):
    """In windows, with words at their edges, of every kind of text."""
    lm = language_model(name)
    texts = [
        corpus()[:700],
        b"",
        b" \n",
        "é 漢字\u2003x".encode() * 20,
        b"a" * 300,
        b"\x00\xff " * 60,
    ]
    for text in texts:
        letters = len(re.sub(rb"[ \t\n\r\v\f]", b"", text))
        found = masked.measure(lm, [text], masked.TOGETHER)
        assert found["letters"] == letters
        assert found["words"] == len([w for w in words_of(text) if w]) or b"\xe2" in text
        assert (found[lm.model.bits] is None) == (letters == 0)
    whole = masked.measure(lm, texts, 3)
    assert whole["letters"] == sum(masked.measure(lm, [text], 3)["letters"] for text in texts)


def test_a_right_guess_counts():
    """A head that always says "e": its accuracy is the share of that letter, and no word of several
    letters is right.
    """
    lm = language_model("hlm")
    heads = {"head": jnp.zeros((WIDTH, 1, 256)), "bias": jnp.full(256, -30.0).at[ord("e")].set(0.0)}
    says_e = LanguageModel(lm.experiment, {**lm.params, "heads": heads}, lm.mesh)
    got = masked.measure(says_e, [b"eel e free eee", b"e"], None)
    assert (got["letters"], got["letters_right"], got["words"], got["words_right"]) == (12, 9, 5, 3)


def test_a_right_piece_counts_for_all_its_letters():
    lm = language_model("byte2word")
    the = int(lm.codec.encode(b"the ").label[1])
    assert the == lm.codec.encode(b"other").label[2]  # o, the, r
    bias = jnp.full(pieces().size, -30.0).at[the - 1].set(0.0)
    heads = lm.params["heads"] | {"bias": bias, "head": jnp.zeros_like(lm.params["heads"]["head"])}
    says_the = LanguageModel(lm.experiment, lm.params | {"heads": heads}, lm.mesh)
    got = masked.measure(says_the, [b"the other the whale"], None)
    assert (got["letters"], got["letters_right"], got["words"], got["words_right"]) == (16, 9, 4, 2)


def test_rows_must_hold_the_words():
    lm = language_model("hlm")
    model = config.replace(lm.model, trunk=config.replace(lm.model.trunk, capacity=8))
    exp = config.replace(
        lm.experiment, model=model, data=config.replace(lm.experiment.data, length=12)
    )
    with pytest.raises(
        ValueError, match=r"data.length: 12 elements are too few for a word of more than \d"
    ):
        masked.measure(
            LanguageModel(exp, lm.params, lm.mesh),
            [b"a bc fathomab rest fathomab of it fathomab" * 3],
            None,
        )


def test_words_with_many_pieces_are_guessed_in_groups():
    """As many at a time as the model can be asked for."""
    lm = language_model("byte2word")
    exp = config.replace(
        lm.experiment, model=byte2word(heads=PieceHeads(pieces().size, slots=LONGEST, most=8))
    )
    few = LanguageModel(exp, lm.params, lm.mesh)
    encoded = few.codec.encode(TEXT)
    together, apart = (list(masked.jobs(each, encoded, 2, None)) for each in (lm, few))
    assert len(together) == 2 < len(apart)
    assert max(np.count_nonzero(job.row["label"][job.hidden]) for job in apart) <= 8
    spans = [sorted(span for job in part for span in job.counted) for part in (together, apart)]
    assert spans[0] == spans[1]
    assert [start for start, _ in spans[0]] == [start for start, _ in words_of(TEXT)]
    assert masked.measure(few, [TEXT], 2)["letters"] == masked.measure(lm, [TEXT], 2)["letters"]


def test_every_hidden_letter_must_be_guessed(monkeypatch):
    lm = language_model("byte2word")
    monkeypatch.setattr(masked, "groups", lambda words, row, most: [words])
    exp = config.replace(
        lm.experiment, model=byte2word(heads=PieceHeads(pieces().size, slots=LONGEST, most=8))
    )
    with pytest.raises(RuntimeError, match="hidden letters were guessed; every letter must be"):
        masked.measure(LanguageModel(exp, lm.params, lm.mesh), [TEXT], 2)


def test_a_causal_model_guesses_no_hidden_words():
    lm = language_model("hlm")
    flat = LM(Bytes(Unsplit()), Embed(8), Stack(1, Block(Attention(2), SwiGLU(8))))
    with pytest.raises(ValueError, match=r"use eval\.py --suite perplexity"):
        masked.measure(
            LanguageModel(config.replace(lm.experiment, model=flat), {}, lm.mesh), [TEXT], 7
        )


@each_model
def test_words_that_end_in_a_prompt_are_seen_and_not_asked(name):
    """By evaluation and in training; a word that goes beyond the prompt is asked whole."""
    lm = language_model(name)
    prompt = TEXT.index(b" ", len(TEXT) // 2) + 3  # within a word
    whole, part = (masked.measure(lm, [t], 3) for t in (TEXT, Prompted(TEXT, prompt)))
    rest = TEXT[TEXT.rindex(b" ", 0, prompt) + 1 :]
    assert part["letters"] == len(re.sub(rb"\s", b"", rest)) < whole["letters"]
    row = windows(encode(lm.codec, Record(TEXT, True, prompt)), lm.budget, lm.context)[0].row
    batch = Batch(**{field: a[None] for field, a in row.items()})
    asked = np.zeros(len(row["token"]), bool)
    for seed in range(60):
        hidden = lm.model.apply({}, batch, method="draw", rngs={"mask": jax.random.key(seed)})[0]
        asked |= np.asarray(hidden)[0]
    assert bytes(row["token"][asked].astype(np.uint8)) == re.sub(rb"\s", b"", rest)
