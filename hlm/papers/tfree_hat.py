"""TFree-HAT: the architecture of Aleph Alpha's released byte models, not that of the HAT paper.

The idea: bytes are read by a causal stack over the whole text, so no word needs a symbol for its
end; a word is known to have ended when the first character of the next one is there. A learned
query pools each word, a large backbone models words, and its vector of the last complete word is
added in every layer of the byte decoder.

    bytes ── causal layers, window ── h [B, L, D] ── one query per word ── [B, S, E] ── backbone
    next byte ── h, in every layer: + Wo Wv norm(w of the last complete word), attention, MLP

    text       t  h  e  _  c  a  t  .  _  o    splitter: the, _cat., _on (hlm.split.HatSplitter)
    ends       0  0  0  1  0  0  0  0  1  0    one character late
    member     0  0  0  1  1  1  1  1  2  2    the late character belongs to the next word
    sees       -  -  -  0  0  0  0  0  1  1

As released, and kept for its checkpoints: the query is turned by the number of the word and the
keys by the number of the byte; cross-attention has one key, so its query and key matrices do
nothing and are left out. Where ours differs: of a first character of several bytes, the released
decoder reads all but the last under the old vector and never corrects it.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.model.pool import Pool, segment_softmax, segment_sum
from hlm.model.segment import Segmenter
from hlm.nn.basic import Norm, Rope, at_each, normal, weight
from hlm.nn.cross import Memory
from hlm.nn.projection import product, project
from hlm.seq import Boundaries, Seq, take

Array = jax.Array
LONGEST_CHARACTER = 4  # bytes, in UTF-8


class LateWords(Segmenter):
    """Rule-based segmenter, one character late: ends at the first character of the next word, which
    is not pooled into it.

    The first chunk of a document is its first element, BOS. Bytes are numbered as they are.
    """

    from_levels: ClassVar[bool] = True
    overlap: ClassVar[int] = LONGEST_CHARACTER - 1  # an end is at the last byte of the character

    def __call__(self, h_BLD: Array, seq: Seq) -> tuple[Array, None, Aux]:
        return seq.level >= 1, None, Aux()

    def members(self, b: Boundaries, seq: Seq) -> Array:
        """The chunk that each element is pooled into: from the first byte of a word's first
        character up to that of the next word.
        """
        L, S = seq.token.shape[1], b.capacity
        i_BL = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32)[None], seq.token.shape)
        inside_BL = (seq.token >= 0x80) & (seq.token < 0xC0)
        lead_BL = jax.lax.cummax(jnp.where(inside_BL, 0, i_BL), axis=1)
        lead_BL = jnp.where(i_BL - lead_BL < LONGEST_CHARACTER, lead_BL, i_BL)
        start_BS = jnp.where(b.first, b.at + 1, take(lead_BL, b.at))  # of the word behind the end
        start_BS = jnp.where(b.used, start_BS, L)
        starts_BL = jax.vmap(
            lambda start_S: jnp.zeros(L, jnp.int32).at[start_S].add(1, mode="drop")
        )(start_BS)
        word_BL = jnp.cumsum(starts_BL, axis=1, dtype=jnp.int32)
        own_BL = jnp.minimum(word_BL, S - 1)
        closed_BL = (
            (word_BL < S)
            & take(b.used, own_BL)
            & (take(seq.doc, take(b.at, own_BL)) == seq.doc)
            & (seq.doc > 0)
        )
        return jnp.where(closed_BL, own_BL, S)


class LatentQuery(Pool):
    """Cross-attention pool: one learned query attends to the elements of each chunk.

    As released, the query is turned by the number of the chunk and the keys by the number of the
    element in its document.
    """

    width: int
    heads: int
    head_dim: int
    kv_heads: int | None = None  # heads; fewer: grouped queries
    rope: Rope | None = None

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        (B, L, D), S = h_BLD.shape, b.capacity
        E, H, K, G = self.width, self.heads, self.head_dim, self.kv_heads or self.heads
        if H % G:
            raise ValueError(f"kv_heads: {G} does not divide heads {H}")
        query_1E = weight(self, "query", (1, E), init=normal(1.0))
        q_1HK = project(query_1E, weight(self, "q", (E, H, K)))
        k_BLGK = project(h_BLD, weight(self, "k", (D, G, K)))
        v_BLGK = project(h_BLD, weight(self, "v", (D, G, K)))
        q_BSHK = at_each(q_1HK[0], jax.ShapeDtypeStruct((B, S, H, K), h_BLD.dtype))
        if self.rope is not None:
            q_BSHK, k_BLGK = self.rope(q_BSHK, b.number), self.rope(k_BLGK, b.pos)
        q_BLGRK = take(q_BSHK, jnp.minimum(b.member, S - 1)).reshape(B, L, G, H // G, K)
        score_BLGR = product("blgrk,blgk->blgr", q_BLGRK, k_BLGK) * K**-0.5
        share_BLGR = segment_softmax(score_BLGR, b)
        weighted = share_BLGR[..., None] * v_BLGK[:, :, :, None].astype(jnp.float32)
        o_BSHK = segment_sum(weighted, b).reshape(B, S, H, K).astype(h_BLD.dtype)
        return project(o_BSHK, weight(self, "o", (H, K, E), fan_in=H * K), axes=2)


class NewestChunk(nn.Module):
    """Guide: the newest chunk's vector, and for the first element of a document, which sees no
    chunk, a learned one.
    """

    @nn.compact
    def __call__(self, z_BSE: Array, b: Boundaries) -> Memory:
        B, S, E = z_BSE.shape
        start_E = weight(self, "start", (E,), init=normal(1.0))
        start_B1E = at_each(start_E, jax.ShapeDtypeStruct((B, 1, E), z_BSE.dtype))
        slots_BSE = jnp.concatenate([z_BSE, start_B1E], axis=1)
        return Memory(slots_BSE[:, :, None], jnp.where(b.ends & take(b.first, b.seen), S, b.seen))


class SingleKeyCrossAttention(nn.Module):
    """Cross-attention to a single key, and a block behind it: a projection of the one chunk vector
    is added to the element.
    """

    heads: int
    head_dim: int
    block: nn.Module
    norm: Norm
    # heads; fewer: as in grouped queries, several heads read the same values
    kv_heads: int | None = None

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array, memory: Memory) -> Array:
        slot_BSE = self.norm(self, memory.slots_BSND[:, :, 0], "slot")
        E, D, H, K, G = (
            slot_BSE.shape[-1],
            x_BLD.shape[-1],
            self.heads,
            self.head_dim,
            self.kv_heads or self.heads,
        )
        if H % G:
            raise ValueError(f"kv_heads: {G} does not divide heads {H}")
        v_BSGK = project(slot_BSE, weight(self, "v", (E, G, K)))
        o_HKD = weight(self, "o", (H, K, D), fan_in=H * K)
        read_BSD = project(jnp.repeat(v_BSGK, H // G, axis=2), o_HKD, axes=2)
        return self.block(x_BLD + take(read_BSD, memory.seen_BL), seq, group_BL)
