"""From records of text to batches, with grain: the same seed gives the same batches, and a saved state goes on bit for bit.

    records -> this process's share -> shuffled anew every epoch, for ever -> mixed -> encoded -> packed into rows -> batches

With workers, each takes every n-th record and makes whole batches of them, so their number is part of what is reproduced.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from hlm.data.pack import Budget, Packer, Row, stack
from hlm.data.source import Mixture, Record, Source
from hlm.fim import FIM, FIMCodec
from hlm.vocab import Codec, Encoded


@dataclasses.dataclass(frozen=True)
class Data:
    """What a config says about training data. Memory for each worker (or the one thread): window rows and 2 * prefetch batches."""

    source: Source | Mixture
    length: int  # elements in a row
    shuffle: bool = True  # records, anew in every epoch; False: in the order of the source
    window: int = 1  # rows that are shuffled together after packing, so that neighbours in a document part; 1: as packed
    workers: int = 0  # processes that make batches; 0: a thread of this process does
    threads: int = 0  # read and encode records ahead (for slow storage), in each worker; 0: only when needed
    prefetch: int = 2  # batches kept ready by each worker
    gaps: FIM | None = None  # some records are read with a gap, for models that fill in

    def __post_init__(self):
        for field, least in (("length", 2), ("window", 1), ("workers", 0), ("threads", 0), ("prefetch", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"Data.{field} is {getattr(self, field)}; it must be at least {least}")


def batches(
    data: Data, codec: Codec, budget: Budget, rows: int, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator[Row]:
    """Endless batches [rows, L] for process `process_index` of `process_count`; `rows` are those of this process.

    `get_state()` is JSON and small; `set_state()` on an iterator made with the same arguments continues exactly after it (only
    `rows`, `threads` and `prefetch` may differ).
    With workers, close the iterator when done, and start the program under `if __name__ == "__main__":` (they import it again).
    """
    if budget.length != data.length:
        raise ValueError(f"budget.length is {budget.length} but Data.length is {data.length}; make the budget from Data.length")
    if rows < 1:
        raise ValueError(f"rows is {rows}; each process needs at least one row of a batch")
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=16 * data.threads)
    text = records(data.source, data.shuffle, seed, process_index, process_count)
    if data.gaps is None:
        encoded = text.map(Encode(codec))
    elif isinstance(codec, FIMCodec):
        encoded = text.random_map(EncodeGaps(codec, data.gaps), seed=small_seed(seed, process_index, "gaps"))
    else:
        raise ValueError(f"Data.gaps: {type(codec).__name__} has no symbols for gaps; give model.codec=hlm.FIMCodec(...)")
    row = Pack(encoded.to_iter_dataset(reading), budget)
    if data.window > 1:
        row = grain.experimental.WindowShuffleIterDataset(
            row, window_size=data.window, seed=small_seed(seed, process_index, "window")
        )
    batch = row.batch(rows, drop_remainder=True, batch_fn=stack)  # type: ignore
    if data.workers:
        if not flags.FLAGS.is_parsed():  # grain 0.2.18 reads a flag that only absl.app would have parsed (its issue 1355)
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(data.workers, per_worker_buffer_size=data.prefetch)
        ready = batch.mp_prefetch(options)
    else:
        ready = grain.experimental.ThreadPrefetchIterDataset(batch, prefetch_buffer_size=data.prefetch)
    made_with = {"seed": seed, "process_index": process_index, "process_count": process_count, "chunks": list(budget.chunks)}
    made_with["gaps"] = data.gaps and dataclasses.asdict(data.gaps)
    made_with |= {field: getattr(data, field) for field in ("length", "shuffle", "window", "workers")}
    return Checked(iter(ready), made_with)


def records(
    source: Source | Mixture, shuffle: bool, seed: int, process_index: int = 0, process_count: int = 1, place: str = "source"
) -> grain.MapDataset[Record]:
    """This process's records, repeated for ever: every record of its share once in each epoch.

    The shares of all processes are disjoint and cover the source. `place` names the source in errors and separates its seed.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}; it must be at least 0 and below process_count {process_count}")
    if isinstance(source, Mixture):
        parts = [
            records(part, shuffle, seed, process_index, process_count, f"{place}.sources[{i}]")
            for i, part in enumerate(source.sources)
        ]
        return grain.MapDataset.mix(parts, source.weights)
    opened = source.open()
    if len(opened) < process_count:
        raise ValueError(
            f"{place} has {len(opened)} records for {process_count} processes, each needs one: {source}; "
            "give more text, a smaller piece or fewer processes"
        )
    share = grain.MapDataset.source(opened)[process_index::process_count]
    if shuffle:
        share = share.shuffle(seed=small_seed(seed, process_index, place))
    return share.repeat()


