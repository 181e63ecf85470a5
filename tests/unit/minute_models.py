"""Minute models with random parameters, of every kind that takes a code path of its own."""

import functools

import jax
import numpy as np

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
)
from hlm.model.pool import Mean, Select
from hlm.model.unpool import Broadcast, Prefix
from hlm.papers.hnet import Router, Smooth, Widen
from hlm.split import Unsplit, WordGroups, Words
from tests.laws.subjects import corpus, random_params

TEXT = "Die Häuser — 小さい — stand. " * 2
LENGTH = 64


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
    "router": lambda: LM(
        Bytes(Unsplit()),
        Embed(16),
        Hierarchy(stack(9), Router(2.0), Widen(24), stack(), Smooth(), stack(9), 24),
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
