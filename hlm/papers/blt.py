"""BLT: byte latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871), as released.

The idea: spend compute where the next byte is hard to guess. A small frozen byte model measures
the entropy of its prediction, and a patch ends where it exceeds a threshold. Bytes are embedded
with hashes of the n-grams that end there; cross-attention pools them into patches, with a few
queries for each, and gives the patches back to the bytes in every layer of the decoder.

    bytes [B, L, D] + n-grams ── encoder ── h ── k queries a patch ── [B, S, k D]
                                            │                        global model
    next byte ── decoder, in every layer: + attention to the k vectors of the newest patch

    end_t = 1[H(p_frozen(next | bytes up to t)) > threshold]                  `Entropy`
    e_t   = E[x_t] + sum_n E_n[sum_i x_(t-n+1+i) prime^i mod buckets]         `NgramEmbed`
    z_s   = W [r q_j + Wo attention(q_j, bytes of s)]_j                       `CrossAttentionPool`
    q     = Wm max of the patch's bytes, k of them

Sections 2.3, 3.2.1, 3.2.2; the decoder's blocks are in hlm/nn/cross.py.

Where the released code differs from the paper, and ours follows the code: a query is added to
what it reads twice (`residuals=2`); the released threshold cuts ordinary text into patches of one
or two bytes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.metrics import ratio
from hlm.model.embed import Embedding
from hlm.model.lm import LM
from hlm.model.pool import Pool, segment_softmax, segment_sum
from hlm.model.segment import Segmenter
from hlm.nn.basic import Linear, Norm, RMSNorm, lookup, normal, weight
from hlm.nn.kv_cache import CACHE, Ring, with_left_context
from hlm.nn.projection import product, project
from hlm.seq import Boundaries, Seq, take
from hlm.vocab import BYTE_SYMBOLS

Array = jax.Array
# Of the released code; function i of a model uses the i-th.
PRIMES = (
    1000000007,
    5915587277,
    1500450271,
    3267000013,
    5754853343,
    4093082899,
    9576890767,
    3628273133,
    2860486313,
    5463458053,
    3367900313,
)


class NgramEmbed(Embedding):
    """Hashed n-gram embedding: the symbol's entry, plus one for each n-gram that ends here, in
    tables of `buckets` entries.
    """

    width: int
    size: int = BYTE_SYMBOLS
    ngrams: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    buckets: int = 500_002
    functions: int = 1  # hash functions; each has tables of its own
    std: float = 1.0

    @nn.compact
    def __call__(self, seq: Seq, dtype: str) -> Array:
        if self.functions > len(PRIMES):
            raise ValueError(f"functions: {self.functions} but there are {len(PRIMES)} primes")
        if not all(1 <= n <= 64 for n in self.ngrams):
            raise ValueError(f"ngrams: {self.ngrams} must be from 1 to 64")
        symbol_VD = weight(self, "embedding", (self.size, self.width), init=normal(self.std))
        pairs = [(prime, n) for prime in PRIMES[: self.functions] for n in self.ngrams]
        table_NVD = weight(
            self, "ngram_embedding", (len(pairs), self.buckets, self.width), init=normal(self.std)
        )
        token_BM = with_left_context(self, "token", seq.token, seq, max(self.ngrams) - 1)
        rows = [
            i * self.buckets + bucket(token_BM, seq.pos, n, prime, self.buckets)
            for i, (prime, n) in enumerate(pairs)
        ]
        row_BLN = jnp.stack(rows, axis=-1)
        # One gather from one table: its gradient is one scatter, not a dense array for each n.
        found_BLND = lookup(table_NVD.reshape(-1, self.width), row_BLN, dtype)
        return lookup(symbol_VD, seq.token, dtype) + jnp.sum(found_BLND, axis=2)


def bucket(token_BM: Array, pos_BL: Array, n: int, prime: int, buckets: int) -> Array:
    """sum_i symbol_i prime^i in wrapping signed 64-bit arithmetic, modulo `buckets`; symbol 0 is
    the oldest of the last n. [B, L] int32.

    Before the document's first symbol stands symbol 0; `token_BM` begins with at least n - 1
    symbols before the row. The 64 bits are kept as eight bytes, which JAX can do without x64.
    """
    if not 1 <= buckets <= 2_000_000:
        raise ValueError(
            f"buckets: {buckets} must be from 1 to 2,000,000, or the sums would not fit into "
            "32 bits"
        )
    M, L = token_BM.shape[1], pos_BL.shape[1]
    byte = [jnp.zeros(pos_BL.shape, jnp.uint32)] * 8
    for i in range(n):
        back = n - 1 - i
        symbol_BL = jnp.where(pos_BL >= back, token_BM[:, M - L - back : M - back], 0).astype(
            jnp.uint32
        )
        factor = pow(prime, i, 1 << 64)
        byte = [
            total + symbol_BL * jnp.uint32(factor >> 8 * j & 255) for j, total in enumerate(byte)
        ]
    carry, total = jnp.zeros_like(byte[0]), jnp.zeros_like(byte[0])
    for j in range(8):
        here = byte[j] + carry
        digit, carry = here & jnp.uint32(255), here >> jnp.uint32(8)
        total = total + digit * jnp.uint32(pow(256, j, buckets))
    # `digit` is now the highest byte: from 128 on the number is negative, that is 2^64 less.
    total = total + jnp.where(digit >= 128, jnp.uint32(-(1 << 64) % buckets), jnp.uint32(0))
    return (total % jnp.uint32(buckets)).astype(jnp.int32)


class Entropy(Segmenter):
    """Entropy patcher: element t ends a chunk if the entropy of p(next | elements up to t) exceeds
    `threshold` nats.

    `frozen` is a flat model over the same symbols. Its parameters lie under that name, and nothing
    under that name is ever trained. `longest`: a chunk ends after so many elements at the latest,
    counted from the last end by entropy.
    """

    frozen: LM
    threshold: float
    longest: int | None = None

    @nn.compact
    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Aux]:
        entropy_BL = jax.lax.stop_gradient(next_entropy(self.frozen, seq))
        real_BL = seq.doc > 0
        aux = Aux({"entropy": ratio(jnp.where(real_BL, entropy_BL, 0.0), real_BL)})
        if seq.decoding is None:
            return peaks(entropy_BL, seq, self.threshold, self.longest), None, aux
        ring = self.variable(CACHE, "since", Ring.empty, 1 + seq.decoding.rewind, seq.pos)
        before_B1 = ring.value.read(seq.pos[:, :1] - 1) if seq.continued else None
        since_BL = since_peak(entropy_BL, seq, self.threshold, before_B1)
        ring.value = ring.value.write(since_BL, seq.pos, real_BL)
        return every(since_BL, self.longest), None, aux


def next_entropy(lm: LM, seq: Seq) -> Array:
    """Entropy in nats of a bound model's prediction after each element; [B, L] float32."""
    log_p_BLV = jax.nn.log_softmax(lm.heads(lm.read(seq)[0], lm.codec.predicted)[:, :, 0], axis=-1)
    return -jnp.sum(jnp.exp(log_p_BLV) * log_p_BLV, axis=-1)


