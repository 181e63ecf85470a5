"""Boundaries of chunks: against words and morphemes, with more text, under typos, and surprise."""

import numpy as np
import pytest

from hlm.evals import boundaries
from hlm.evals.shelf import SAMPLES, Shelf
from tests.unit.minute_models import language_model
from tests.unit.suite_settings import found


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
