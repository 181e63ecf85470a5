"""The automaton of every splitter and codec gives the levels of the host, symbol by symbol,
whatever the symbols are.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlm import BPE, Bytes
from hlm.infer.automaton import automaton, read
from hlm.split import (
    After,
    Fixed,
    HatSplitter,
    SpaceLike,
    Splitter,
    Unsplit,
    WordGroups,
    Words,
    word_breaks,
)
from hlm.split.characters import characters, class_of, classes, read_utf8, start_utf8
from hlm.split.rule import Recall
from hlm.vocab import Characters, Renumbered, bytes258, utf8, utf8_mark
from tests.laws.subjects import corpus
from tests.laws.test_splitter import NASTY, SPLITTERS

LENGTH = 192  # symbols of a stream, and of a gapped one twice as many
SPLIT = [
    *SPLITTERS,
    Words(longest=1),
    SpaceLike(longest=1),
    WordGroups((1,), longest=1),
    WordGroups((3,)),
    WordGroups((1, 2, 4, 8)),
    HatSplitter(longest=1),
    Fixed(3, first=1),
    Fixed(2, first=5),
    After((0, 32, 255)),
]
CODECS = [
    utf8(Words()),
    utf8_mark(SpaceLike()),
    bytes258(WordGroups()),
    Renumbered(WordGroups((1, 2)), size=260),
    Renumbered(HatSplitter(), size=256, first=0, begin=254, end=255),
    Renumbered(Fixed(3, first=2), size=300, first=7, begin=40, end=3),
    Characters(After()),
    Characters(Words(), known=27),
    Bytes(Words(eow=True), size=300),
    BPE.train([b"a b c abc"], 260),
]
few = settings(deadline=None, max_examples=25)
texts = st.lists(
    st.sampled_from([*NASTY, b"x" * 40, b" " * 5, b"1" * 7, b"." * 5, b"a  " * 20])
    | st.binary(max_size=3),
    max_size=40,
)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def reader(codec):
    machine = automaton(codec)
    return jax.jit(
        lambda token_BL, live_BL: read(machine, machine.start(len(token_BL)), token_BL, live_BL)
    )


def stepped(codec, streams, length, rng=None):
    """Levels of streams without their BOS; with `rng`, each symbol waits for its turn at random,
    with other symbols in between.
    """
    rows, symbols = len(streams), codec.size
    token_BL = (
        np.zeros((rows, length), np.int32)
        if rng is None
        else rng.integers(0, symbols, (rows, length), np.int32)
    )
    live_BL = np.zeros((rows, length), bool)
    for row, stream in enumerate(streams):
        at = (
            np.arange(len(stream))
            if rng is None
            else np.sort(rng.choice(length, len(stream), replace=False))
        )
        token_BL[row, at], live_BL[row, at] = stream, True
    _, level_BL = reader(codec)(token_BL, live_BL)
    level_BL = np.asarray(level_BL)
    assert level_BL.dtype == np.uint8
    assert not level_BL[~live_BL].any(), "a row that is not live has a level"
    return [level_BL[row][live_BL[row]] for row in range(rows)]


def check(codec, streams, length=LENGTH, rng=None):
    for stream, level in zip(streams, stepped(codec, streams, length, rng), strict=True):
        np.testing.assert_array_equal(
            level, codec.levels(np.array([codec.bos, *stream], np.int32))[1:], repr((codec, stream))
        )


def any_symbols(codec, text, rng):
    """The text in the codec's numbers, with any symbols among them."""
    number = {bytes(codec.decode([symbol])): symbol for symbol in range(codec.size)}
    stream = np.array([number[bytes([b])] for b in text if bytes([b]) in number], np.int32)
    where = rng.random(len(stream)) < rng.choice([0.0, 0.1])
    return np.where(where, rng.integers(0, codec.size, len(stream)), stream)[:LENGTH].astype(
        np.int32
    )


@pytest.mark.parametrize("codec", [Bytes(s) for s in SPLIT] + CODECS, ids=repr)
@few
@given(text=texts.map(b"".join), seed=seeds)
def test_step_by_step(codec, text, seed):
    rng = np.random.default_rng(seed)
    stream = any_symbols(codec, text, rng)
    check(codec, [stream, stream[:5], stream[1:]], 2 * LENGTH, rng)


@pytest.mark.parametrize("split", SPLIT, ids=repr)
def test_pairs_of_kinds_after_a_space_and_a_digit(split):
    pairs = list(itertools.product(NASTY, NASTY))[::3]
    check(Bytes(split), [list(b"1" + a + b + b" " + a + b + b" x") for a, b in pairs], 32)


