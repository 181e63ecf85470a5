"""Hashed n-grams: what was read just now, as an embedding of its own (BLT, Pagnoni et al. 2024, section 3.2.1)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import lookup, normal, weight
from hlm.nn.memory import preceded
from hlm.seq import Seq
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


class NgramEmbed(nn.Module):
    """The symbol's entry in a table, plus one entry for each n-gram that ends here, in tables of `buckets` entries."""

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
        table_NVD = weight(self, "ngram_embedding", (len(pairs), self.buckets, self.width), init=normal(self.std))
        token_BM = preceded(self, "token", seq.token, seq, max(self.ngrams) - 1)
        rows = [i * self.buckets + bucket(token_BM, seq.pos, n, prime, self.buckets) for i, (prime, n) in enumerate(pairs)]
        row_BLN = jnp.stack(rows, axis=-1)
        # One gather from one table: its gradient is one scatter, not a dense array for each n.
        found_BLND = lookup(table_NVD.reshape(-1, self.width), row_BLN, dtype)
        return lookup(symbol_VD, seq.token, dtype) + jnp.sum(found_BLND, axis=2)


def bucket(token_BM: Array, pos_BL: Array, n: int, prime: int, buckets: int) -> Array:
    """sum_i symbol_i prime^i in wrapping signed 64-bit arithmetic, modulo `buckets`; symbol 0 is the oldest of the last n. [B, L] int32.

    Before the document's first symbol stands symbol 0; `token_BM` begins with at least n - 1 symbols before the row. The 64 bits are
    kept as eight bytes, which JAX can do without x64.
    """
    if not 1 <= buckets <= 2_000_000:
        raise ValueError(f"buckets: {buckets} must be from 1 to 2,000,000, or the sums would not fit into 32 bits")
    M, L = token_BM.shape[1], pos_BL.shape[1]
    byte = [jnp.zeros(pos_BL.shape, jnp.uint32)] * 8
    for i in range(n):
        back = n - 1 - i
        symbol_BL = jnp.where(pos_BL >= back, token_BM[:, M - L - back : M - back], 0).astype(jnp.uint32)
        factor = pow(prime, i, 1 << 64)
        byte = [total + symbol_BL * jnp.uint32(factor >> 8 * j & 255) for j, total in enumerate(byte)]
    carry, total = jnp.zeros_like(byte[0]), jnp.zeros_like(byte[0])
    for j in range(8):
        here = byte[j] + carry
        digit, carry = here & jnp.uint32(255), here >> jnp.uint32(8)
        total = total + digit * jnp.uint32(pow(256, j, buckets))
    # `digit` is now the highest byte: from 128 on the number is negative, that is 2^64 less.
    total = total + jnp.where(digit >= 128, jnp.uint32(-(1 << 64) % buckets), jnp.uint32(0))
    return (total % jnp.uint32(buckets)).astype(jnp.int32)