def documents(source: Source | Mixture) -> Iterator[tuple[str, bytes]]:
    """(name, text) of every whole document once, in the order of the source; of a mixture, one source after the other."""
    if isinstance(source, Mixture):
        for part in source.sources:
            yield from documents(part)
        return
    pieces: list[bytes] = []
    opened = source.open()
    for i, record in enumerate(opened):
        pieces.append(record.text)
        if record.complete:
            yield opened.name(i), b"".join(pieces)
            pieces = []


def small_seed(*parts: int | str) -> int:
    """A seed of 31 bits that depends on all parts."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode()) for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


@dataclasses.dataclass(frozen=True)
class Encode(grain.transforms.Map):
    codec: Codec

    def map(self, element: Record) -> Encoded:
        return self.codec.encode(element.text, complete=element.complete)


@dataclasses.dataclass(frozen=True)
class EncodeGaps(grain.transforms.RandomMap):
    codec: FIMCodec
    gaps: FIM

    def random_map(self, element: Record, rng: np.random.Generator) -> Encoded:
        return self.gaps.encode(self.codec, element.text, element.complete, rng)


class Pack(grain.IterDataset[Row]):
    """Encoded texts into rows of a budget."""

    def __init__(self, parent: grain.IterDataset[Encoded], budget: Budget):
        super().__init__(parent)
        self.budget = budget

    def __iter__(self) -> grain.DatasetIterator[Row]:
        return PackIterator(iter(self._parent), self.budget)


class PackIterator(grain.DatasetIterator[Row]):
    """Its state is where the next row begins: a row depends on nothing before that, so a few numbers are exact."""

    def __init__(self, parent: grain.DatasetIterator[Encoded], budget: Budget):
        super().__init__(parent)
        self.budget = budget
        self.set_state({"parent": parent.get_state(), "skip": 0})

    def __next__(self) -> Row:
        while not self.ready:
            text = self._parent.get_state()
            encoded = rest(next(self._parent), self.skip)
            given = self.skip - self.held  # symbols of this text in closed rows, once those of older texts are out
            self.held += len(encoded.token) - 1
            for row in self.packer.add(encoded):
                size = int(np.count_nonzero(row["doc"]))
                given, self.held = given + size, self.held - size
                self.ready.append((row, {"parent": text, "skip": given}))
            self.skip = 0
        row, self.begin = self.ready.popleft()
        return row

    def get_state(self) -> dict[str, Any]:
        return self.begin

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["parent"])
        self.begin = state  # of the next row: the state before a text, and how many of its symbols are in rows given out
        self.skip = state["skip"]
        self.packer = Packer(self.budget)
        self.held = 0  # symbols in the packer's open row
        self.ready: collections.deque[tuple[Row, dict[str, Any]]] = collections.deque()  # rows, and the state after each


def rest(encoded: Encoded, skip: int) -> Encoded:
    """A text without its first symbols, which begins with BOS all the same."""
    if not skip:
        return encoded
    arrays = {name: field for name, field in encoded._asdict().items() if isinstance(field, np.ndarray)}
    return encoded._replace(**{name: np.concatenate([field[:1], field[1 + skip :]]) for name, field in arrays.items()})


class Checked(grain.DatasetIterator[Row]):
    """Refuses a state that was saved under other settings: it would go on, but with other data."""

    def __init__(self, parent: grain.DatasetIterator[Row], made_with: dict[str, Any]):
        super().__init__(parent)
        self.made_with = made_with

    def __next__(self) -> Row:
        return next(self._parent)

    def get_state(self) -> dict[str, Any]:
        return {"made_with": self.made_with, "iterator": self._parent.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        saved = state["made_with"]
        changed = [f"{k} was {saved.get(k)!r} and is {now!r}" for k, now in self.made_with.items() if saved.get(k) != now]
        if changed:
            raise ValueError(
                f"this state of the data cannot go on here: {', '.join(changed)}; change back, or start the data afresh"
            )
        self._parent.set_state(state["iterator"])
