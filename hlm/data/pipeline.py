"""From records of text to batches, with grain: the same seed gives the same batches, and a saved
state goes on bit for bit.

    records -> this process's share -> shuffled anew every epoch, for ever -> encoded -> mixed
        -> packed into rows -> batches

With workers, each takes every n-th record (of a stream, every n-th file) and makes whole batches,
so their number is part of what is reproduced; a run that goes on with another number deals the
records out anew (hlm/data/deal.py and, for streams, parts.py). Beside each batch goes how many
bytes of each source it holds, and up to which record; that stays on the host.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from hlm.config import free
from hlm.data import in_order
from hlm.data.contents import leaves, of_records
from hlm.data.deal import Deal, Dealt, Numbered
from hlm.data.in_order import InOrder
from hlm.data.mix import Drawn, Mix, by_bytes, by_records
from hlm.data.pack import Budget, Row
from hlm.data.parts import Behind
from hlm.data.resumable import Resumable
from hlm.data.rows import Pack, stack_beside
from hlm.data.source import Mixture, Prompted, Record, Records, Source, Stream
from hlm.fim import FIM, FIMCodec
from hlm.subwords import BPE
from hlm.vocab import Codec, Encoded


@dataclasses.dataclass(frozen=True)
class Data:
    """What a config says about training data.

    Memory for each worker (or the one thread): window rows and 2 * prefetch batches.
    """

    source: Source | Mixture
    length: int  # elements in a row
    shuffle: bool = True  # records, anew in every epoch; False: in the order of the source
    # rows that are shuffled together after packing, so that neighbours in a document part; 1: as
    # packed
    window: int = 1
    # processes that make batches; 0: a thread of this process does
    workers: int = free(0, "the order of records, in tests/unit/test_pipeline.py: it takes seconds")
    # read and encode records ahead (for slow storage), in each worker; 0: only when needed
    threads: int = free(0, "speed only")
    prefetch: int = free(2, "speed only")  # batches kept ready by each worker
    fim: FIM | None = None  # some records are read with a gap, for models that fill in

    def __post_init__(self):
        for field, least in (
            ("length", 2),
            ("window", 1),
            ("workers", 0),
            ("threads", 0),
            ("prefetch", 1),
        ):
            if getattr(self, field) < least:
                raise ValueError(
                    f"Data.{field} is {getattr(self, field)}; it must be at least {least}"
                )


def batches(
    data: Data,
    codec: Codec,
    budget: Budget,
    rows: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Resumable:
    """Endless batches [rows, L] for process `process_index` of `process_count`; `rows` are those of
    this process.

    `get_state()` is JSON and small; `set_state()` on an iterator made with the same arguments
    continues exactly after it (only `rows`, `threads` and `prefetch` may differ). With workers,
    close the iterator when done, and start the program under `if __name__ == "__main__":` (they
    import it again).
    """
    if budget.length != data.length:
        raise ValueError(
            f"budget.length is {budget.length} but Data.length is {data.length}; make the "
            "budget from Data.length"
        )
    if rows < 1:
        raise ValueError(f"rows is {rows}; each process needs at least one row of a batch")
    reading = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=16 * data.threads)
    sources = [(place, name, source.open()) for place, name, source in leaves(data.source)]
    made_with = {
        "seed": seed,
        "process_index": process_index,
        "process_count": process_count,
        "chunks": list(budget.chunks),
    }
    made_with["gaps"] = data.fim and dataclasses.asdict(data.fim)
    made_with |= {
        field: getattr(data, field) for field in ("length", "shuffle", "window", "workers")
    }
    made_with["mixture"] = shape(data.source)
    streams = [place for place, _, opened in sources if isinstance(opened, Stream)]
    made_with["streams"] = streams or None  # as in states that are older than streams
    # records that are shuffled together
    made_with["shuffled"] = in_order.WINDOW if streams and data.shuffle else None

    def begin(deals: Sequence[Deal]) -> grain.DatasetIterator[Row]:
        """Batches from the first one on, of records that were dealt out like this before."""
        parts = []
        for i, (place, _, opened) in enumerate(sources):
            first = range(deals[0].processes) if deals else (process_index,)
            count = deals[0].processes if deals else process_count
            begun = [deal.begun[i] for deal in deals]
            text: Any
            if isinstance(opened, Stream):
                own_seed = small_seed(seed, place) if data.shuffle else None
                reader = process_index, process_count
                text = InOrder(opened, own_seed, *reader, place, deals, begun)
            else:
                orders = [records(opened, data.shuffle, seed, p, count, place) for p in first]
                workers = max(data.workers, 1)
                text = Dealt(orders, deals, begun, process_index, process_count, workers)
            own = () if place == "source" else (place,)
            if data.fim is None and isinstance(codec, BPE) and codec.dropout:
                drawn = EncodeDrawn(i, codec, codec.sample)
                encoded = text.random_map(
                    drawn, seed=small_seed(seed, process_index, "merges", *own)
                )
            elif data.fim is None:
                encoded = text.map(Encode(i, codec))
            elif isinstance(codec, FIMCodec):
                drawn = EncodeDrawn(i, codec, functools.partial(data.fim.encode, codec))
                encoded = text.random_map(drawn, seed=small_seed(seed, process_index, "gaps", *own))
            else:
                raise ValueError(
                    f"Data.fim: {type(codec).__name__} has no symbols for gaps; give "
                    "model.codec=hlm.FIMCodec(...)"
                )
            if not isinstance(opened, Stream):
                encoded = encoded.to_iter_dataset(reading)
            elif data.threads:
                encoded = ahead_of(encoded, 16 * data.threads)
            parts.append(encoded)
        row = Pack(mixed(data.source, iter(parts)), budget, len(parts))
        if data.window > 1:
            row = grain.experimental.WindowShuffleIterDataset(
                row, window_size=data.window, seed=small_seed(seed, process_index, "window")
            )
        batch = row.batch(rows, drop_remainder=True, batch_fn=stack_beside)  # type: ignore
        if data.workers:
            # grain 0.2.18 reads a flag that only absl.app would have parsed (its issue 1355)
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.multiprocessing.MultiprocessingOptions(
                data.workers, per_worker_buffer_size=data.prefetch
            )
            return iter(batch.mp_prefetch(options))
        return iter(ahead_of(batch, data.prefetch))

    names = [name for _, name, _ in sources]
    contents = {place: of_records(opened) for place, _, opened in sources}
    nothing = [Behind() if isinstance(opened, Stream) else 0 for _, _, opened in sources]
    return Resumable(begin(()), begin, made_with, names, contents, nothing)


def records(
    opened: Records,
    shuffle: bool,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    place: str = "source",
) -> grain.MapDataset[Record]:
    """This process's records, repeated for ever: every record of its share once in each epoch.

    The shares of all processes are disjoint and cover the source. `place` names the source in
    errors and separates its seed.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}; it must be at least 0 and below process_count "
            f"{process_count}"
        )
    if len(opened) < process_count:
        raise ValueError(
            f"{place} has {len(opened)} records for {process_count} processes, each needs one: "
            "give more text, a smaller piece or fewer processes"
        )
    share = grain.MapDataset.source(opened)[process_index::process_count]
    if shuffle:
        share = share.shuffle(seed=small_seed(seed, process_index, place))
    return share.repeat()