def peaks(entropy_BL: Array, seq: Seq, threshold: float, longest: int | None = None) -> Array:
    """Where the entropy exceeds the threshold, the first element of each document, and every
    `longest` elements after those.
    """
    return every(since_peak(entropy_BL, seq, threshold), longest)


def since_peak(
    entropy_BL: Array, seq: Seq, threshold: float, before_B1: Array | None = None
) -> Array:
    """How many elements ago the entropy exceeded the threshold or the document began; `before`: for
    the element before the row.
    """
    peak_BL = (entropy_BL > threshold) | (seq.pos == 0)
    i_BL = jnp.broadcast_to(jnp.arange(peak_BL.shape[1], dtype=jnp.int32)[None], peak_BL.shape)
    none_BL = 0 if before_B1 is None else -1 - before_B1
    return i_BL - jax.lax.cummax(jnp.where(peak_BL, i_BL, none_BL), axis=1)


def every(since_BL: Array, longest: int | None) -> Array:
    return since_BL == 0 if longest is None else since_BL % longest == 0


def threshold_for(entropies: np.ndarray, size: float) -> float:
    """The threshold at which chunks have `size` elements on average, from the entropies after the
    elements of some text.
    """
    if size < 1:
        raise ValueError(f"size: {size} elements in a chunk, but the least is 1")
    return float(np.quantile(entropies, 1 - 1 / size))


class CrossAttentionPool(Pool):
    """Cross-attention pool: `queries` projections of the chunk's largest entries attend to its
    elements, side by side.

    `width` projects the result (None: it stays queries * D wide). `residuals`: how often a query is
    added to what it reads; the released BLT adds it twice. Linear in bytes, as `hlm.pool.Attend`.
    """

    queries: int
    heads: int
    width: int | None = None
    norm: Norm = dataclasses.field(default_factory=RMSNorm)
    residuals: int = 1

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        B, _, D = h_BLD.shape
        S, N, H = b.capacity, self.queries, self.heads
        if D % H:
            raise ValueError(f"heads: {H} does not divide the width {D}")
        K = D // H
        z_BSND = Linear(N * D, name="linear")(segment_max(h_BLD, b)).reshape(B, S, N, D)
        x_BLD = self.norm(self, h_BLD, "pool")
        q_BSNHK = project(self.norm(self, z_BSND, "query"), weight(self, "q", (D, H, K)))
        k_BLHK = project(x_BLD, weight(self, "k", (D, H, K)))
        v_BLHK = project(x_BLD, weight(self, "v", (D, H, K)))
        # the tail of a document reads any query; no chunk holds it
        q_BLNHK = take(q_BSNHK, jnp.minimum(b.member, S - 1))
        score_BLNH = product("blnhk,blhk->blnh", q_BLNHK, k_BLHK) * K**-0.5
        weighted = segment_softmax(score_BLNH, b)[..., None] * v_BLHK[:, :, None].astype(
            jnp.float32
        )
        o_BSNHK = segment_sum(weighted, b).astype(h_BLD.dtype)
        read_BSND = project(o_BSNHK, weight(self, "o", (H, K, D), fan_in=D), axes=2)
        z_BSE = (self.residuals * z_BSND + read_BSND).reshape(B, S, N * D)
        return z_BSE if self.width is None else Linear(self.width, name="project")(z_BSE)


def segment_max(x_BLD: Array, b: Boundaries) -> Array:
    """The largest of each entry over the elements of each chunk -> [B, S, D]; 0 for unused chunks.
    Equal ones share the gradient.
    """

    def row(x_LD: Array, member_L: Array) -> Array:
        return jax.ops.segment_max(x_LD, member_L, num_segments=b.capacity + 1)[:-1]

    most_BSD = jax.vmap(row)(x_BLD.astype(jnp.float32), b.member).astype(x_BLD.dtype)
    return jnp.where(b.used[:, :, None], most_BSD, 0)
