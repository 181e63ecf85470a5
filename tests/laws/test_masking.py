"""The law of models that look both ways: a hidden word is guessed from all other words of its
document and never from itself.
"""

import jax
import numpy as np

from tests.laws.subjects import as_batch, causal, every_config, open_row, random_params

TEXT = b"the whale swam below the ship and none of us saw it go"
HIDDEN = b"below"
CHANGED = 1e-3  # logits are about 1


@every_config
def test_a_hidden_word_is_guessed_from_the_others_only(name):
    exp = causal(name, False)
    own, before, after = (
        TEXT.replace(a, b) for a, b in ((HIDDEN, b"xqzvj"), (b"whale", b"shark"), (b"saw", b"met"))
    )
    rows = [open_row(exp, exp.model.codec.encode(text)) for text in (TEXT, own, before, after)]
    first = list(rows[0]["token"]).index(HIDDEN[0])
    assert bytes(rows[0]["token"][first : first + len(HIDDEN)].astype(np.uint8)) == HIDDEN
    hidden = np.zeros((len(rows), exp.data.length), bool)
    hidden[:, first : first + len(HIDDEN)] = True
    run = jax.jit(
        lambda params, batch, hidden: exp.model.apply(
            {"params": params}, batch, hidden, method="logits"
        )
    )
    logits = np.asarray(run(random_params(exp.model, exp.data.length), as_batch(rows), hidden))[
        :, :, 0
    ]
    # Behind the first letter, what is asked of a word may depend on its letters: on how many pieces
    # it has.
    behind = np.arange(exp.data.length) - first
    same = (behind <= 0) | (behind >= len(HIDDEN + b" ") + 1)
    np.testing.assert_array_equal(logits[0, same], logits[1, same])
    for other in (2, 3):
        assert np.abs(logits[0, first] - logits[other, first]).max() > CHANGED


@every_config
def test_every_letter_of_some_words_is_hidden(name):
    """The same words wherever the document stands; the words are whole; their share is the model's;
    another key hides others.
    """
    exp = causal(name, False)
    text = TEXT + b" " + TEXT[::-1]
    alone = open_row(exp, exp.model.codec.encode(text))
    size = int((alone["doc"] > 0).sum())
    moved = {field: np.roll(a, 7) for field, a in alone.items()}  # behind padding
    draw = jax.jit(
        lambda batch, seed: exp.model.apply(
            {}, batch, method="draw", rngs={"mask": jax.random.key(seed)}
        )
    )
    found = [np.asarray(draw(as_batch([alone, moved]), seed)[0]) for seed in range(60)]
    for hidden in found:
        np.testing.assert_array_equal(hidden[0, :size], hidden[1, 7 : 7 + size])
    hidden = np.stack([h[0] for h in found])
    words = np.cumsum(alone["level"] > 0) - (alone["level"] > 0)
    letter = (alone["token"] < 256) & (alone["token"] != ord(" ")) & (alone["doc"] > 0)
    assert not hidden[:, ~letter].any()
    share = []
    for word in np.unique(words[letter]):
        of_word = hidden[:, letter & (words == word)]
        assert (of_word.all(axis=1) == of_word.any(axis=1)).all()
        share.append(of_word.any(axis=1).mean())
    assert abs(np.mean(share) - exp.model.masking.share) < 0.04
    assert len({h.tobytes() for h in hidden}) > 50
