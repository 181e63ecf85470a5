"""Depth: blocks of mixer and feed-forward, repeated by a scan over stacked weights. Knows nothing of levels."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.metrics import Metrics, under
from hlm.nn.basic import LayerNorm, Norm, RMSNorm
from hlm.nn.memory import CACHE
from hlm.nn.position import Positions
from hlm.seq import Seq
from hlm.sharding import constrain

Array = jax.Array


class Block(nn.Module):
    """Pre-norm residual block: x + mixer(norm x), then x + mlp(norm x)."""

    mixer: nn.Module
    mlp: nn.Module | None
    norm: Norm = dataclasses.field(default_factory=RMSNorm)

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        x_BLD = x_BLD + self.mixer(self.norm(self, x_BLD, "mixer"), seq, group_BL)
        if self.mlp is not None:
            x_BLD = x_BLD + self.mlp(self.norm(self, x_BLD, "mlp"))
        return constrain(x_BLD, "batch", None, None)


class PostNormBlock(nn.Module):
    """Residual block with the norms behind the sums: norm(x + mixer(x)), then norm(x + mlp(x)) (Vaswani et al. 2017)."""

    mixer: nn.Module
    mlp: nn.Module
    norm: Norm = dataclasses.field(default_factory=LayerNorm)

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        x_BLD = self.norm(self, x_BLD + self.mixer(x_BLD, seq, group_BL), "mixer")
        x_BLD = self.norm(self, x_BLD + self.mlp(x_BLD), "mlp")
        return constrain(x_BLD, "batch", None, None)


class Stack(nn.Module):
    """`depth` equal blocks (0: the identity). A trunk: (x, seq, group) -> (y, metrics).

    `per_chunk`: elements meet only elements of their own chunk, which the caller gives as `group`; otherwise of their document.
    `lone_start`: the first element of a document (BOS) meets itself alone, for models that read bytes without BOS.
    `above`: what a Hierarchy's `guide` made of the chunks above; passed to every block.
    `remat` recomputes blocks in the backward pass; `unroll` blocks form one step of the scan (the parameters stay the same).
    """

    depth: int
    block: nn.Module | None = None  # needed when depth > 0
    per_chunk: bool = False
    norm: Norm | None = None  # after the last block
    remat: bool = True
    unroll: int = 1
    lone_start: bool = False
    positions: Positions | None = None  # added to the input

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None, *above: Any) -> tuple[Array, Metrics]:
        if self.per_chunk and group_BL is None:
            raise ValueError("per_chunk=True but this stack is not the encoder or decoder of a Hierarchy")
        if self.positions is not None:
            x_BLD = self.positions(x_BLD, seq)
        if self.depth:
            if self.block is None:
                raise ValueError(f"block: a stack of depth {self.depth} needs a block")
            meet_BL = self.meet(seq, group_BL)

            def step(block: nn.Module, x: Array, *rest: Any) -> tuple[Array, None]:
                return block(x, *rest), None

            scan = nn.scan(
                nn.remat(step, prevent_cse=False) if self.remat and seq.stream is None else step,
                variable_axes={"params": 0, CACHE: 0},
                split_rngs={"params": True, "boundary": True},
                in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
                length=self.depth,
                unroll=min(self.unroll, self.depth),
            )
            x_BLD, _ = scan(self.block, x_BLD, seq, meet_BL, *above)
        return (x_BLD if self.norm is None else self.norm(self, x_BLD, "out")), {}

    def meet(self, seq: Seq, group_BL: Array | None) -> Array:
        """Elements meet those with the same number. In a stream, where groups count on from call to call, it is the group's own."""
        if seq.stream is not None:
            meet_BL = group_BL if self.per_chunk and group_BL is not None else jnp.zeros_like(seq.doc)
            return jnp.where(seq.pos == 0, -1, meet_BL) if self.lone_start else meet_BL
        meet_BL = runs(seq.doc, group_BL) if self.per_chunk and group_BL is not None else seq.doc
        return runs(meet_BL, (seq.pos == 0).astype(jnp.int32)) if self.lone_start else meet_BL

    @property
    def local(self) -> bool:
        """Whether elements of different chunks never meet here."""
        return self.per_chunk or not self.depth


class Chain(nn.Module):
    """Trunks one after the other, for blocks that are not all equal: Chain((Stack(1, a), Stack(4, b)))."""

    parts: tuple[nn.Module, ...]
    norm: Norm | None = None  # after the last part

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array | None = None, *above: Any) -> tuple[Array, Metrics]:
        metrics: Metrics = {}
        for i, part in enumerate(self.parts):
            x_BLD, more = part(x_BLD, seq, group_BL, *above)
            metrics |= under(str(i), more)
        return (x_BLD if self.norm is None else self.norm(self, x_BLD, "out")), metrics

    @property
    def local(self) -> bool:
        return all(part.local for part in self.parts)


def runs(a_BL: Array, b_BL: Array) -> Array:
    """Number the maximal runs in which both arrays stay constant: 0, 1, 2, ... along each row."""
    new_BL = (a_BL[:, 1:] != a_BL[:, :-1]) | (b_BL[:, 1:] != b_BL[:, :-1])
    return jnp.pad(jnp.cumsum(new_BL, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
