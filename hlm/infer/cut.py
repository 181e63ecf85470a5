"""Where a model cuts texts into chunks, and the vectors of its chunks.

Texts are read in windows (hlm/data/pack.py); a compiled program gives what the model's boundary
predictors found in each, and here this is put together in bytes of the text.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm import sharding
from hlm.data.pack import Budget, Window, windows
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.seq import Batch, Boundaries, take
from hlm.vocab import Encoded

TEXT_ENDS = 2.0  # the weight of what follows the last symbol of a text, in rows to look at

Job = tuple[int, Window]  # the number of a text, and a window of it
Read = Callable[[list[Job]], Iterator[tuple[list[Job], Any]]]


def cut(
    texts: Sequence[Encoded], level: int, budget: Budget, context: int, read: Read
) -> list[tuple[list[list[int]], np.ndarray]]:
    """Of each `closed` text, where the chunks of all levels up to `level` stop, in bytes, and the
    vectors of those of `level`, float32 [chunks, width].

    `context` as in `windows`; `read(jobs)`: batches of windows, each with what `program` gives.
    """
    position = [np.cumsum(e.nbytes, dtype=np.int64) for e in texts]  # behind each symbol
    found: list[list[dict[int, Any]]] = [[{} for _ in range(level)] for _ in texts]
    jobs = [(i, w) for i, e in enumerate(texts) for w in windows(e, budget, context)]
    width = 0
    for part, out in read(jobs):
        width = out["vectors"].shape[-1]
        for row, (i, w) in enumerate(part):
            size = np.count_nonzero(w.row["doc"])
            # Element k is the symbol before target k. The first is BOS in every window; those
            # before it in a later window were seen in another.
            first = max(size - (w.stop - w.start), 1)
            for one, used, at in zip(found[i], out["used"], out["at"], strict=True):
                mine = np.flatnonzero(used[row] & (at[row] >= first))
                stops = position[i][w.stop - 1 - size + at[row][mine]]
                # Symbols without bytes may end a chunk again where one has ended: the last
                # counts.
                top = one is found[i][-1]
                values = out["vectors"][row][mine] if top else [None] * len(mine)
                one |= zip(stops.tolist(), values, strict=True)
    result = []
    for where, levels in zip(position, found, strict=True):
        for one in levels:
            one.pop(0, None)  # symbols without bytes before the first byte
            if where[-1] and int(where[-1]) not in one:
                raise ValueError(f"text: {budget} has no room for chunks besides that of BOS")
        stops = [sorted(one) for one in levels]
        vectors = [levels[-1][stop] for stop in stops[-1]]
        result.append((stops, np.stack(vectors) if vectors else np.zeros((0, width), np.float32)))
    return result


def program(model: LM, mesh: jax.sharding.Mesh) -> Any:
    """Compiled (params, batch, level) -> for each level up to `level` which of its chunks are used,
    [B, S], and at which symbols they end, [B, S]; the vectors of those of `level`, [B, S, E].
    """

    @functools.partial(jax.jit, out_shardings=sharding.everywhere(mesh), static_argnames="level")
    def run(params: Any, batch: Batch, level: int) -> dict[str, Any]:
        with nn.intercept_methods(Ending(batch, level)):
            _, cuts = captured(model, params, batch, model.__class__.hidden)
        at: list[jax.Array] = []
        for b, _ in cuts[:level]:  # from elements of that level down to symbols
            at.append(jnp.take_along_axis(at[-1], b.at, axis=1) if at else b.at)
        used, z_BSE = [b.used for b, _ in cuts[:level]], cuts[level - 1][1]
        return {"used": used, "at": at, "vectors": z_BSE.astype(jnp.float32)}

    return run


def captured(
    model: LM, params: Any, batch: Batch, method: Any
) -> tuple[Any, list[tuple[Boundaries, jax.Array]]]:
    """The method's result, and for each level (boundaries, the backbone's output [B, S, E])."""

    def wanted(module: Any, name: str) -> bool:
        return name == "cut" or (module.name == "backbone" and name == "__call__")

    caught: Any = model.apply(
        {"params": params}, batch, method=method, capture_intermediates=wanted
    )
    out, state = caught
    tree, cuts = state.get("intermediates", {}).get("trunk", {}), []
    while "cut" in tree:
        cuts.append((tree["cut"][0][0], tree["backbone"]["__call__"][0][0]))
        tree = tree["backbone"]
    return out, cuts


def closed(encoded: Encoded, eos: int, level: int) -> Encoded:
    """A text all of whose symbols are read, and whose last one ends a chunk of `level`."""
    last = encoded.token[-1]
    if last != eos or encoded.nbytes[-1] or len(encoded.token) == 1:  # a codec without EOS
        longer = [None if a is None else np.append(a, a.dtype.type(0)) for a in encoded[:-1]]
        encoded = Encoded._make([*longer, encoded.whole])
    levels, weight = encoded.level.copy(), np.ones(len(encoded.token), np.float32)
    levels[-2], weight[-1] = max(levels[-2], level), TEXT_ENDS
    return encoded._replace(level=levels, weight=weight)


class Ending:
    """An interceptor of methods (flax): a text that is `closed` ends a chunk at each level up to
    `level`, also where the model finds ends itself.

    Where there is no room, its end replaces another one.
    """

    def __init__(self, batch: Batch, level: int):
        self.last_BL, self.levels = batch.weight == TEXT_ENDS, level

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not isinstance(context.module, Hierarchy) or context.method_name != "bounded":
            return call(*args, **kwargs)
        if not self.levels:
            return call(*args, **kwargs)
        self.levels -= 1
        ends_BL, seq, capacity, *rest = args
        last_BL = self.last_BL & (seq.pos > 0)
        asked_BL = (ends_BL | (seq.pos == 0)) & (seq.doc > 0)
        room_B1 = capacity - jnp.any(last_BL, axis=1, keepdims=True).astype(jnp.int32)
        fits_BL = jnp.cumsum(asked_BL, axis=1, dtype=jnp.int32) <= room_B1
        b, aux = call((ends_BL & fits_BL) | last_BL, seq, capacity, *rest, **kwargs)
        self.last_BL = take(last_BL, b.at) & b.used
        return b, aux
