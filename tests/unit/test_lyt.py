"""Chunks of several vectors, and decoders that start from them, against loops over elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from hlm import WordPositions
from hlm.auxiliary import Aux
from hlm.nn.cross import ChunkMemory, Memory
from hlm.nn.stack import Trunk
from hlm.papers.lyt import MultiVectorBackbone, PrefixVectors
from hlm.seq import Seq, index_in_document, runs
from tests.unit.cuts import B, D, L, S, compiled, cuts, values

N = 3
CLOSE = 2e-5
few = settings(deadline=None, max_examples=25)


class Sums(Trunk):
    """A trunk that adds up the elements of a document, or of a group, from its first, each step
    halving what was; then its positions.
    """

    def __call__(self, x_BLD, seq, group_BL=None):
        run_BL = runs(seq.doc, seq.doc if group_BL is None else group_BL)
        same_BQT = (run_BL[:, :, None] == run_BL[:, None]) & jnp.tri(x_BLD.shape[1], dtype=bool)[
            None
        ]
        t_L = jnp.arange(x_BLD.shape[1], dtype=jnp.float32)
        share_BQT = jnp.where(same_BQT, 0.5 ** (t_L[:, None] - t_L[None])[None], 0.0)
        y_BLD = jnp.einsum("bqt,btd->bqd", share_BQT, x_BLD)
        return y_BLD.at[..., -1].set(seq.pos.astype(jnp.float32)), Aux()


def seq_of(b, doc_BL):
    return Seq(doc_BL, doc_BL, index_in_document(doc_BL), np.asarray(b.ends, np.uint8))


def documents(b):
    """Numbers [B, L] for the documents of a cut, found by their first chunks; without padding,
    which a cut does not hold.
    """
    starts = np.zeros((B, L), bool)
    for row in range(B):
        starts[row, b.at[row][b.first[row]]] = True
    return np.cumsum(starts, axis=1).astype(np.int32)


@few
@given(cuts())
def test_several(b):
    doc_BS = np.where(b.used, np.cumsum(b.first, axis=1), 0).astype(np.int32)
    seq = Seq(doc_BS, doc_BS, index_in_document(doc_BS), doc_BS.astype(np.uint8))
    z_BSE = values(B, S, N * D)
    got = np.asarray(compiled(MultiVectorBackbone(Sums(), N))({}, z_BSE, seq)[0]).reshape(
        B, S * N, D
    )
    for row in range(B):
        total, pos = np.zeros(D), 0
        for m, z in enumerate(z_BSE[row].reshape(S * N, D)):
            new = m % N == 0 and b.first[row, m // N]
            total, pos = (z, 0) if new else (total / 2 + z, pos + 1)
            if b.used[row, m // N]:
                np.testing.assert_allclose(got[row, m, :-1], total[:-1], atol=CLOSE)
                assert got[row, m, -1] == pos


@few
@given(cuts())
def test_prefixed(b):
    """At an end the sum is that of the slots; behind it, elements follow them."""
    z_BSE, x_BLD, doc_BL = values(B, S, N * D), values(B, L, D, seed=1), documents(b)
    memory = ChunkMemory(N, None).apply({}, z_BSE, b)
    got = np.asarray(
        compiled(PrefixVectors(Sums()))({}, x_BLD, seq_of(b, doc_BL), b.seen, memory)[0]
    )
    for row in range(B):
        for t in range(L):
            chunk = b.seen[row, t]
            since = b.at[row, chunk] + 1
            if doc_BL[row, t] != doc_BL[row, since - 1]:
                continue  # its document has no chunk left
            want = np.zeros(D)
            for x in [*z_BSE[row, chunk].reshape(N, D), *x_BLD[row, since : t + 1]]:
                want = want / 2 + x
            np.testing.assert_allclose(got[row, t, :-1], want[:-1], atol=CLOSE, rtol=CLOSE)
            ends = np.sum(b.ends[row, : t + 1] & (doc_BL[row, : t + 1] == doc_BL[row, t]))
            first = int(np.argmax(doc_BL[row] == doc_BL[row, t]))
            assert got[row, t, -1] == t - first + ends * (N - 1)


@few
@given(cuts())
def test_word_positions(b):
    x_BLD, table, doc_BL = values(B, L, D), values(5, D, seed=1), documents(b)
    got = compiled(WordPositions(5))({"position": table}, x_BLD, seq_of(b, doc_BL))
    for row in range(B):
        index = 0
        for t in range(L):
            new = t == 0 or b.ends[row, t - 1] or doc_BL[row, t] != doc_BL[row, t - 1]
            index = 0 if new else index + 1
            np.testing.assert_allclose(got[row, t], x_BLD[row, t] + table[index % 5], atol=CLOSE)


def test_widths_that_do_not_fit():
    doc = np.ones((B, S), np.int32)
    seq = Seq(doc, doc, doc, doc.astype(np.uint8))
    with pytest.raises(ValueError, match="count: 5 vectors do not divide the chunk width 24"):
        jax.eval_shape(lambda: MultiVectorBackbone(Sums(), 5).apply({}, values(B, S, 24), seq))
    with pytest.raises(ValueError, match="count: 5 slots do not divide the chunk width 24"):
        ChunkMemory(5, None).apply({}, values(B, S, 24), None)
    with pytest.raises(
        ValueError,
        match=r"vectors of width 8 cannot stand before elements of "
        r"width 4; set ChunkMemory\.width=4",
    ):
        PrefixVectors(Sums()).apply({}, values(B, S, 4), seq, doc, Memory(values(B, S, 3, 8), doc))