def ahead_of(parent: grain.IterDataset[Any], elements: int) -> grain.IterDataset[Any]:
    """The same, made by a thread that is so many elements ahead."""
    return grain.experimental.ThreadPrefetchIterDataset(parent, prefetch_buffer_size=elements)


def mixed(
    source: Source | Mixture, parts: Iterator[grain.IterDataset[Drawn]]
) -> grain.IterDataset[Drawn]:
    """The parts, which are those of `leaves(source)`, mixed as `source` says."""
    if not isinstance(source, Mixture):
        return next(parts)
    cost = by_records if source.by_records else by_bytes
    return Mix([mixed(part, parts) for part in source.sources], source.weights, cost)


def shape(source: Source | Mixture) -> dict[str, list[Any]] | None:
    """What a state of the mixture fits to: None for a source that is none."""
    if not isinstance(source, Mixture):
        return None
    return {"records" if source.by_records else "bytes": [shape(part) for part in source.sources]}


Texts = Source | Mixture | Mapping[str, Source | Mixture]  # a set of texts, or several by name


def documents(source: Texts) -> Iterator[tuple[str, Prompted]]:
    """(name, text) of every whole document once, in the order of the source; of a mixture and of
    several sets, one source after the other.
    """
    if isinstance(source, Mapping):
        for part in source.values():
            yield from documents(part)
        return
    if isinstance(source, Mixture):
        for part in source.sources:
            yield from documents(part)
        return
    pieces: list[Record] = []
    for name, record in source.open().named():
        pieces.append(record)
        if record.complete:
            text = b"".join(piece.text for piece in pieces)
            yield name, Prompted(text, sum(piece.prompt for piece in pieces))
            pieces = []


def small_seed(*parts: int | str) -> int:
    """A seed of 31 bits that depends on all parts."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode()) for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


@dataclasses.dataclass(frozen=True)
class Encode(grain.transforms.Map):
    source: int  # its number
    codec: Codec

    def map(self, element: Numbered) -> Drawn:
        place, record = element
        return Drawn(self.source, place, encode(self.codec, record))


@dataclasses.dataclass(frozen=True)
class EncodeDrawn(grain.transforms.RandomMap):
    """A record as symbols that are drawn anew each time it is read: with a gap, in other pieces.

    One with a prompt is read as it is: what is not learned would be what is missing.
    """

    source: int  # its number
    codec: Codec
    draw: Callable[[bytes, bool, np.random.Generator], Encoded]  # of a text, complete or not

    def random_map(self, element: Numbered, rng: np.random.Generator) -> Drawn:
        place, record = element
        if record.prompt:
            return Drawn(self.source, place, encode(self.codec, record))
        return Drawn(self.source, place, self.draw(record.text, record.complete, rng))


def encode(codec: Codec, record: Record) -> Encoded:
    """A record as symbols. Those whose bytes all lie in its prompt have weight 0 as targets.

    A symbol without bytes, such as EOW, counts as the byte before it. EOS is always learned.
    """
    encoded = codec.encode(record.text, complete=record.complete)
    if not record.prompt:
        return encoded
    weight = (np.cumsum(encoded.nbytes, dtype=np.int64) > record.prompt).astype(np.float32)
    if encoded.weight is not None:
        weight *= encoded.weight
    if record.complete and encoded.token[-1] == codec.eos and not encoded.nbytes[-1]:
        weight[-1] = 1
    return encoded._replace(weight=weight)
