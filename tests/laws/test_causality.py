"""The law of causality: what comes after t never changes logits at or before t, to the last bit.

Models that look both ways have another one: test_masking.py.
"""

import numpy as np

from hlm.subwords import Subwords
from tests.laws.subjects import as_batch, causal, encoded, every_config, forward, open_row, texts

ROWS = 4


@every_config
def test_later_bytes_do_not_change_earlier_logits(name):
    """The whole text is encoded again with another end, so levels are those that a splitter gives
    the changed text.
    """
    exp = causal(name)
    codec, rng, length = exp.model.codec, np.random.default_rng(0), exp.data.length
    size = 2 * length if isinstance(codec, Subwords) else length + 40
    whole = [text for text, _ in zip(texts(1, size, size), range(ROWS), strict=False)]
    # Rows are changed early and late; the new end is random bytes: white space, stray and
    # incomplete characters among them.
    kept = [text[: len(text) * (i + 1) // (ROWS + 2)] for i, text in enumerate(whole)]
    other = [text + rng.integers(0, 256, size - len(text), np.uint8).tobytes() for text in kept]
    a, b = ([codec.encode(text) for text in part] for part in (whole, other))
    same = []
    for i in range(ROWS):
        n = min(length, len(a[i].token), len(b[i].token))
        differ = (a[i].token[:n] != b[i].token[:n]) | (a[i].level[:n] != b[i].level[:n])
        same.append(int(np.argmax(differ)))
        assert differ.any()
        if not isinstance(codec, Subwords):
            prompt = codec.encode(kept[i], complete=False)
            assert same[i] >= min(len(prompt.token), n), "the splitter looked ahead"
    assert_causal(name, a, b, same)


@every_config
def test_later_symbols_do_not_change_earlier_logits(name):
    """Any symbols may follow, also ones that no text encodes to."""
    exp = causal(name)
    codec, rng, length = exp.model.codec, np.random.default_rng(1), exp.data.length
    symbols = np.flatnonzero(codec.predicted)
    a, b, same = [], [], []
    for i, text in zip(range(ROWS), texts(2, 8 * length, 8 * length), strict=False):
        read = encoded(exp, text)
        t = length * (i + 1) // (ROWS + 1)
        token = read.token.copy()
        token[t:] = rng.choice(symbols, len(token) - t)
        token[t] = symbols[1] if read.token[t] == symbols[0] else symbols[0]
        level = codec.levels(token)
        known = codec.levels(read.token)
        assert np.array_equal(level[:t], known[:t]), "levels looked ahead"
        a.append(read._replace(level=known))
        b.append(read._replace(token=token, level=level))
        same.append(t)
    assert_causal(name, a, b, same)


def assert_causal(name, a, b, same):
    """Logits of two batches of texts, of which the first `same[i]` symbols agree, agree there and
    differ behind.
    """
    exp = causal(name)
    x, y = (forward(name, as_batch([open_row(exp, e) for e in part]))[0] for part in (a, b))
    for i, n in enumerate(same):
        assert n > 1
        assert np.array_equal(x[i, :n], y[i, :n]), (
            f"the symbols from {n} on changed logits at {np.argwhere(x[i, :n] != y[i, :n])[0]}"
        )
        after = np.any(x[i, n:] != y[i, n:], axis=(1, 2))
        assert after[0], f"symbol {n} does not change its own logits"
        assert after[1:].mean() > 0.9, (
            f"the symbols from {n} on reach only {after.mean():.0%} of the logits behind them"
        )
