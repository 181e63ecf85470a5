"""Speculation loses nothing: the distribution of what it keeps is that of the model, to rounding,
whatever the drafts are.

A toy model over three symbols has a distribution of its own after every prefix. Probabilities of
the model are multiples of 1/16 and those of the drafter 1/4 or 1/2, so that every ratio is a
multiple of 1/8 and the eight midpoints between are all chances that exist.
"""

import collections
import functools
import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm.infer.sampling import DRAFT, Sampling, draw, keys, log_probabilities, next_symbol
from hlm.infer.speculate import accept, match, reject

V, K, LENGTH = 3, 2, 4
CLOSE = 1e-6  # of float32 probabilities
SIGMAS = 5  # a count of draws is off by more in one of 1.7 million
CHANCES = (np.arange(8) + 0.5) / 8


def table(kind, prefix):
    """The distribution after a prefix, of the model or of a drafter."""
    rng = np.random.default_rng(zlib.crc32(repr((kind, tuple(prefix))).encode()))
    if kind == "model":
        return (
            np.array([[1, 4, 11], [8, 8, 0], [16, 0, 0], [5, 5, 6], [2, 12, 2]][rng.integers(5)])[
                rng.permutation(V)
            ]
            / 16
        )
    return np.array([0.5, 0.25, 0.25])[rng.permutation(V)]


p_after = functools.cache(functools.partial(table, "model"))
chained = functools.cache(functools.partial(table, "drafter"))


def independent(context):
    """A drafter that does not look at its earlier drafts: only where it is."""
    return chained((len(context),))


def log(p):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(p), jnp.float32)


def exact():
    """Of all texts of LENGTH symbols, by the model alone."""
    out = collections.Counter()
    for text in itertools.product(range(V), repeat=LENGTH):
        out[text] = np.prod([p_after(text[:i])[text[i]] for i in range(LENGTH)])
    return out


def of_drafts(prefix, drafter):
    """(drafts, their probability) of a round: drawn one after the other."""
    return [
        (d, np.prod([drafter((*prefix, *d[:i]))[d[i]] for i in range(K)]))
        for d in itertools.product(range(V), repeat=K)
    ]


def log_p_of(prefixes, drafts):
    return log(
        np.array(
            [
                [p_after((*prefix, *d[:i])) for i in range(K + 1)]
                for prefix, d in zip(prefixes, drafts, strict=True)
            ]
        )
    )


def count_of(prefix, full):
    return K if full else (len(prefix) + sum(prefix)) % (K + 1)


def generated(rounds):
    """The distribution of texts; `rounds(prefix)` -> (symbols kept, probability) of every outcome
    of a round.
    """
    out, open_texts = collections.Counter(), {(): 1.0}
    while open_texts:
        prefix, mass = open_texts.popitem()
        for kept, chance in rounds(prefix):
            text = (*prefix, *kept)
            if len(text) >= LENGTH:
                out[text[:LENGTH]] += mass * chance
            elif mass * chance:
                open_texts[text] = open_texts.get(text, 0.0) + mass * chance
    return out


def distance(a, b):
    assert abs(sum(a.values()) - 1) < CLOSE
    return sum(abs(a[text] - b[text]) for text in a | b) / 2


@pytest.mark.parametrize("full", [True, False], ids=["all", "some"])
@pytest.mark.parametrize("drafter", [chained, independent], ids=["chained", "independent"])
def test_drawn_drafts_lose_nothing(drafter, full):
    """Every draft times every chance, summed."""
    chances = np.array(list(itertools.product(CHANCES, repeat=K)), np.float32)
    run = jax.jit(reject)

    @functools.cache
    def rounds(prefix):
        drafts = [d for d, _ in of_drafts(prefix, drafter)]
        weight = np.repeat([w for _, w in of_drafts(prefix, drafter)], len(chances)) / len(chances)
        draft = np.repeat(np.array(drafts), len(chances), axis=0)
        log_q = log(
            np.array([[drafter((*prefix, *d[:i])) for i in range(K)] for d in drafts])
        ).repeat(len(chances), axis=0)
        log_p = log_p_of([prefix] * len(drafts), drafts).repeat(len(chances), axis=0)
        meant = np.full(len(draft), count_of(prefix, full))
        count, log_next = jax.device_get(
            run(log_p, draft, log_q, meant, np.tile(chances, (len(drafts), 1)))
        )
        assert (count <= meant).all()
        np.testing.assert_allclose(np.exp(log_next).sum(1), 1, atol=CLOSE)
        out = collections.Counter()
        for d, c, w, p_next in zip(
            draft, count, weight, np.exp(log_next.astype(np.float64)), strict=True
        ):
            for symbol in range(V):
                out[*d[:c].tolist(), symbol] += w * p_next[symbol]
        return list(out.items())

    assert distance(generated(rounds), exact()) < CLOSE


@pytest.mark.parametrize("full", [True, False], ids=["all", "some"])
def test_other_drafts_lose_nothing(full):
    """Drafts that nobody drew: every possible outcome of the model's own draws, summed."""
    symbols = np.array(list(itertools.product(range(V), repeat=K + 1)))
    run = jax.jit(match)

    @functools.cache
    def rounds(prefix):
        draft = np.random.default_rng(zlib.crc32(repr(prefix).encode())).integers(-1, V + 1, K)
        p = np.array([p_after((*prefix, *draft[:i].tolist())) for i in range(K + 1)])
        weight = np.prod(p[np.arange(K + 1), symbols], axis=1)
        many = len(symbols)
        count, following = jax.device_get(
            run(symbols, np.tile(draft, (many, 1)), np.full(many, count_of(prefix, full)))
        )
        assert (count <= count_of(prefix, full)).all()
        return [
            ((*draft[:c].tolist(), n), w)
            for c, n, w in zip(count.tolist(), following.tolist(), weight, strict=True)
        ]

    assert distance(generated(rounds), exact()) < CLOSE


