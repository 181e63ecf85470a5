"""What rows hold: elements of each level in rows that are packed from text, and the room that suits
them.

Room for chunks is static, so a row pays for all of its slots, used or not. Rows are packed from the
config's own text, Moby-Dick if it has none.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from hlm.config import Experiment
from hlm.data.pack import Budget, Packer, Row, stack
from hlm.data.pipeline import documents
from hlm.data.source import TextFiles
from hlm.data.unchosen import Unchosen
from hlm.model.hierarchy import Hierarchy, capacities, levels_of
from hlm.model.lm import init_params
from hlm.seq import Batch, seq_of
from hlm.train import step
from hlm.vocab import Encoded

TEXT = 1_000_000  # bytes of text that rows are packed from, or as much as a row holds
MOBY = TextFiles(paths=("corpus:mobydick/train.txt",))  # for sizes that have no text of their own


@dataclasses.dataclass(frozen=True)
class Rows:
    """What packed rows hold, means over rows: bytes of text, and elements at each level, level 0
    first.
    """

    nbytes: float
    elements: tuple[float, ...]
    known: tuple[str, ...]  # how, for each level


def texts(exp: Experiment, source: Any) -> list[Encoded]:
    """The first texts of a source, `TEXT` bytes together or as much as a row holds, encoded."""
    found, nbytes, elements = [], 0, 0
    for _, text in documents(source):
        found.append(exp.model.codec.encode(text))
        nbytes, elements = nbytes + len(text), elements + len(found[-1].token)
        if nbytes >= TEXT and elements > 2 * exp.data.length:
            break
    return found


def fill(found: list[Encoded], budget: Budget) -> list[Row]:
    """Full rows of texts; what is left over makes none.

    Raises ValueError if they do not fill one.
    """
    packer = Packer(budget)
    rows = [row for text in found for row in packer.add(text)]
    if not rows:
        raise ValueError(
            f"data.length: {budget.length} is longer than the text that rows are measured on"
        )
    return rows


def packed(exp: Experiment, source: Any) -> list[Row]:
    """Full rows of the first texts of a source.

    Raises ValueError if they do not fill one.
    """
    budget = Budget(exp.data.length, capacities(exp.model.trunk))
    return fill(texts(exp, source), budget)


def text_of(exp: Experiment) -> tuple[Any, str]:
    """The source that rows are measured on, and how it is called."""
    if isinstance(exp.data.source, Unchosen):
        return MOBY, "packed Moby-Dick"
    return exp.data.source, "packed text"


def bytes_per_row(rows: list[Row]) -> float:
    return float(np.mean([np.sum(row["nbytes"] * (row["weight"] > 0)) for row in rows]))


def measure(exp: Experiment, params: Any = None, run: bool = True) -> Rows:
    """Rows of the config's own text.

    `params`: of the model, to cut the text with; None: see the module's docstring. `run` False:
    where only the model knows its chunks, it is not run, and they fill their room.
    """
    source, text = text_of(exp)
    rows = packed(exp, source)
    batch = Batch(**stack(rows))
    elements, known = [float(np.sum(batch.doc > 0)) / len(rows)], [text]
    cut: list[float] | None = None
    given = next(
        (ends for o in exp.model.objectives if (ends := o.given_ends(batch)) is not None), None
    )
    for level, hierarchy in enumerate(levels_of(exp.model.trunk), 1):
        if hierarchy.segmenter.from_levels:
            found: Any = hierarchy.segmenter.apply({}, None, seq_of(batch))
            ends_BL, _, _ = found
            count, how = np.sum(ends_BL & (batch.doc > 0)) / len(rows), text
        elif params is None and given is not None:
            firsts = np.sum(batch.doc.max(axis=1))
            count, how = (
                (np.sum(given & (batch.doc > 0)) + firsts) / len(rows),
                f"examples in {text}",
            )
        elif params is None and (size := aim(exp, hierarchy)) is not None:
            count, how = elements[-1] / size, f"aim: {size:g} elements a chunk"
        elif not run:
            count, how = hierarchy.capacity, "all of its room"
        else:
            cut = cut or chunks(exp, params, rows)
            count, how = cut[level - 1], "untrained model" if params is None else "given parameters"
        elements.append(float(min(count, hierarchy.capacity)))
        known.append(how)
    return Rows(bytes_per_row(rows), tuple(elements), tuple(known))


def aim(exp: Experiment, level: Hierarchy) -> float | None:
    """Elements in a chunk that a segmenter, or an objective that teaches it, is trained towards."""
    taught = (o.target_size for o in exp.model.objectives)
    return next((size for size in (level.segmenter.target_size, *taught) if size is not None), None)


def chunks(exp: Experiment, params: Any, rows: list[Row]) -> list[float]:
    """Chunks per row at each level, as the model cuts the first rows."""
    model, size = exp.model, exp.rows // exp.accumulate
    if params is None:
        params = jax.jit(lambda: init_params(model, exp.data.length, exp.seed))()
    run = jax.jit(lambda params, batch: step.eval_step(model, params, batch))
    found = [
        run(params, Batch(**stack(rows[i : i + size])))
        for i in range(0, min(len(rows), 64) - size + 1, size)
    ]
    names = [
        "above/" * level + "elements_per_chunk" for level in range(len(capacities(model.trunk)))
    ]
    return [
        sum(float(metrics[name].weight) for metrics in found) / size / len(found) for name in names
    ]


SPARE = 1.15  # room of a learned segmenter over what it aims at: rows differ


def room_names(exp: Experiment) -> list[str]:
    """Fields that state the room of each level above the first."""
    levels = range(len(capacities(exp.model.trunk)))
    return ["model.trunk" + ".backbone" * level + ".capacity" for level in levels]


@dataclasses.dataclass(frozen=True)
class Room:
    """Room for chunks by field, the bytes that a row then holds, and about what a byte then costs
    over what it costs now.
    """

    settings: dict[str, int]
    nbytes: float
    cost: float


def better_room(exp: Experiment, rows: Rows, spent: list[float]) -> Room | None:
    """Room for chunks with which a byte costs least, None if that is what there is.

    spent: FLOPs of a row as run, by level; they are taken to follow the room of their level. Rules
    are tried out by packing again; a learned segmenter gets its aim and `SPARE`.
    """
    levels, now = list(levels_of(exp.model.trunk)), capacities(exp.model.trunk)
    if not levels:
        return None
    ruled = [level.segmenter.from_levels for level in levels]
    found = texts(exp, text_of(exp)[0]) if any(ruled) else []
    free = Budget(exp.data.length, (exp.data.length,) * len(now))
    natural = [
        float(np.mean([np.sum(row["level"] >= k) for row in fill(found, free)])) if rule else n
        for k, (rule, n) in enumerate(zip(ruled, rows.elements[1:], strict=True), 1)
    ]
    best = None
    for share in (0.9, 0.95, 1.0, 1.05, 1.1):
        below, room = exp.data.length, []
        for rule, n in zip(ruled, natural, strict=True):
            whole = 32 if n >= 512 else 8
            wanted = n * (share if rule else SPARE)
            below = min(max(round(wanted / whole), 1) * whole, below)
            room.append(below)
        nbytes = rows.nbytes
        if found:
            # what a learned segmenter cuts does not close rows
            limits = tuple(c if r else exp.data.length for c, r in zip(room, ruled, strict=True))
            nbytes = bytes_per_row(fill(found, Budget(exp.data.length, limits)))
        scale = (1.0, *(new / old for new, old in zip(room, now, strict=True)))
        cost = sum(n * s for n, s in zip(spent, scale, strict=True)) / sum(spent)
        cost *= rows.nbytes / nbytes
        if cost < (best.cost if best else 1.0):
            best = Room(dict(zip(room_names(exp), room, strict=True)), nbytes, cost)
    return best
