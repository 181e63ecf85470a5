"""MegaByte: patches of a fixed number of bytes (Yu et al. 2023, arXiv 2305.07185).

The idea (section 2): a global model over patches of P bytes and a local model inside each patch,
so that attention is over T / P patches and over P bytes. The global model reads a patch as its
bytes' embeddings side by side; its output is cut into P slots, one added to each byte of the next
patch, which the local model writes.

    bytes [B, T] ── own embedding of width E / P ── P side by side ── [B, T/P, E] ── global model
    local model's input at the p-th byte behind an end: embedding + W (slot p of the vector)

    end_t = 1[(t + 1) mod P = 0], from hlm.split.Fixed; the first patch is BOS, or a learned vector

There is no code of the authors; the parts of two others' are here too. SpaceByte's: learned
positions, a learned vector for the first patch (`Concat.null`). MEGABYTE-pytorch's: token shift
(`ShiftBlock`), and a learned start token before every patch (`StartTokens`), so that a patch's
last byte is what predicts the first of the next (`Unfold`, and a trunk whose segmenter is
`hlm.segment.SeenLater`).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.model.embed import Embed
from hlm.model.insert import insert_before
from hlm.model.pool import Pool, null_chunk
from hlm.model.unpool import Unpool, distance
from hlm.nn.basic import Linear, Norm, RMSNorm, at_each, normal, weight, zeros
from hlm.nn.kv_cache import with_left_context
from hlm.nn.stack import Trunk
from hlm.seq import Boundaries, Seq, take
from hlm.sharding import constrain

Array = jax.Array


class Lookup(Trunk):
    """The global model's embedding: a trunk that forgets its input and embeds the symbols afresh,
    at its own width.
    """

    embed: Embed
    chunk_local: ClassVar[bool] = True

    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None) -> tuple[Array, Aux]:
        return self.embed(seq, str(x_BLD.dtype)), Aux()


class Concat(Pool):
    """Concatenation pool: the chunk's last `size` elements side by side, missing ones zero: width =
    size * D.

    `width`: of a projection with bias, None: none; `norm` is before it and `norm_out` behind.
    `null`: as in `hlm.pool.Mean`.
    """

    size: int
    width: int | None = None
    norm: Norm | None = None
    norm_out: Norm | None = None
    null: bool = False

    @property
    def reach(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.size

    @nn.compact
    def __call__(self, h_BLD: Array, b: Boundaries) -> Array:
        B, S = b.at.shape
        back_P = jnp.arange(self.size, dtype=jnp.int32)[::-1]
        i_BSP = b.at[:, :, None] - back_P[None, None]
        flat = jnp.maximum(i_BSP, 0).reshape(B, -1)
        own_BSP = (i_BSP >= 0) & (
            take(b.member, flat).reshape(i_BSP.shape)
            == jnp.arange(S, dtype=jnp.int32)[None, :, None]
        )
        h_BSPD = take(h_BLD, flat).reshape(*i_BSP.shape, -1)
        z_BSE = jnp.where(own_BSP[..., None], h_BSPD, 0).reshape(B, S, -1)
        if self.norm is not None:
            z_BSE = self.norm(self, z_BSE, "pool")
        if self.width is not None:
            z_BSE = Linear(self.width, bias=True, name="linear")(z_BSE)
        if self.norm_out is not None:
            z_BSE = self.norm_out(self, z_BSE, "out")
        return null_chunk(self, z_BSE, b) if self.null else z_BSE


class Split(Unpool):
    """Slot unpool: the chunk's vector is cut into `size` slots, one for each element behind the
    end.

    At the end a learned vector replaces the skip. Elements after the last slot of an over-long
    chunk reuse it.
    """

    size: int

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        B, S, E = z_BSE.shape
        if E % self.size:
            raise ValueError(f"size: {self.size} slots do not divide the chunk width {E}")
        y = Linear(skip_BLD.shape[-1], bias=True, name="linear")(
            z_BSE.reshape(B, S * self.size, E // self.size)
        )
        start_D = weight(self, "start", (skip_BLD.shape[-1],), init=zeros)
        u_BLD = jnp.where(b.ends[:, :, None], at_each(start_D, skip_BLD), skip_BLD)
        return u_BLD + take(y, b.seen * self.size + jnp.minimum(distance(b), self.size - 1))


class Unfold(Unpool):
    """Slot unpool: the chunk's vector, projected to `size` slots, one for each element behind the
    end; with `SeenLater`.

    Elements after the last slot of an over-long chunk reuse it; BOS gets nothing.
    """

    size: int

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        B, S, _ = z_BSE.shape
        D = skip_BLD.shape[-1]
        y = Linear(self.size * D, bias=True, name="linear")(z_BSE).reshape(B, S * self.size, D)
        slot_BL = distance(b) - 1
        read = take(y, b.seen * self.size + jnp.clip(slot_BL, 0, self.size - 1))
        return skip_BLD + jnp.where((slot_BL >= 0)[:, :, None], read, 0)


class StartTokens(Trunk):
    """A decoder with a learned start token before every group of a document; BOS becomes the start
    of the first.

    `starts`: the most groups in a row, static; the trunk runs over that many more elements.
    """

    trunk: Trunk
    starts: int

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> tuple[Array, Aux]:
        group_BM = with_left_context(self, "group", group_BL, seq, 1, fill=-1)
        new_BL = (group_BM[:, 1:] != group_BM[:, :-1]) & (seq.pos > 0) & (seq.doc > 0)
        longer = insert_before(new_BL.astype(jnp.int32), min(self.starts, x_BLD.shape[1]))
        start_BM = longer.added_BM | (longer.used_BM & longer.spread(seq.pos == 0))
        start_D = weight(self, "start", (x_BLD.shape[-1],), init=normal(1.0))
        x_BMD = longer.spread(x_BLD)
        x_BMD = jnp.where(start_BM[:, :, None], at_each(start_D, x_BMD), x_BMD)
        # In decoding every group but the first has put one element before its own, and groups count
        # from 0.
        room = seq.decoding.capacity[0] + self.starts if seq.decoding else 0
        y_BMD, aux = self.trunk(
            x_BMD, longer.seq(seq, seq.pos + group_BL, 2, room), longer.spread(group_BL)
        )
        return longer.own(y_BMD), aux


class ShiftBlock(nn.Module):
    """Pre-norm residual block with token shift (RWKV, Peng et al. 2023).

    Half of what a layer reads is of the element before.
    """

    mixer: nn.Module
    mlp: nn.Module
    norm: Norm = dataclasses.field(default_factory=RMSNorm)

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        group_BM = with_left_context(self, "group_before", group_BL, seq, 1, fill=-1)
        shifted = shift(with_left_context(self, "mixer_before", x_BLD, seq, 1), group_BM)
        x_BLD = x_BLD + self.mixer(self.norm(self, shifted, "mixer"), seq, group_BL)
        shifted = shift(with_left_context(self, "mlp_before", x_BLD, seq, 1), group_BM)
        x_BLD = x_BLD + self.mlp(self.norm(self, shifted, "mlp"))
        return constrain(x_BLD, "batch", None, None)


def shift(x_BMD: Array, group_BM: Array) -> Array:
    """The second half of the entries is that of the element before, zero at the first of a group.

    [B, 1 + L, D] -> [B, L, D].
    """
    first_BL = group_BM[:, 1:] != group_BM[:, :-1]
    now, before = jnp.split(x_BMD, [x_BMD.shape[-1] - x_BMD.shape[-1] // 2], axis=-1)
    return jnp.concatenate(
        [now[:, 1:], jnp.where(first_BL[:, :, None], 0, before[:, :-1])], axis=-1
    )
