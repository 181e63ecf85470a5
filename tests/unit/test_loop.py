"""Drafts never change what is made, whoever made them; and what the host does between two
slices.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import LM, Attention, Block, Bytes, Embed, Heads, Hierarchy, Level, Stack, SwiGLU
from hlm.infer.continued import Continuation, Stats, continued, power_of_2
from hlm.infer.drafts import ChunkDrafts, HeadDrafts
from hlm.infer.loop import PLACES, Loop
from hlm.infer.sampling import Sampling
from hlm.model.hierarchy import capacities
from hlm.model.objective import Ahead
from hlm.model.pool import Select
from hlm.model.unpool import Prefix
from hlm.papers.chunk_mtp import ChunkMTP, ChunkMTPLoss, DraftingHierarchy
from hlm.papers.hnet import Router, Smooth, Widen
from hlm.split import Unsplit, Words
from hlm.vocab import BOS
from tests.laws.subjects import random_params

LENGTH, DRAFTS = 96, 3
PROMPTS = [b"", b"Call me Ish", "Ein Häuschen ".encode()[:-6]]


def stack(window=None, causal=True, per_chunk=False):
    return Stack(
        1, Block(Attention(2, window=window, causal=causal), SwiGLU(16)), per_chunk=per_chunk
    )


MODELS = {
    "words": lambda: LM(
        Bytes(Words(longest=8)),
        Embed(16),
        DraftingHierarchy(
            stack(9, False, True),
            Level(1),
            Select(24),
            stack(),
            Prefix(),
            stack(9, True, True),
            48,
            True,
            shortcut=ChunkMTP(stack()),
        ),
        Heads(ahead=DRAFTS + 1),
        objectives=(Ahead(), ChunkMTPLoss()),
    ),
    "router": lambda: LM(
        Bytes(Unsplit()),
        Embed(16),
        Hierarchy(stack(9), Router(2.0), Widen(24), stack(), Smooth(), stack(9), 96),
        Heads(ahead=DRAFTS + 1),
        objectives=(Ahead(),),
    ),
}


@dataclasses.dataclass(frozen=True)
class Garbage(HeadDrafts):
    """Any symbols as drafts."""

    def propose(self, loop, params, rows):
        key = jax.random.fold_in(jax.random.key(5), rows.steps)
        return dataclasses.replace(
            rows, draft_BK=jax.random.randint(key, rows.draft_BK.shape, 0, 256)
        )


@dataclasses.dataclass(frozen=True)
class Known(HeadDrafts):
    """A text as drafts, at every row's place in it."""

    text: bytes = b""

    def propose(self, loop, params, rows):
        at = jnp.minimum(rows.pos_B[:, None] + jnp.arange(self.count)[None], len(self.text) - 1)
        return dataclasses.replace(rows, draft_BK=jnp.asarray(list(self.text), jnp.int32)[at])


@functools.cache
def model(name):
    return MODELS[name]()


@functools.cache
def loop(name, drafter=None):
    return Loop(model(name), (LENGTH, *capacities(model(name).trunk)), drafter=drafter)


def made(loop, how, prompts=PROMPTS, max_bytes=30, stats=None):
    params = random_params(loop.model, LENGTH)
    encoded = [loop.model.codec.encode(p, complete=False) for p in prompts]
    *_, rows = continued(
        loop,
        params,
        encoded,
        0,
        max_bytes,
        how,
        [3] * len(prompts),
        (),
        Stats() if stats is None else stats,
    )
    return [row.text for row in rows]


@functools.cache
def plain(name, how):
    return made(loop(name), how)


KINDS = {
    "heads": HeadDrafts(DRAFTS),
    "garbage": Garbage(DRAFTS),
    "shortcut": ChunkDrafts(DRAFTS),
    "shortcut_by_two": ChunkDrafts(DRAFTS, heads=2),
}


