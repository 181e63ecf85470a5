"""Caches with room for what is needed soon, written in place; settings that compile nothing."""

import logging
import re

import jax
import numpy as np
import pytest

from hlm import LM, Attention, Block, Bytes, Embed, Hierarchy, Level, Stack, SwiGLU
from hlm.infer import continued as module
from hlm.infer.continued import Stats, continued, room, rounded
from hlm.infer.loop import Loop
from hlm.infer.sampling import Sampling
from hlm.model.hierarchy import capacities
from hlm.model.pool import Select
from hlm.model.unpool import Broadcast
from hlm.papers.hnet import Router, Smooth, Widen
from hlm.split import Unsplit, Words
from tests.laws.subjects import random_params

LENGTH = 96
PROMPTS = [b"", b"Call me Ish", b"x y"]


def stack(window=None, depth=2):
    return Stack(depth, Block(Attention(2, window=window), SwiGLU(16)))


def words(chunks=48):
    parts = (stack(5, 1), Level(1), Select(24), stack(), Broadcast(), stack(None, 1), chunks)
    return LM(Bytes(Words(longest=8)), Embed(16), Hierarchy(*parts))


def learned():
    parts = (stack(9, 1), Router(1.2), Widen(24), stack(None, 1), Smooth(), stack(9, 1), 96)
    return LM(Bytes(Unsplit()), Embed(16), Hierarchy(*parts))


MODELS = {
    "flat": lambda: LM(Bytes(Unsplit()), Embed(16), stack()),
    "words": words,
    "learned": learned,
}


def loop_of(model, length=LENGTH):
    return Loop(model, (length, *capacities(model.trunk)), slice=16)


def made(loop, params, how, prompts=PROMPTS, max_bytes=60, stats=None):
    encoded = [loop.model.codec.encode(p, complete=False) for p in prompts]
    seeds, stats = [3] * len(prompts), stats or Stats()
    *_, rows = continued(loop, params, encoded, 0, max_bytes, how, seeds, (), stats)
    return [(row.text, row.ended) for row in rows]


@pytest.mark.parametrize(
    ("name", "small", "rooms"),
    [("flat", 16, {32, 64, LENGTH}), ("words", 64, {64, LENGTH}), ("learned", 64, {64, LENGTH})],
)
def test_room_that_grows_changes_nothing(name, small, rooms, monkeypatch):
    """Neither what is made, nor where a row is full."""
    model, how = MODELS[name](), Sampling(1.0)
    params, at_once, stats = random_params(model, LENGTH), loop_of(model), Stats()
    expected = made(at_once, params, how, max_bytes=120, stats=stats)
    assert set(at_once._rooms) == {LENGTH}
    monkeypatch.setattr(module, "SMALL_ROOM", small)
    growing, more = loop_of(model), Stats()
    assert made(growing, params, how, max_bytes=120, stats=more) == expected
    assert set(growing._rooms) == rooms
    assert more.backbone_steps == stats.backbone_steps
    if name != "learned":  # whose texts end before
        assert any(ended == "full" for _, ended in expected)


def test_a_prompt_of_many_chunks_gets_the_room(monkeypatch):
    """More of them than are usual for its length."""
    monkeypatch.setattr(module, "SMALL_ROOM", 16)
    loop = loop_of(words(32))
    params = random_params(loop.model, LENGTH)
    prompts = [b"a b c d e f g h i j k l m n o p"]
    found = made(loop, params, Sampling(), prompts, 8)
    assert sorted(loop._rooms)[:2] == [40, 80]
    monkeypatch.setattr(module, "SMALL_ROOM", 512)
    assert made(loop_of(loop.model), params, Sampling(), prompts, 8) == found


def test_rooms():
    assert [room(64, n) for n in (0, 16, 32, 33, 200, 10**6)] == [64, 80, 96, 112, 320, 512]
    assert [room(1024, n) for n in (100, 10**6)] == [1280, 2048]
    assert [rounded(n, 2) for n in (1, 2, 3, 5, 8, 9, 65, 97)] == [1, 2, 3, 6, 8, 12, 96, 128]
    loop = Loop(words(), (1000, 100))
    assert [loop.with_room(n).capacity for n in (48, 384, 999)] == [(48, 5), (384, 39), (999, 100)]
    assert [loop.with_room(n).most for n in (999, 1000, 2000)] == [(1000, 100), None, None]
    assert loop.with_room(384) is loop.with_room(384)


@pytest.mark.parametrize("B", [1, 2])
def test_caches_are_written_in_place(B):
    """The compiled slice takes the rows' memory, needs less besides than one layer's keys, and
    copies none of them.
    """
    loop = loop_of(MODELS["flat"](), 4096)
    params = random_params(loop.model, 16)
    row = np.zeros((B, 16), np.int32)
    column, n = row[:, 0], Sampling().numbers()
    rows = jax.eval_shape(loop.begin, params, row, row.astype(np.uint8), *[column] * 3, n, column)
    compiled = loop.go.lower(loop.prepare(params), rows, n, column).compile()
    memory = compiled.memory_analysis()
    assert f"[{B},2,4097,8]" in compiled.as_text()
    assert not re.search(rf"\[{B},2,4097,8\]\S* copy\(", compiled.as_text())
    keys = B * 4096 * 16 * 4
    assert memory.alias_size_in_bytes > 4 * keys
    assert memory.temp_size_in_bytes < keys


def test_settings_compile_nothing(caplog):
    loop = loop_of(MODELS["flat"]())
    params = random_params(loop.model, LENGTH)
    made(loop, params, Sampling())
    seen = []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for how in (Sampling(0.7), Sampling(1.3, 0.5), Sampling(1.0, 1.0, 3), Sampling(1e-40)):
            seen.append(made(loop, params, how))
        assert not [r for r in caplog.records if "ompiling" in r.getMessage()]
        jax.jit(lambda a: a + 1)(np.zeros(3))
        assert [r for r in caplog.records if "ompiling" in r.getMessage()]
    assert len(set(map(tuple, seen))) == 4
    assert seen[-1] == made(loop, params, Sampling())
