"""AU-Net of lingua: cuts by the published regular expressions, which look ahead at blanks before a newline where ours do not."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hlm import WordGroups
from tests.parity.common import Check, Subject, rows_of, subject_of, unequal
from tests.unit.test_split import reference_levels

CASES = ("aunet",)
UNITS = ("units_aunet",)


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    config = meta["config"]
    counts = tuple(2**i for i in range(len(config["dimensions"]) - 1))

    def published(x: np.ndarray) -> np.ndarray:
        """Levels [B, T] of the whole text, as the reference cuts it."""
        return np.stack([reference_levels(bytes(row.astype(np.uint8)).decode(), counts) for row in x[:, :-1]])

    def aux(batch: Any) -> Iterable[Check]:
        yield unequal("levels", published(arrays["x"]), arrays["aux/level_mask"])

    return subject_of("aunet", arrays, config, batch=lambda x: rows_of(x, published(x)), aux=aux)


def units(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    for strategy, counts in (("word1", (1,)), ("word12", (1, 2))):
        for i, text in enumerate(meta["texts"]):
            byte = np.frombuffer(text.encode(), np.uint8)
            ours, theirs = WordGroups(counts, longest=1000).levels(byte, True), arrays[f"{strategy}/levels{i}"]
            yield unequal(f"{strategy} {text[:12]!r}", ours, theirs)
