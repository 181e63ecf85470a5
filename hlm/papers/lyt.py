"""Learn Your Tokens: words of several vectors (Thawani et al. 2023, arXiv 2310.11628).

The idea (section 3): a word is what stands between spaces. A both-ways encoder reads it, a few
learned queries pool it into as many vectors, which are as many elements of a causal backbone; the
vectors that come out stand before the next word, and a causal decoder writes it from them, up to
its space.

    bytes of a word ── both ways ── 4 queries ── [B, S, 4 D]
    backbone's row [B, 4 S]    v00 v01 v02 v03 v10 v11 v12 v13 ...          `MultiVectorBackbone`
    decoder's row              ... p0 p1 p2 p3 w o r d _ p0 p1 p2 p3 ...    `PrefixVectors`

The last vector, p3, takes the place of the end. In the core: the pool `hlm.pool.Attend`, the
guide `hlm.nn.cross.ChunkMemory`.

Where the released code differs: its queries run through the encoder as elements of it, here they
read its output; words are padded and the pad is what stops them, here the space is; positions are
added twice; validation text is training text.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.model.insert import insert_before
from hlm.nn.cross import Memory
from hlm.nn.kv_cache import with_left_context
from hlm.nn.stack import Trunk
from hlm.seq import Seq, take

Array = jax.Array


class MultiVectorBackbone(Trunk):
    """A backbone in which each chunk's vector is `count` elements, one after the other.

    [B, S, count * D] -> the same.
    """

    trunk: Trunk
    count: int

    def __call__(self, z_BSE: Array, seq: Seq, group_BS: Array | None = None) -> tuple[Array, Aux]:
        B, S, E = z_BSE.shape
        N = self.count
        if E % N:
            raise ValueError(f"count: {N} vectors do not divide the chunk width {E}")

        def each(a_BS: Array) -> Array:
            return jnp.repeat(a_BS, N, axis=1)

        pos_BM = N * each(seq.pos) + jnp.tile(jnp.arange(N, dtype=jnp.int32), S)[None]
        decoding = seq.decoding and seq.decoding.longer(N, N * seq.decoding.capacity[0])
        longer = Seq(each(seq.token), each(seq.doc), pos_BM, each(seq.level), seq.shared, decoding)
        group_BM = None if group_BS is None else each(group_BS)
        y_BMD, aux = self.trunk(z_BSE.reshape(B, S * N, -1), longer, group_BM)
        return y_BMD.reshape(B, S, -1), aux


class PrefixVectors(Trunk):
    """A decoder that starts every word from all vectors of the chunk before it, one element each;
    the last replaces the end.

    Needs Hierarchy.guide=ChunkMemory(count, ...). The trunk runs over count - 1 more elements for
    every chunk.
    """

    trunk: Trunk

    @nn.compact
    def __call__(
        self, x_BLD: Array, seq: Seq, group_BL: Array, memory: Memory
    ) -> tuple[Array, Aux]:
        B, _, D = x_BLD.shape
        S, N, F = memory.slots_BSND.shape[1:]
        if F != D:
            raise ValueError(
                f"guide: vectors of width {F} cannot stand before elements of width {D}; set "
                f"ChunkMemory.width={D}"
            )
        group_BM = with_left_context(self, "group", group_BL, seq, 1, fill=-1)
        ends_BL = group_BM[:, 1:] != group_BM[:, :-1]
        longer = insert_before((N - 1) * ends_BL.astype(jnp.int32), S * (N - 1))
        vectors_BTD = memory.slots_BSND.reshape(B, S * N, D).astype(x_BLD.dtype)
        nth_BM = jnp.clip(longer.offset_BM + N - 1, 0, N - 1)
        prefix_BMD = take(vectors_BTD, longer.spread(memory.seen_BL) * N + nth_BM)
        x_BMD = jnp.where(longer.spread(ends_BL)[:, :, None], prefix_BMD, longer.spread(x_BLD))
        # In decoding every chunk so far has put N - 1 elements before its end, and groups are
        # numbers of chunks.
        room = seq.decoding.capacity[0] + (N - 1) * seq.decoding.capacity[1] if seq.decoding else 0
        row = longer.seq(seq, seq.pos + (N - 1) * (1 + group_BL), N, room)
        y_BMD, aux = self.trunk(x_BMD, row, longer.spread(group_BL))
        return longer.own(y_BMD), aux
