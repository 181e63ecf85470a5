"""MEGABYTE-pytorch: a learned start in place of BOS; its loss is that of every byte of the input,
the first from the start alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hlm.seq import Batch
from tests.parity.common import Subject, rows, subject_of

CASES = ("megabyte",)


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    s = subject_of("megabyte", arrays, meta["config"])

    def batch(x: np.ndarray) -> Batch:
        token = np.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=s.model.codec.bos)
        # a byte of padding is not predicted
        weight = (x != meta["config"].get("pad_id", 0)).astype(float)
        weight[:, -1] = 0
        return rows(token, x, weight, np.stack([s.model.codec.levels(row) for row in token]))

    def logits(params: Any, batch: Batch, step: Any) -> jax.Array:
        out: Any = s.model.apply({"params": params}, batch, method="logits")
        return out[:, 1:, 0]

    return subject_of("megabyte", arrays, meta["config"], batch=batch, logits=logits)
