"""Linear recurrences along a row, reset wherever a group begins; parallel in the row's length,
states in float32.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.nn.basic import MASKED, Norm, Normal, RMSNorm, at_each, ones, uniform, weight
from hlm.nn.kv_cache import CACHE, Ring, decoding_of, with_left_context
from hlm.nn.projection import product, project
from hlm.seq import Seq

Array = jax.Array


class Mamba2(nn.Module):
    """Selective state space mixer with one decay per head (Dao & Gu 2024), causal inside groups;
    all heads share B and C.

    `expand` times the width is split into heads of `head_dim`, each with a state of `head_dim` x
    `state`; `conv`: taps of the short convolution; `chunk`: elements that meet by matrix products
    at a time, which changes speed and memory only.
    """

    state: int = 128
    head_dim: int = 64
    expand: int = 2
    conv: int = 4
    chunk: int = 128
    norm: Norm = dataclasses.field(default_factory=RMSNorm)
    initial: Normal | None = None

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        B, L, D = x_BLD.shape
        inner, N, P = self.expand * D, self.state, self.head_dim
        if inner % P:
            raise ValueError(f"head_dim: {P} does not divide expand * width = {inner}")
        H = inner // P
        std, out = (self.initial.std, self.initial.out) if self.initial else (None, None)
        z_BLI = project(x_BLD, weight(self, "gate", (D, inner), init=std))
        v_BLI = project(x_BLD, weight(self, "up", (D, inner), init=std))
        rest = project(x_BLD, weight(self, "kernel", (D, 2 * N + H), init=std))
        b_c, step_BLH = rest[..., : 2 * N], rest[..., 2 * N :].astype(jnp.float32)
        tap = weight(self, "conv", (self.conv, inner + 2 * N), init=uniform(self.conv**-0.5))
        group_BM = with_left_context(self, "group", group_BL, seq, self.conv - 1, fill=-1)
        mixed = convolve(
            with_left_context(self, "taps", jnp.concatenate([v_BLI, b_c], -1), seq, self.conv - 1),
            tap,
            group_BM,
        )
        mixed = jax.nn.silu(
            mixed
            + at_each(
                weight(self, "conv_bias", (inner + 2 * N,), init=uniform(self.conv**-0.5)), mixed
            )
        )
        v_BLHP, b_BLN, c_BLN = (
            mixed[..., :inner].reshape(B, L, H, P),
            mixed[..., inner : inner + N],
            mixed[..., inner + N :],
        )
        step_BLH = jax.nn.softplus(
            step_BLH + at_each(weight(self, "step_bias", (H,), init=steps), step_BLH)
        )
        rate_BLH = -step_BLH * at_each(
            jnp.exp(weight(self, "rate_log", (H,), init=rates)), step_BLH
        )
        if seq.decoding is None:
            y_BLHP, _ = scan_states(v_BLHP, step_BLH, rate_BLH, b_BLN, c_BLN, group_BL, self.chunk)
        else:
            y_BLHP = self.decoded(seq, v_BLHP, step_BLH, rate_BLH, b_BLN, c_BLN, group_BL)
        y_BLHP = (
            y_BLHP
            + v_BLHP.astype(jnp.float32)
            * weight(self, "skip_scale", (H,), init=ones)[None, None, :, None]
        )
        y_BLI = self.norm(
            self, y_BLHP.reshape(B, L, inner) * jax.nn.silu(z_BLI.astype(jnp.float32)), "gated"
        ).astype(x_BLD.dtype)
        return project(y_BLI, weight(self, "down", (inner, D), init=out))

    def decoded(
        self,
        seq: Seq,
        v_BLHP: Array,
        step_BLH: Array,
        rate_BLH: Array,
        b_BLN: Array,
        c_BLN: Array,
        group_BL: Array,
    ) -> Array:
        """`scan_states` from the state before these elements, which padding leaves as it is."""
        real_BL = seq.doc > 0
        step_BLH, rate_BLH = (jnp.where(real_BL[..., None], a, 0) for a in (step_BLH, rate_BLH))
        group_BL = jax.lax.cummax(jnp.where(real_BL, group_BL, -1), axis=1)
        B, _, H, P = v_BLHP.shape
        kept = 1 + decoding_of(seq).rewind
        ring = self.variable(
            CACHE, "state", Ring.empty, kept, jnp.zeros((B, 1, H, P, b_BLN.shape[-1]), jnp.float32)
        )
        group_ring = self.variable(CACHE, "state_group", Ring.empty, kept, group_BL)
        if not seq.continued:
            y_BLHP, states = scan_states(
                v_BLHP, step_BLH, rate_BLH, b_BLN, c_BLN, group_BL, self.chunk
            )
            newest_B1 = jnp.max(jnp.where(real_BL, seq.pos, -1), axis=1, keepdims=True)
            ring.value = ring.value.write(states[:, -1:], newest_B1, newest_B1 >= 0)
            group_ring.value = group_ring.value.write(group_BL, seq.pos, real_BL)
            return y_BLHP
        last_B1 = seq.pos[:, :1] - 1
        start = (ring.value.read(last_B1)[:, 0], group_ring.value.read(last_B1)[:, 0])
        group_BL = jnp.maximum(group_BL, start[1][:, None])
        y_BLHP, states = scan_states(v_BLHP, step_BLH, rate_BLH, b_BLN, c_BLN, group_BL, 1, start)
        ring.value = ring.value.write(states[:, 1:], seq.pos, real_BL)
        group_ring.value = group_ring.value.write(group_BL, seq.pos, real_BL)
        return y_BLHP


def convolve(x_BMI: Array, tap_TI: Array, group_BM: Array) -> Array:
    """A causal convolution of each feature by itself: the last tap is for the element itself, none
    reaches into another group.

    The first T - 1 elements are those before the row: [B, T - 1 + L, I] -> [B, L, I].
    """
    T = tap_TI.shape[0]
    L = x_BMI.shape[1] - (T - 1)
    x_BLI = x_BMI[:, T - 1 :]
    y_BLI = x_BLI * at_each(tap_TI[T - 1], x_BLI)
    for back in range(1, T):
        here = slice(T - 1 - back, T - 1 - back + L)
        same_BL = group_BM[:, here] == group_BM[:, T - 1 :]
        x_BLI = jnp.where(same_BL[..., None], x_BMI[:, here], 0)
        y_BLI = y_BLI + x_BLI * at_each(tap_TI[T - 1 - back], x_BLI)
    return y_BLI


def scan_states(
    v_BLHP: Array,
    step_BLH: Array,
    rate_BLH: Array,
    b_BLN: Array,
    c_BLN: Array,
    group_BL: Array,
    chunk: int,
    start: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """y_t = h_t C_t with h_t = exp(rate_t) h_{t-1} + step_t v_t B_t in every head, h zero before
    each group; float32 [B, L, H, P].

    Groups are runs. Inside chunks by masked matrix products, between them by a scan over the
    chunks' states, which are returned too: that before each chunk and that behind the last one, [B,
    1 + chunks, H, P, N]. `start`: the state before the row and its group.
    """
    B, L, H, P = v_BLHP.shape
    Q = min(chunk, L)
    n = -(-L // Q)

    def chunks(a: Array, fill: int = 0) -> Array:  # [B L ...] -> [B n Q ...]
        a = jnp.pad(a, ((0, 0), (0, n * Q - L)) + ((0, 0),) * (a.ndim - 2), constant_values=fill)
        return a.reshape(B, n, Q, *a.shape[2:])

    v, b, c, group = chunks(v_BLHP), chunks(b_BLN), chunks(c_BLN), chunks(group_BL, -1)
    # Sums of the rates, from the chunk's start or that of the group: the difference of two sums
    # that begin in another document would leave that document a gradient of rounding's size.
    begins = jnp.pad(
        group[:, :, 1:] != group[:, :, :-1], ((0, 0), (0, 0), (1, 0)), constant_values=True
    )
    total = linear_recurrence(
        1.0 - begins.reshape(B * n, Q).astype(jnp.float32), chunks(rate_BLH).reshape(B * n, Q, H)
    )
    # [B n H Q]
    step, total = (jnp.moveaxis(a.reshape(B, n, Q, H), 3, 2) for a in (chunks(step_BLH), total))
    last = group[:, :, -1]
    none_B = jnp.full(B, -2, group.dtype)
    h_BHPN, first_B = (
        (jnp.zeros((B, H, P, b_BLN.shape[-1]), jnp.float32), none_B) if start is None else start
    )
    # whose state the chunk receives
    before = jnp.concatenate([first_B[:, None], last[:, :-1]], axis=1)

    near = jnp.tril(jnp.ones((Q, Q), bool))[None, None] & (
        group[:, :, :, None] == group[:, :, None]
    )
    # [B n H Q Q]
    decay = jnp.exp(jnp.where(near[:, :, None], total[..., None] - total[..., None, :], MASKED))
    score = product("bnqs,bnts->bnqt", c, b)
    mix = (score[:, :, None] * decay * step[..., None, :]).astype(v.dtype)
    y = product("bnhqt,bnthp->bnqhp", mix, v)

    # What is left at the chunk's end. The mask is inside of exp: sums of other groups may lie far
    # below that of the last one.
    of_last = (group == last[..., None])[:, :, None]
    reach = step * jnp.exp(jnp.where(of_last, total[..., -1:] - total, MASKED))
    state = jnp.einsum(
        "bnhq,bnqhp,bnqs->bnhps", reach, v.astype(jnp.float32), b.astype(jnp.float32)
    )
    keep = jnp.where((last == before)[..., None], jnp.exp(total[..., -1]), 0)  # [B n H]

    def pass_on(h: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, new = chunk
        return keep[..., None, None] * h + new, h

    h_end, h = jax.lax.scan(pass_on, h_BHPN, (jnp.moveaxis(keep, 1, 0), jnp.moveaxis(state, 1, 0)))
    left = jnp.where((group == before[..., None])[:, :, None], jnp.exp(total), 0)
    y = y + jnp.einsum("bnhq,bnqs,nbhps->bnqhp", left, c.astype(jnp.float32), h)
    return y.reshape(B, n * Q, H, P)[:, :L], jnp.concatenate(
        [jnp.moveaxis(h, 0, 1), h_end[:, None]], axis=1
    )


def linear_recurrence(keep_BS: Array, x_BSD: Array) -> Array:
    """First-order linear recurrence: y_s = keep_s y_(s-1) + x_s, y zero before the row.

    A keep of 0 starts anew; by an associative scan.
    """

    def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] * b[0], a[1] * b[0] + b[1]

    return jax.lax.associative_scan(join, (keep_BS[..., None], x_BSD), axis=1)[1]


def rates(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Logarithms of 1 to 16."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def steps(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """What softplus makes steps of 0.001 to 0.1 from, evenly in their logarithm."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(0.001), math.log(0.1)))
    return step + jnp.log(-jnp.expm1(-step))
