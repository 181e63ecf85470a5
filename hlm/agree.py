"""Agreement of processes: what they decide together, before any of them acts on it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def each(number: int) -> list[int]:
    """What every process gave, by process; all must call it."""
    if jax.process_count() == 1:
        return [number]
    return (
        np.asarray(multihost_utils.process_allgather(np.asarray(number, np.int32))).ravel().tolist()
    )


def known_to_all(numbers: Sequence[int]) -> list[int]:
    """Those numbers that every process gave, largest first; all must call it."""
    if jax.process_count() == 1:
        return sorted(set(numbers), reverse=True)
    room = max(each(len(numbers)))
    padded = np.full(room, -1, np.int32)
    padded[: len(numbers)] = numbers
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(jax.process_count(), room)
    return sorted(set.intersection(*(set(row.tolist()) for row in rows)) - {-1}, reverse=True)


def same(number: int, what: str) -> None:
    """Raises ValueError in every process, naming the numbers, if they differ."""
    found = each(number)
    if len(set(found)) > 1:
        raise ValueError(
            f"{what} differs: " + ", ".join(f"{n} in process {i}" for i, n in enumerate(found))
        )


def first(number: int) -> int:
    """What the first process gave; all must call it."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number, np.int32)))


def total(number: int) -> int:
    """The sum of what all processes gave, up to 2**61; all must call it."""
    return sum(each(number >> 31)) * 2**31 + sum(each(number & (2**31 - 1)))