@pytest.mark.parametrize("split", SPLIT, ids=repr)
def test_ordinary_text(split):
    text = corpus()
    check(Bytes(split), [list(text[i : i + 400]) for i in range(0, 6400, 400)], 400)


def test_characters_of_random_bytes():
    """What is read byte by byte is what is read at once: all pairs that open a character, and all
    code points.
    """
    rng = np.random.default_rng(0)
    bytes_BL = rng.integers(0, 256, (64, 2048)).astype(np.uint8)
    lead = np.repeat(np.arange(0xBF, 0x100, dtype=np.uint8), 256)
    pairs = np.stack([lead, np.resize(np.arange(256), len(lead)).astype(np.uint8)], 1)
    bytes_BL[:8] = np.resize(np.pad(pairs, ((0, 0), (0, 3)), constant_values=0x85), (8, 2048))
    bytes_BL[8:16] = np.frombuffer(
        "".join(map(chr, rng.integers(0, 0xD800, 8 * 2048))).encode()[: 8 * 2048], np.uint8
    ).reshape(8, -1)

    def step(state, byte):
        state, kind, before = read_utf8(state, byte)
        return state, (kind, before)

    _, (kind_LB, before_LB) = jax.lax.scan(
        step, start_utf8(len(bytes_BL)), bytes_BL.T.astype(np.int32)
    )
    for row, text in enumerate(bytes_BL):
        kind, before = characters(text)
        np.testing.assert_array_equal(kind_LB[:, row], kind)
        np.testing.assert_array_equal(before_LB[:, row], before)
    np.testing.assert_array_equal(class_of(jnp.arange(0x110000)), classes())


@pytest.mark.parametrize("codec", [Bytes(s) for s in SPLIT] + CODECS, ids=repr)
def test_the_host_is_not_asked(codec):
    machine = automaton(codec)
    state = machine.start(2)
    program = str(jax.make_jaxpr(machine.step)(state, jnp.zeros(2, jnp.int32), jnp.ones(2, bool)))
    assert "callback" not in program


@pytest.mark.parametrize("codec", [Bytes(s) for s in SPLIT] + CODECS, ids=repr)
def test_a_row_that_waits_keeps_its_state(codec):
    machine = automaton(codec)
    stream = any_symbols(codec, "a .1é 日\n".encode(), np.random.default_rng(0))
    state, _ = read(
        machine, machine.start(2), np.stack([stream, stream]), np.ones((2, len(stream)), bool)
    )
    new, level_B = jax.jit(machine.step)(state, jnp.full(2, stream[0]), jnp.array([False, True]))
    assert level_B[0] == 0
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a[0], b[0])


@pytest.mark.parametrize("split", [WordGroups(), HatSplitter()], ids=repr)
def test_in_a_loop_on_the_device(split):
    """A loop that stops at a level: the ends decide when."""
    machine, stream = (
        automaton(Bytes(split)),
        np.frombuffer(b"Some words, and a newline\n and more", np.uint8).astype(np.int32),
    )

    def step(carry):
        i, state, _ = carry
        return i + 1, *machine.step(state, jnp.asarray(stream)[i][None], jnp.ones(1, bool))

    first = (jnp.int32(0), machine.start(1), jnp.zeros(1, jnp.uint8))
    found, _, _ = jax.jit(lambda: jax.lax.while_loop(lambda carry: carry[2][0] == 0, step, first))()
    assert found == 1 + np.flatnonzero(Bytes(split).levels(np.array([256, *stream]))[1:])[0]


HAT = Bytes(HatSplitter(longest=1000))


def test_hat_splitter_on_characters_of_all_kinds():
    """All three in a row, and with a mark in between, which belongs to what it follows; and any of
    them in longer rows.
    """
    kinds, rng = list(word_breaks.KINDS), np.random.default_rng(0)
    short = ["".join(some) for some in itertools.product(kinds, repeat=3)]
    short += [a + b + "\u0301" + c for a, b, c in itertools.product(kinds, repeat=3)]
    check(HAT, [list(text.encode()) for text in short], 16)
    often = ["\u0301", "\u200d", " ", "\U0001f1e6"] * 3
    check(HAT, [list("".join(rng.choice([*kinds, *often], 12)).encode()) for _ in range(3000)], 48)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "KINDS",
            {c: bits for c, bits in word_breaks.KINDS.items() if c != "1"},
            "has other rules; '0' does as none of",
        ),
        (
            "TRIALS",
            word_breaks.TRIALS[:3],
            "has other rules, by which some of the characters .* do not differ",
        ),
    ],
    ids=["strange", "same"],
)
def test_another_hat_splitter_is_refused(name, value, message, monkeypatch):
    monkeypatch.setattr(word_breaks, "RUNS", ((0x80, 0x110000),))
    monkeypatch.setattr(word_breaks, name, value)
    with pytest.raises(ValueError, match=message):
        word_breaks.kinds.__wrapped__()


