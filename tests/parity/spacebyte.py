"""SpaceByte, its MegaByte and its Transformer: they read BOS and all bytes but the last, and
predict every byte.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hlm.seq import Batch, boundaries, seq_of
from hlm.split import SpaceLike
from tests.parity.common import Check, Subject, rows, subject_of, unequal

CASES = ("spacebyte", "sb_megabyte", "sb_flat")
UNITS = ("units_spacebyte",)
BOS = 255


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    config = meta["config"]
    chunks = config.get("global_context_size")
    s = subject_of("spacebyte", arrays, config)

    def batch(x: np.ndarray) -> Batch:
        token = np.pad(x[:, :-2], ((0, 0), (1, 0)), constant_values=BOS)
        level = np.stack([s.model.codec.levels(row) for row in token])
        weight = np.ones(token.shape)
        # the reference ignores what follows an end for which it has no room, and takes the mean of
        # each row's mean
        if chunks:
            weight = (np.cumsum(level > 0, axis=1) <= chunks).astype(float)
            weight /= weight.mean(axis=1, keepdims=True)
        return rows(token, x[:, :-1], weight, level)

    def loss(params: Any, batch: Batch, step: Any) -> jax.Array:
        out: Any = s.model.apply({"params": params}, batch)
        return jnp.mean(out.nll_BLN[:, :, 0] * batch.weight)

    def aux(batch: Batch) -> Iterable[Check]:
        if "aux/global_ts" in arrays:
            yield unequal("symbols", batch.token, arrays["aux/tokens"])
            b, _ = boundaries(batch.level > 0, seq_of(batch), chunks)
            yield unequal("chunks", np.sum(b.used, axis=1), arrays["aux/global_T"])
            yield unequal("boundaries", b.at, arrays["aux/global_ts"])

    return subject_of("spacebyte", arrays, config, batch=batch, loss=loss, aux=aux)


def units(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    for i, text in enumerate(meta["texts"]):
        levels = SpaceLike(longest=1000).levels(np.frombuffer(text.encode(), np.uint8), True)
        yield unequal(
            f"ends of {text[:12]!r}",
            np.concatenate([[0], np.flatnonzero(levels) + 1]),
            arrays[f"ts{i}"][0],
        )