@pytest.mark.parametrize("how", [Sampling(), Sampling(0.7, top_k=20)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_drafts_change_nothing(kind, name, how):
    if kind.startswith("shortcut") and name == "router":
        return
    stats = Stats()
    assert made(loop(name, KINDS[kind]), how, stats=stats) == plain(name, how)
    read, kept = stats.drafts_PM.sum(axis=0)
    assert 0 <= kept <= read
    assert read > 20
    if kind == "garbage":
        assert kept < 0.1 * read


def test_right_drafts_are_kept():
    """Drafts that are the text itself: a step makes all of them, up to the end of the chunk, and
    one symbol more.
    """
    (text,) = made(loop("words"), Sampling(), [b""], 40)
    known, stats = loop("words", Known(DRAFTS, text + b"\0" * 8)), Stats()
    assert made(known, Sampling(), [b""], 40, stats) == [text]
    read, kept = stats.drafts_PM.T
    ends = np.count_nonzero(model("words").codec.encode(text, complete=False).level)
    assert kept.sum() >= read.sum() - DRAFTS, "a right draft was refused"
    assert read.sum() > 20
    assert stats.steps <= 40 / (1 + DRAFTS) + ends + 1
    # Places are counted in words: the first bytes of words are those behind white space.
    assert len(read) == PLACES
    assert stats.acceptance[read > 0].max() == 1


def test_places_are_counted_from_the_start_of_the_word():
    """That of the prompt, where it ends inside one."""
    from_start, from_inside = (
        int(n)
        for n in loop("words").word_offsets(jnp.asarray([0, 3]), jnp.asarray([[97], [97]]))[:, 0]
    )
    assert (from_start, from_inside) == (1, 4)
    token = jnp.asarray([[BOS, 97, 98, 32, 97]])
    assert loop("words").word_offsets(jnp.zeros(1, jnp.int32), token)[0].tolist() == [0, 1, 2, 0, 1]
    known = loop("words", Known(1, b"\0" * 40))
    stats = Stats()
    made(known, Sampling(), [b"a whale"], 3, stats)
    assert stats.drafts_PM[:5, 0].sum() == 0, (
        "the first draft follows five letters and the byte that head 1 chose"
    )
    assert stats.drafts_PM[6, 0] >= 1


def test_a_step_with_drafts_runs_the_backbone_once():
    stats = Stats()
    made(loop("words", ChunkDrafts(DRAFTS)), Sampling(), stats=stats)
    assert stats.backbone_steps[0] <= stats.steps // (1 + DRAFTS)


def test_heads_draft_inside_a_chunk():
    """So that the backbone runs once per chunk, as without drafts."""
    one, few = Stats(), Stats()
    for stats, drafter in ((one, None), (few, HeadDrafts(DRAFTS))):
        made(loop("words", drafter), Sampling(), [b"Call me Ish"], stats=stats)
    assert few.backbone_steps == one.backbone_steps


def test_the_next_heads_guess_what_follows():
    """Head 1 is that of the symbol itself."""
    logits_BNV = np.random.default_rng(0).standard_normal((5, DRAFTS + 1, 7)).astype(np.float32)
    for count in range(1, DRAFTS + 1):
        found = HeadDrafts(count).after(jnp.asarray(logits_BNV))
        assert np.array_equal(found, logits_BNV.argmax(-1)[:, 1 : 1 + count])


def test_drafts_need_somebody_to_guess():
    with pytest.raises(
        ValueError, match=r"speculate: 4 drafts need heads.ahead=5; this model has 4"
    ):
        loop("words", HeadDrafts(DRAFTS + 1))
    with pytest.raises(
        ValueError, match=r"need a trunk hlm.chunk_mtp.DraftingHierarchy; this model has none"
    ):
        loop("router", ChunkDrafts(1))
    with pytest.raises(ValueError, match=r"ChunkDrafts.heads: 5; this model has 4"):
        loop("words", ChunkDrafts(1, heads=DRAFTS + 2))


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("kind", [HeadDrafts, ChunkDrafts])
def test_drafters_draft_something(kind, count):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.count: {count}\b"):
        loop("words", kind(count))


def test_a_row_takes_symbols_until_its_end():
    codec = Bytes(Unsplit())
    row = Continuation([b"stop"], 10)
    row.add(list(b"abst"), codec)
    assert (row.text, row.streamable, row.open) == (b"abst", b"ab", True)  # "st" may begin a stop
    row.add([*b"o", codec.eos, *b"xyz"], codec)
    assert (row.text, row.streamable, row.open) == (b"absto", b"absto", False)
    row.add(list(b"more"), codec)
    assert row.text == b"absto"
    row = Continuation([b"stop", b"b"], 10)
    row.add(list(b"astop"), codec)
    assert (row.text, row.open) == (b"a", False)
    row = Continuation([], 3)
    row.add(list(b"abcde"), codec)
    assert (row.text, row.open) == (b"abc", False)


def test_powers():
    assert [power_of_2(n, 4) for n in (0, 1, 4, 5, 8, 9)] == [4, 4, 4, 8, 8, 16]
    assert np.isnan(Stats().acceptance).all()
