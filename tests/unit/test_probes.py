"""Tags, adaptation, probes of vectors and the bias of frequent words."""

import json

import numpy as np
import pytest

from hlm.data.source import TextFiles
from hlm.evals import adaptation, choice, frequency, probes, tagging
from hlm.evals.shelf import SAMPLES, Missing, Shelf
from hlm.evals.suite import named
from tests.unit.minute_models import language_model
from tests.unit.suite_settings import Oracle, found, setting


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


# --- adaptation


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


# --- probes


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


# --- bias


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
