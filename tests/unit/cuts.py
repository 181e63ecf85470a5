"""Random chunks for the tests of pools and unpools."""

import functools

import jax
import numpy as np
from hypothesis import strategies as st

from hlm.seq import Seq, boundaries, index_in_document

B, L, S, D, E = 2, 16, 6, 8, 12


@st.composite
def cuts(draw):
    """Boundaries (numpy) of two rows of documents with random ends; S may be too small, rows may be
    padded.
    """
    doc = np.zeros((B, L), np.int32)
    for row in range(B):
        sizes = draw(st.lists(st.integers(1, L), min_size=1, max_size=3))
        doc[row] = np.concatenate([np.full(n, i + 1) for i, n in enumerate(sizes)] + [np.zeros(L)])[
            :L
        ]
    ends = np.array(draw(st.lists(st.booleans(), min_size=B * L, max_size=B * L))).reshape(B, L)
    return jax.device_get(_cut(ends, doc))


@functools.partial(jax.jit)
def _cut(ends, doc):
    level = ends.astype(np.uint8)
    return boundaries(ends, Seq(doc, doc, index_in_document(doc), level), S)[0]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def members(b, row: int, chunk: int) -> np.ndarray:
    """The elements of a chunk, in order."""
    return np.flatnonzero(b.member[row] == chunk)


@functools.cache
def compiled(module):
    return jax.jit(lambda params, *arguments: module.apply({"params": params}, *arguments))


@functools.cache
def params(module, *shapes):
    """Random parameters of a module that is called with arrays of these shapes and boundaries."""
    blank = [np.zeros(shape, np.float32) for shape in shapes]
    b = _cut(np.zeros((B, L), bool), np.ones((B, L), np.int32))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *blank, b)).get("params", {})
    leaves, shape = jax.tree.flatten(tree)
    return jax.tree.unflatten(shape, [values(*a.shape, seed=i) for i, a in enumerate(leaves)])
