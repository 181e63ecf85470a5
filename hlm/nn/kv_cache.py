"""KV caches and other states of incremental decoding (`seq.Decoding`): ring buffers.

Element p lies in slot p modulo the ring's size. What is written for a position replaces what was
there, and a reader asks for positions before its own; so rewinding is nothing but counting on
from an earlier position, and rejected drafts leave no trace. A ring of four after elements 0 to
5, and after element 4 was read again as "X" (5 is written again before it is asked for):

    slot       0  1  2  3              slot       0  1  2  3
    position   4  5  2  3              position   4  5  2  3
    element    e  f  c  d              element    X  f  c  d

Rings are variables of the collection "cache". Rows that are whole have none: there, the same
functions see nothing before the row.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from hlm.seq import Decoding, Seq, take

Array = jax.Array
T = TypeVar("T")
CACHE = "cache"


@struct.dataclass
class Ring:
    """Ring buffer: the last R elements of an array [B, L, ...].

    `axis`: where R stands. Keys and values [B, L, G, K] are kept as [B, G, R, K], with each head's
    elements side by side, as a matrix product of a few queries reads them.
    """

    values: Array  # [B, R, ...]
    axis: int = struct.field(pytree_node=False, default=1)

    @staticmethod
    def empty(size: int, like_BL: Array, axis: int = 1) -> "Ring":
        shape = (like_BL.shape[0], *like_BL.shape[2:])
        return Ring(jnp.zeros((*shape[:axis], size, *shape[axis:]), like_BL.dtype), axis)

    @property
    def size(self) -> int:
        return self.values.shape[self.axis]

    def write(self, value_BL: Array, pos_BL: Array, real_BL: Array) -> "Ring":
        """With elements at positions `pos`, which are distinct and of which the last R are kept;
        where not `real`, none.
        """
        newest_B1 = jnp.max(jnp.where(real_BL, pos_BL, -1), axis=1, keepdims=True)
        slot_BL = jnp.where(
            real_BL & (pos_BL > newest_B1 - self.size), pos_BL % self.size, self.size
        )
        if slot_BL.size == 1:
            # XLA reads and writes a slice for a single write, and copies the whole ring in between.
            # So there are two, of which the second is none.
            slot_BL = jnp.pad(slot_BL, ((0, 0), (0, 1)), constant_values=self.size)
            value_BL = jnp.concatenate([value_BL, value_BL], axis=1)
        row_B1 = jnp.arange(slot_BL.shape[0], dtype=jnp.int32)[:, None]
        index = (row_B1, *[slice(None)] * (self.axis - 1), slot_BL)
        return Ring(self.values.at[index].set(value_BL, mode="drop"), self.axis)

    def read(self, pos_BI: Array) -> Array:
        """[B, I, ...] at positions that were written and not yet replaced; others give anything."""
        values = jnp.moveaxis(self.values, self.axis, 1)
        return take(values, jnp.maximum(pos_BI, 0) % self.size)


class Bounded:
    """A memory that can be full: `full_B`, bool, says of which rows more was read than it
    remembers.
    """

    full_B: Array


@struct.dataclass
class KVCache(Bounded):
    """Keys, values and whatever else attention needs of the elements that it may still attend to,
    in no order.
    """

    place: Ring  # int32: position + 1; 0 where there is no element
    values: dict[str, Ring]
    full_B: Array

    @property
    def pos_BR(self) -> Array:
        """Positions [B, R], -1 where there is no element."""
        return self.place.values - 1

    def __getitem__(self, name: str) -> Array:
        """[B, R, ...], or of keys and values [B, G, R, K]."""
        return self.values[name].values


def update_kv_cache(
    module: nn.Module, seq: Seq, window: int | None, **values: Array
) -> KVCache | None:
    """The KV cache of a layer after these elements [B, L, ...], which it keeps for the next call.

    `window`: elements that it may attend to, itself included; None: all. None is returned where the
    row begins with these elements, in training and in the prefill: there attention needs no more
    than them.
    """
    if seq.decoding is None:
        return None
    capacity = seq.decoding.capacity[0]
    size = min(window or capacity, capacity) + seq.decoding.rewind

    def empty() -> KVCache:
        rings = {
            name: Ring.empty(size, value, axis=2 if value.ndim == 4 else 1)
            for name, value in values.items()
        }
        return KVCache(Ring.empty(size, seq.pos), rings, jnp.zeros(seq.pos.shape[:1], bool))

    kept, real_BL = module.variable(CACHE, "kv", empty), seq.doc > 0
    full_B = kept.value.full_B
    if window is None or window > capacity:
        full_B |= jnp.any((seq.pos >= capacity) & real_BL, axis=1)
    kept.value = KVCache(
        kept.value.place.write(seq.pos + 1, seq.pos, real_BL),
        {
            name: kept.value.values[name].write(value, seq.pos, real_BL)
            for name, value in values.items()
        },
        full_B,
    )
    return None if seq.decoding.prefill else kept.value


def with_left_context(
    module: nn.Module, name: str, x_BL: Array, seq: Seq, count: int, fill: int = 0
) -> Array:
    """x [B, L, ...] with the `count` elements before it, `fill` where there are none -> [B, count +
    L, ...].
    """
    wide = jnp.pad(x_BL, ((0, 0), (count, 0)) + ((0, 0),) * (x_BL.ndim - 2), constant_values=fill)
    if seq.decoding is None or not count:
        return wide
    ring = module.variable(CACHE, name, Ring.empty, count + seq.decoding.rewind, x_BL)
    if seq.continued:
        pos_BC = seq.pos[:, :1] - jnp.arange(count, 0, -1, dtype=jnp.int32)[None]
        there_BC = (pos_BC >= 0).reshape(pos_BC.shape + (1,) * (x_BL.ndim - 2))
        before = jnp.where(there_BC, ring.value.read(pos_BC), jnp.asarray(fill, x_BL.dtype))
        wide = jnp.concatenate([before, x_BL], axis=1)
    ring.value = ring.value.write(x_BL, seq.pos, seq.doc > 0)
    return wide


def cache_leaves(cache: Any, kind: type[T]) -> list[T]:
    """The caches of this type in a collection "cache", of all layers."""
    leaves = jax.tree.leaves(cache, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def is_full(cache: Any, rows: int) -> Array:
    """Rows of which some layer has read more than it remembers; bool [B]."""
    full_B = jnp.zeros(rows, bool)
    for cached in cache_leaves(cache, Bounded):
        full_B |= cached.full_B
    return full_B


def decoding_of(seq: Seq) -> Decoding:
    assert seq.decoding is not None
    return seq.decoding