def test_hat_splitter_on_all_characters():
    rng = np.random.default_rng(0)
    some = [chr(c) for c in rng.permutation(0x20000)[:6000] if not 0xD800 <= c < 0xE000]
    some += [chr(c) for c in rng.integers(0x20000, 0x110000, 500)]
    check(HAT, [list(f"a{c}b {c}1{c}A".encode()) for c in some], 20)


@pytest.mark.parametrize(
    "text",
    [
        "日本語の文章は空白なしに書く。" * 20,
        "a" + "\u0301" * 120 + "b'c \t" + "\u200d" * 120 + "d.",
        "日本語" * 9 + "🇩🇪" * 60 + "🇩 x",
    ],
    ids=["chinese", "marks", "flags"],
)
def test_hat_splitter_on_long_runs(text):
    check(HAT, [list(text.encode())], 1100)


def test_hat_splitter_does_not_see_bytes_of_no_character():
    check(
        HAT, [[*b"a", *b"\x80\xff" * 128, *b"B c", *b"\xe2\x82" * 128, *"\u0301d e".encode()]], 1100
    )


@dataclasses.dataclass(frozen=True)
class EvenCount(Splitter):
    """A splitter without a rule: an end at every second a of the text."""

    eow: bool = False
    depth: int = 1

    def levels(self, text, complete):
        return ((text == ord("a")) & (np.cumsum(text == ord("a")) % 2 == 0)).astype(np.uint8)


@settings(deadline=None, max_examples=5)
@given(text=st.text("ab", max_size=20), seed=seeds)
def test_a_splitter_without_a_rule(text, seed):
    rng = np.random.default_rng(seed)
    check(Bytes(EvenCount()), [list(text.encode()), list(text[1:].encode())], 40, rng)
    assert automaton(Bytes(EvenCount())).longest is None


def test_a_splitter_without_a_rule_says_when_a_row_is_too_long():
    rule = Recall(EvenCount(), most=3)
    state = rule.start(1)
    for _ in range(3):
        state, _ = rule.step(state, jnp.array([97]), jnp.array([True]))
    with pytest.raises(Exception, match=r"Recall.most: a row is longer than 3 bytes"):
        jax.block_until_ready(rule.step(state, jnp.array([97]), jnp.array([True])))


def test_a_codec_without_an_automaton():
    with pytest.raises(TypeError, match="int has no automaton: register one"):
        automaton(3)


def chunk_sizes(level, complete):
    """Symbols between ends of level 1; `complete`: the last symbol is EOS, which is never read."""
    ends = np.flatnonzero(level[: len(level) - complete])
    return np.diff(ends, append=len(level) - complete - 1)


@pytest.mark.parametrize("codec", [Bytes(s) for s in SPLIT] + CODECS, ids=repr)
@few
@given(text=texts.map(b"".join), complete=st.booleans())
def test_longest_chunk(codec, text, complete):
    bound = automaton(codec).longest
    text = text.translate(None, bytes([33, 254, 255])) if isinstance(codec, Renumbered) else text
    text = (
        bytes(b % 27 for b in text) if isinstance(codec, Characters) and codec.known == 27 else text
    )
    complete = complete and not isinstance(codec, Characters)
    assert (
        bound is None
        or chunk_sizes(codec.encode(text, complete).level, complete).max(initial=0) <= bound
    )


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (Bytes(Words(longest=5)), b"x" * 20),
        (Bytes(Words(longest=5, eow=True)), b"x" * 20),
        (Bytes(SpaceLike(longest=5)), b"x" * 20),
        (Bytes(WordGroups((1, 2), longest=5)), b"x" * 20),
        (Bytes(HatSplitter(longest=5)), b"x" * 20),
        (Bytes(Fixed(3, first=7)), b"x" * 20),
        (Bytes(Fixed(3)), b"x" * 20),
    ],
    ids=repr,
)
def test_longest_chunk_is_reached(codec, text):
    assert chunk_sizes(codec.encode(text).level, True).max() == automaton(codec).longest


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (Bytes(After()), b"x"),
        (Bytes(Unsplit()), b"x"),
        (Bytes(WordGroups((2,), longest=5)), b"x  "),
        (CODECS[-1], b"x"),
    ],
    ids=repr,
)
def test_no_bound(codec, text):
    assert automaton(codec).longest is None
    assert (
        chunk_sizes(codec.encode(text * 1000).level, True).max()
        == len(codec.encode(text * 1000).token) - 2
    )
