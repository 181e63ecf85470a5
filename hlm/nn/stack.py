"""Depth: blocks of mixer and feed-forward, repeated by a scan over stacked weights. Knows nothing
of levels.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from hlm.auxiliary import Aux
from hlm.nn.basic import LayerNorm, Norm, RMSNorm
from hlm.nn.kv_cache import CACHE
from hlm.nn.position import Positions
from hlm.nn.projection import kept
from hlm.seq import Seq, runs
from hlm.sharding import constrain

Array = jax.Array


class Trunk(nn.Module, abc.ABC):
    """Base of all trunks: (x [B, L, D], seq, group) -> (y [B, L, D], Aux). `group`: chunk of each
    element, if there are any.

    `chunk_local`: no element attends to one of another chunk. `can_draft`: it has a cheaper way,
    for the drafts of generation (`Decoding.draft`).
    """

    chunk_local: ClassVar[bool] = False
    can_draft: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(
        self, x_BLD: Array, seq: Seq, group_BL: Array | None = None, *above: Any
    ) -> tuple[Array, Aux]: ...


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
    """Residual block with the norms behind the sums: norm(x + mixer(x)), then norm(x + mlp(x))
    (Vaswani et al. 2017).
    """

    mixer: nn.Module
    mlp: nn.Module
    norm: Norm = dataclasses.field(default_factory=LayerNorm)

    @nn.compact
    def __call__(self, x_BLD: Array, seq: Seq, group_BL: Array) -> Array:
        x_BLD = self.norm(self, x_BLD + self.mixer(x_BLD, seq, group_BL), "mixer")
        x_BLD = self.norm(self, x_BLD + self.mlp(x_BLD), "mlp")
        return constrain(x_BLD, "batch", None, None)


class Stack(Trunk):
    """A stack of `depth` equal blocks (0: the identity).

    `per_chunk`: elements attend only to elements of their own chunk, which the caller gives as
    `group`; otherwise of their document. `isolate_bos`: the first element of a document (BOS)
    attends to itself alone and no other attends to it, for models that read bytes without BOS.
    `above`: what a Hierarchy's `guide` made of the chunks above; passed to every block. `remat`:
    blocks are computed again in the backward pass; `keep_projections`: but for products with
    weights, which are kept.
    """

    depth: int
    block: nn.Module | None = None  # needed when depth > 0
    per_chunk: bool = False
    norm: Norm | None = None  # after the last block
    remat: bool = True
    keep_projections: bool = True
    isolate_bos: bool = False
    positions: Positions | None = None  # added to the input

    @nn.compact
    def __call__(
        self, x_BLD: Array, seq: Seq, group_BL: Array | None = None, *above: Any
    ) -> tuple[Array, Aux]:
        if self.per_chunk and group_BL is None:
            raise ValueError(
                "per_chunk=True but this stack is not the encoder or decoder of a Hierarchy"
            )
        if self.positions is not None:
            x_BLD = self.positions(x_BLD, seq)
        if self.depth:
            if self.block is None:
                raise ValueError(f"block: a stack of depth {self.depth} needs a block")
            group_BL = self.attention_groups(seq, group_BL)
            if seq.decoding is not None or self.layers is not None:
                x_BLD = self.one_by_one(x_BLD, seq, group_BL, *above)
                return (x_BLD if self.norm is None else self.norm(self, x_BLD, "out")), Aux()

            def step(block: nn.Module, x: Array, *rest: Any) -> tuple[Array, None]:
                return block(x, *rest), None

            policy = kept if self.keep_projections else None
            scan = nn.scan(
                nn.remat(step, prevent_cse=False, policy=policy) if self.remat else step,
                variable_axes={"params": 0},
                split_rngs={"params": True, "boundary": True},
                in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
                length=self.depth,
            )
            x_BLD, _ = scan(self.block, x_BLD, seq, group_BL, *above)
        return (x_BLD if self.norm is None else self.norm(self, x_BLD, "out")), Aux()

    @property
    def layers(self) -> tuple[Any, ...] | None:
        """The parameters of each block, where they were unstacked for decoding."""
        params = self.variables.get("params", {}).get("block")
        return params if isinstance(params, tuple) else None

    def one_by_one(self, x_BLD: Array, *rest: Any) -> Array:
        """The blocks one after the other, each with its own parameters and caches; in decoding.

        A scan would take all caches as one array and give another one back, so that every call
        copies them; a loop around such calls writes them in place. The prefill is a scan.
        """
        assert self.block is not None
        block, stacked = self.block.clone(parent=None, name=None), self.variables["params"]["block"]
        if self.layers is None and not self.has_variable(CACHE, "layers"):  # the prefill

            def layer(x_BLD: Array, params: Any) -> tuple[Array, Any]:
                return block.apply({"params": params}, x_BLD, *rest, mutable=[CACHE])  # pyright: ignore[reportReturnType]

            x_BLD, caches = jax.lax.scan(layer, x_BLD, stacked)
            self.put_variable(CACHE, "layers", layers_of(caches, self.depth))
            return x_BLD
        caches, new = self.get_variable(CACHE, "layers", [{}] * self.depth), []
        for params, cache in zip(
            self.layers or layers_of(stacked, self.depth), caches, strict=True
        ):
            x_BLD, after = block.apply({"params": params, **cache}, x_BLD, *rest, mutable=[CACHE])  # pyright: ignore[reportGeneralTypeIssues]
            new.append(after)
        if self.is_mutable_collection(CACHE) and any(new):
            self.put_variable(CACHE, "layers", tuple(new))
        return x_BLD

    def attention_groups(self, seq: Seq, group_BL: Array | None) -> Array:
        """Segment ids [B, L]: elements attend to those with the same number.

        In decoding, where groups count on from call to call, it is the group's own number.
        """
        if seq.decoding is not None:
            ids_BL = (
                group_BL if self.per_chunk and group_BL is not None else jnp.zeros_like(seq.doc)
            )
            return jnp.where(seq.pos == 0, -1, ids_BL) if self.isolate_bos else ids_BL
        ids_BL = runs(seq.doc, group_BL) if self.per_chunk and group_BL is not None else seq.doc
        return runs(ids_BL, (seq.pos == 0).astype(jnp.int32)) if self.isolate_bos else ids_BL

    @property
    def chunk_local(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.per_chunk or not self.depth


class Chain(Trunk):
    """Trunks one after the other, for blocks that are not all equal: Chain((Stack(1, a), Stack(4,
    b))).
    """

    parts: tuple[Trunk, ...]
    norm: Norm | None = None  # after the last part

    @nn.compact
    def __call__(
        self, x_BLD: Array, seq: Seq, group_BL: Array | None = None, *above: Any
    ) -> tuple[Array, Aux]:
        aux = Aux()
        for i, part in enumerate(self.parts):
            x_BLD, more = part(x_BLD, seq, group_BL, *above)
            aux |= more.under(str(i))
        return (x_BLD if self.norm is None else self.norm(self, x_BLD, "out")), aux

    @property
    def chunk_local(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(part.chunk_local for part in self.parts)


def layers_of(stacked: Any, depth: int) -> tuple[Any, ...]:
    """The parameters of each layer."""
    return tuple(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(depth))


def unstacked(module: Any, params: Any) -> Any:
    """Parameters of a module whose stacks have a tuple of their layers in place of stacked arrays,
    for decoding, each with its weights `beside` each other.

    Slices of stacked weights inside a loop are copies: each step would write all weights.
    """
    if isinstance(module, Stack) and module.depth:
        block = inside(module.block, params["block"], beside)
        params = {**params, "block": layers_of(block, module.depth)}
    return inside(module, params, unstacked)


def beside(module: Any, params: Any) -> Any:
    """Parameters of a block's module with one array, [layers, D, n, ...], in place of its n weights
    of one shape that map the same input.

    XLA brings the weights of a product of a few rows into another order first, which costs more
    for many small ones.
    """
    names = getattr(module, "beside", ())
    found = [params[name] for name in names if name in params]
    if names and len(found) == len(names) and len({w.shape for w in found}) == 1:
        rest = {name: w for name, w in params.items() if name not in names}
        params = {**rest, "+".join(names): jnp.stack(found, axis=2)}
    return inside(module, params, beside)


def inside(module: Any, params: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Parameters of a module with those of each of its parts as `change(part, params)` makes
    them.
    """
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        parts = (
            {f"{field.name}_{i}": part for i, part in enumerate(value)}
            if isinstance(value, tuple)
            else {field.name: value}
        )
        for name, part in parts.items():
            is_part = isinstance(part, nn.Module) and field.name != "parent"
            if is_part and isinstance(params.get(name), Mapping):
                params = {**params, name: change(part, params[name])}
    return params