def accepted_share(drafter):
    run = jax.jit(reject)
    total = 0.0
    for d, weight in of_drafts((), drafter):
        log_q = log(np.array([[drafter(d[:i]) for i in range(K)]]))
        for chance in CHANCES:
            count, _ = run(
                log_p_of([()], [d]),
                np.array([d]),
                log_q,
                np.array([1]),
                np.full((1, K), chance, np.float32),
            )
            total += weight * int(count[0]) / len(CHANCES)
    return total


def test_as_many_drafts_are_kept_as_can_be():
    assert abs(accepted_share(chained) - np.minimum(p_after(()), chained(())).sum()) < CLOSE


def speculated(rows, how, drafts_of, seed=3):
    """Texts of `rows` rows, generated in rounds with `accept`; `drafts_of(texts, numbers)` ->
    drafts [B, K], log q or None, counts.
    """
    texts, run = [() for _ in range(rows)], jax.jit(accept)
    while min(map(len, texts)) < LENGTH:
        numbers = np.array([(i, len(text)) for i, text in enumerate(texts)], np.int32)
        draft, log_q, meant = drafts_of(texts, numbers)
        log_p = log_probabilities(log_p_of(texts, [tuple(d) for d in draft.tolist()]), how)
        count, following = jax.device_get(run(log_p, draft, log_q, meant, seed, numbers))
        texts = [
            text if len(text) >= LENGTH else (*text, *d[:c], n)
            for text, d, c, n in zip(
                texts, draft.tolist(), count.tolist(), following.tolist(), strict=True
            )
        ]
    return [text[:LENGTH] for text in texts]


def one_by_one(rows, how, seed=3):
    texts = [() for _ in range(rows)]
    for length in range(LENGTH):
        logits = log(np.array([p_after(text) for text in texts]))
        numbers = np.array([(i, length) for i in range(rows)], np.int32)
        texts = [
            (*text, n)
            for text, n in zip(texts, next_symbol(logits, how, seed, numbers).tolist(), strict=True)
        ]
    return texts


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**31 - 1),
    how=st.sampled_from([Sampling(), Sampling(1.0), Sampling(1.5, top_k=2)]),
)
def test_drafts_that_nobody_drew_change_no_symbol(seed, how):
    """Also samples are those of the same seed without drafts."""

    def garbage(texts, numbers):
        rng = np.random.default_rng(seed + len(texts[0]))
        return rng.integers(0, V, (len(texts), K)), None, rng.integers(0, K + 1, len(texts))

    assert speculated(8, how, garbage) == one_by_one(8, how)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1))
def test_greedy_keeps_the_argmax_whatever_the_drafts(seed):
    def garbage(texts, numbers):
        rng = np.random.default_rng(seed + len(texts[0]))
        log_q = jax.nn.log_softmax(rng.standard_normal((len(texts), K, V)).astype(np.float32) * 9)
        return rng.integers(0, V, (len(texts), K)), log_q, rng.integers(0, K + 1, len(texts))

    assert speculated(8, Sampling(), garbage) == one_by_one(8, Sampling())


def test_frequencies_with_drawn_drafts():
    """All keys together: those of drafts, of acceptances and of symbols, over rounds."""

    def drawn(texts, numbers):
        draft, log_q = np.zeros((len(texts), K), int), []
        for i in range(K):
            log_q.append(
                log(
                    np.array(
                        [
                            chained((*text, *d[:i]))
                            for text, d in zip(texts, draft.tolist(), strict=True)
                        ]
                    )
                )
            )
            draft[:, i] = draw(keys(3, numbers + np.array([[0, i]], np.int32), DRAFT), log_q[i])
        return draft, jnp.stack(log_q, axis=1), np.full(len(texts), K)

    rows = 4000
    count, expected = collections.Counter(speculated(rows, Sampling(1.0), drawn)), exact()
    for text, p in expected.items():
        assert abs(count[text] - rows * p) <= SIGMAS * np.sqrt(rows * p * (1 - p)), text
    assert count.total() == rows


def test_keys_do_not_meet():
    """The draft, its acceptance and the symbol in its place are independent: with a key in common,
    these shares are off.
    """
    rows, p, q = 100_000, np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    numbers = np.stack([np.arange(rows), np.zeros(rows, int)], 1).astype(np.int32)

    @jax.jit
    def first():
        log_q = jnp.broadcast_to(log(q), (rows, 4))
        draft = draw(keys(0, numbers, DRAFT), log_q)
        log_p = jnp.broadcast_to(log(p), (rows, 2, 4))
        count, following = accept(
            log_p, draft[:, None], log_q[:, None], jnp.ones(rows, jnp.int32), 0, numbers
        )
        return jnp.where(count == 1, draft, following), following, count

    symbol, following, count = jax.device_get(first())
    after = following[count == 1]  # the symbol after a draft that is kept
    for found in (symbol, after):
        off = np.abs(np.bincount(found, minlength=4) - len(found) * p)
        assert (off <= SIGMAS * np.sqrt(len(found) * p * (1 - p))).all()


def test_one_draft_more_than_distributions():
    with pytest.raises(
        ValueError, match="log_p: 2 distributions for 2 drafts; give one more than drafts"
    ):
        accept(
            jnp.zeros((1, 2, V)),
            jnp.zeros((1, 2), jnp.int32),
            None,
            jnp.ones(1, jnp.int32),
            0,
            jnp.zeros((1, 2), jnp.int32),
        )
