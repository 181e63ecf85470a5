"""What layers remember of a row that is read piece by piece (`seq.Stream`): rings of the last elements, addressed by position.

Element p lies in slot p modulo the ring's size. What is written for a position replaces what was there, and a reader asks for
positions before its own; so going back is nothing but counting on from an earlier position, and rejected elements leave no trace.
Rings are variables of the collection "cache". Rows that are whole have none: there, the same functions see nothing before the row.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from hlm.seq import Seq, Stream, take

Array = jax.Array
CACHE = "cache"


class Ring:
    """The last `size` elements of an array [B, L, ...] of a stream; made empty by the first call."""

    def __init__(self, module: nn.Module, name: str, size: int, like_BL: Array):
        shape = (like_BL.shape[0], size, *like_BL.shape[2:])
        self.variable = module.variable(CACHE, name, jnp.zeros, shape, like_BL.dtype)
        self.size = self.variable.value.shape[1]

    def write(self, value_BL: Array, pos_BL: Array, real_BL: Array) -> None:
        """Elements at `pos`, which are distinct and of which the last `size` are kept."""
        newest_B1 = jnp.max(jnp.where(real_BL, pos_BL, -1), axis=1, keepdims=True)
        slot_BL = jnp.where(real_BL & (pos_BL > newest_B1 - self.size), pos_BL % self.size, self.size)
        row_B1 = jnp.arange(slot_BL.shape[0], dtype=jnp.int32)[:, None]
        self.variable.value = self.variable.value.at[row_B1, slot_BL].set(value_BL, mode="drop")

    def read(self, pos_BI: Array) -> Array:
        """Elements at positions that were written and not yet replaced; others give anything."""
        return at(self.variable.value, pos_BI)


def at(ring_BR: Array, pos_BI: Array) -> Array:
    return take(ring_BR, jnp.maximum(pos_BI, 0) % ring_BR.shape[1])


def preceded(module: nn.Module, name: str, x_BL: Array, seq: Seq, count: int, fill: int = 0) -> Array:
    """x [B, L, ...] with the `count` elements before it, `fill` where there are none -> [B, count + L, ...]."""
    wide = jnp.pad(x_BL, ((0, 0), (count, 0)) + ((0, 0),) * (x_BL.ndim - 2), constant_values=fill)
    if seq.stream is None or not count:
        return wide
    ring = Ring(module, name, count + seq.stream.back, x_BL)
    if seq.begun:
        pos_BC = seq.pos[:, :1] - jnp.arange(count, 0, -1, dtype=jnp.int32)[None]
        there_BC = (pos_BC >= 0).reshape(pos_BC.shape + (1,) * (x_BL.ndim - 2))
        before = jnp.where(there_BC, ring.read(pos_BC), jnp.asarray(fill, x_BL.dtype))
        wide = jnp.concatenate([before, x_BL], axis=1)
    ring.write(x_BL, seq.pos, seq.doc > 0)
    return wide


@struct.dataclass
class Past:
    """Elements of this call and before, in no order: `pos` [B, R], -1 where there is none."""

    pos: Array
    values: Any  # arrays [B, R, ...]


def recalled(module: nn.Module, seq: Seq, window: int | None, **values: Array) -> Past | None:
    """Arrays [B, L, ...] of the last `window` elements (None: of all) before and among these; None where the row begins here."""
    if seq.stream is None:
        return None
    room = seq.stream.room[0]
    size = min(window or room, room) + seq.stream.back
    rings = {name: Ring(module, name, size, value) for name, value in values.items()}
    place = Ring(module, "place", size, seq.pos)  # position + 1
    for name, value in values.items():
        rings[name].write(value, seq.pos, seq.doc > 0)
    place.write(seq.pos + 1, seq.pos, seq.doc > 0)
    if window is None or window > room:
        full = module.variable(CACHE, "full", jnp.zeros, seq.pos.shape[:1], bool)
        full.value |= jnp.any((seq.pos >= room) & (seq.doc > 0), axis=1)
    if seq.stream.fresh:
        return None
    return Past(place.variable.value - 1, {name: ring.variable.value for name, ring in rings.items()})


def found(cache: Any, name: str) -> list[Array]:
    """The variables of this name, of all layers."""
    leaves = jax.tree_util.tree_leaves_with_path(cache)
    return [leaf for path, leaf in leaves if jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-1] == name]


def is_full(cache: Any, rows: int) -> Array:
    """Rows of which some layer has read more than it remembers; bool [B]."""
    full_B = jnp.zeros(rows, bool)
    for leaf in found(cache, "full"):
        full_B |= leaf.reshape(-1, rows).any(axis=0)
    return full_B


def stream_of(seq: Seq) -> Stream:
    assert seq.stream is not None
    return seq.stream
