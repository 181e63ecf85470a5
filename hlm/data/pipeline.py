"""From records of text to batches, with grain: the same seed gives the same batches, and a saved
state goes on bit for bit.

    records -> this process's share -> shuffled anew every epoch, for ever -> encoded -> mixed
        -> packed into rows -> batches

With workers, each takes every n-th record (of a stream, every n-th file) and makes whole batches,
so their number is part of what is reproduced; a run that goes on with another number deals the
records out anew (hlm/data/deal.py). Beside each batch goes how many bytes of each source it holds,
and up to which record; that stays on the host.
"""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from hlm.data.contents import changed, leaves, of_records
from hlm.data.deal import DEAL, UNKNOWN, Deal, Dealt, Numbered, OtherDeal, deal
from hlm.data.in_order import InOrder, shuffled_window
from hlm.data.mix import Drawn, Mix, by_bytes, by_records
from hlm.data.pack import Budget, Packer, Row, stack
from hlm.data.source import Mixture, Prompted, Record, Records, Source, Stream
from hlm.fim import FIM, FIMCodec
from hlm.metrics import Mean, Metrics
from hlm.vocab import Codec, Encoded

# in a row, beside the fields of a batch, int64 [sources] each: bytes of each source, and the
# latest place in its order that has come up to here, -1 if none
READ, LATEST = "read", "latest"


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
    workers: int = 0  # processes that make batches; 0: a thread of this process does
    # read and encode records ahead (for slow storage), in each worker; 0: only when needed
    threads: int = 0
    prefetch: int = 2  # batches kept ready by each worker
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
) -> "Checked":
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

    def begin(deals: Sequence[Deal]) -> grain.DatasetIterator[Row]:
        """Batches from the first one on, of records that were dealt out like this before."""
        parts = []
        for i, (place, _, opened) in enumerate(sources):
            first = range(deals[0].processes) if deals else (process_index,)
            count = deals[0].processes if deals else process_count
            text: Any
            if isinstance(opened, Stream):
                text = streamed(opened, data.shuffle, seed, process_index, process_count, place)
            else:
                orders = [records(opened, data.shuffle, seed, p, count, place) for p in first]
                begun = [deal.begun[i] for deal in deals]
                text = Dealt(orders, deals, begun, process_index, process_count)
            if data.fim is None:
                encoded = text.map(Encode(i, codec))
            elif isinstance(codec, FIMCodec):
                own = () if place == "source" else (place,)
                gaps_seed = small_seed(seed, process_index, "gaps", *own)
                encoded = text.random_map(EncodeFIM(i, codec, data.fim), seed=gaps_seed)
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
    return Checked(begin(()), begin, made_with, names, contents)


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


def streamed(
    opened: Stream,
    shuffle: bool,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    place: str = "source",
) -> grain.IterDataset[Numbered]:
    """`records` of a stream, without places. Shuffled are its files, what can be read apart in
    them, and records near each other.
    """
    own = small_seed(seed, place) if shuffle else None
    text = InOrder(opened, own, process_index, process_count, place)
    return shuffled_window(text, small_seed(seed, process_index, place)) if shuffle else text


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
class EncodeFIM(grain.transforms.RandomMap):
    """A record with a prompt is read without a gap: what is not learned would be what is
    missing.
    """

    source: int  # its number
    codec: FIMCodec
    fim: FIM

    def random_map(self, element: Numbered, rng: np.random.Generator) -> Drawn:
        place, record = element
        if record.prompt:
            return Drawn(self.source, place, encode(self.codec, record))
        encoded = self.fim.encode(self.codec, record.text, record.complete, rng)
        return Drawn(self.source, place, encoded)


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


class Pack(grain.IterDataset[Row]):
    """Encoded texts into rows of a budget, which say how many bytes of each of the `sources` they
    hold, and up to which text.
    """

    def __init__(self, parent: grain.IterDataset[Drawn], budget: Budget, sources: int):
        super().__init__(parent)
        self.budget, self.sources = budget, sources

    def __iter__(self) -> grain.DatasetIterator[Row]:
        return PackIterator(iter(self._parent), self.budget, self.sources)


class PackIterator(grain.DatasetIterator[Row]):
    """Its state is where the next row begins: a row depends on nothing before that, so a few
    numbers are exact.
    """

    def __init__(self, parent: grain.DatasetIterator[Drawn], budget: Budget, sources: int):
        super().__init__(parent)
        self.budget, self.sources = budget, sources
        self.set_state({"parent": parent.get_state(), "skip": 0})

    def __next__(self) -> Row:
        while not self.ready:
            text = self._parent.get_state()
            drawn = next(self._parent)
            encoded = rest(drawn.text, self.skip)
            # symbols of this text in closed rows, once those of older texts are out
            given = self.skip - self.held
            self.held += len(encoded.token) - 1
            for row in self.packer.add(encoded):
                size = int(np.count_nonzero(row["doc"]))
                given, self.held = given + size, self.held - size
                row |= self.beside(row, drawn)
                self.ready.append((row, {"parent": text, "skip": given}))
            self.drawn += [drawn[:2]] * (self.packer.docs - len(self.drawn))
            self.skip = 0
        row, self.begin = self.ready.popleft()
        return row

    def beside(self, row: Row, last: Drawn) -> Row:
        """READ and LATEST of a row that was closed by the text `last`."""
        drawn, self.drawn = self.drawn, []
        begins = np.flatnonzero(np.diff(row["doc"], prepend=0) > 0)
        drawn += [last[:2]] * (len(begins) - len(drawn))
        source, place = np.array(drawn, np.int64).T
        read, latest = np.zeros(self.sources, np.int64), np.full(self.sources, -1, np.int64)
        # of each document, and padding
        np.add.at(read, source, np.add.reduceat(row["nbytes"], begins, dtype=np.int64))
        np.maximum.at(latest, source, place)
        return {READ: read, LATEST: latest}

    def get_state(self) -> dict[str, Any]:
        return self.begin

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["parent"])
        # of the next row: the state before a text, and how many of its symbols are in rows given
        # out
        self.begin = state
        self.skip = state["skip"]
        self.packer = Packer(self.budget)
        self.held = 0  # symbols in the packer's open row
        self.drawn: list[tuple[int, int]] = []  # (source, place) of its documents
        # rows, and the state after each
        self.ready: collections.deque[tuple[Row, dict[str, Any]]] = collections.deque()


def rest(encoded: Encoded, skip: int) -> Encoded:
    """A text without its first symbols, which begins with BOS all the same."""
    if not skip:
        return encoded
    arrays = {
        name: field for name, field in encoded._asdict().items() if isinstance(field, np.ndarray)
    }
    return encoded._replace(
        **{name: np.concatenate([field[:1], field[1 + skip :]]) for name, field in arrays.items()}
    )


def stack_beside(rows: list[Row]) -> Row:
    beside = {READ: np.sum([row[READ] for row in rows], axis=0)}
    return stack(rows) | beside | {LATEST: np.max([row[LATEST] for row in rows], axis=0)}


class Checked(grain.DatasetIterator[Row]):
    """Batches, and what they were made of.

    A state that was saved under other settings is refused: it would go on, but with other data. One
    that was saved with other contents of the files goes on, with a warning. Those of another number
    of processes or workers are for `redeal`.
    """

    def __init__(
        self,
        first: grain.DatasetIterator[Row],
        begin: Callable[[Sequence[Deal]], grain.DatasetIterator[Row]],
        made_with: dict[str, Any],
        names: list[str],
        contents: dict[str, Any],
    ):
        super().__init__(first)
        self.begin, self.deals = begin, list[Deal]()
        self.made_with, self.names, self.contents = made_with, names, contents
        self.newest = np.zeros(len(names), np.int64)
        self.before: dict[str, int] = {}  # bytes of each source before the state that was set
        self.total = np.zeros(len(names), np.int64)  # and since then
        # records of each source that each worker has begun
        self.begun = np.zeros((len(names), max(made_with["workers"], 1)), np.int64)

    def __next__(self) -> Row:
        batch = next(self._parent)
        self.newest = batch.pop(READ)
        self.total += self.newest
        for begun, latest in zip(self.begun, batch.pop(LATEST).tolist(), strict=True):
            if latest >= 0:
                round_, worker = divmod(latest, len(begun))
                begun[worker] = max(begun[worker], round_ + 1)
        return batch

    def read_by_source(self) -> dict[str, int]:
        """Bytes of text of each source in all batches so far, those before a restart too; of this
        process.
        """
        since = dict(zip(self.names, self.total.tolist(), strict=True))
        return {name: self.before.get(name, 0) + since.get(name, 0) for name in self.before | since}

    def shares(self) -> Metrics:
        """Metrics of the newest batch: each source's share of its bytes. Nothing for one source."""
        if len(self.names) == 1:
            return {}
        newest: Any = self.newest.astype(np.float32)
        total = newest.sum()
        return {f"share/{name}": Mean(n, total) for name, n in zip(self.names, newest, strict=True)}

    def get_state(self) -> dict[str, Any]:
        state = {"made_with": self.made_with, "iterator": self._parent.get_state()}
        state |= {"begun": self.begun.tolist(), "deals": [list(deal) for deal in self.deals]}
        return state | {"read": self.read_by_source(), "contents": self.contents}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises OtherDeal if it is of other processes or workers."""
        self.check(state, ())
        self.begin_with([Deal(*deal) for deal in state.get("deals", ())])
        self._parent.set_state(state["iterator"])
        self.before = dict(state.get("read", {}))
        self.total[:] = 0
        self.newest = np.zeros_like(self.total)
        self.begun[:] = state.get("begun", UNKNOWN)

    def redeal(self, states: Sequence[dict[str, Any]]) -> str:
        """Go on from the states of all processes of a run, which were others or had other workers;
        what that means, in one line.

        Raises ValueError if that cannot be.
        """
        for state in states:
            self.check(state, DEAL)
        if self.made_with["streams"]:
            raise ValueError(
                f"data.{self.made_with['streams'][0]} is read file by file, by as many processes "
                "and workers as at the beginning; change them back, or start the data afresh"
            )
        self.begin_with([*(Deal(*d) for d in states[0].get("deals", ())), deal(states)])
        count = self.made_with["process_count"]
        names = dict.fromkeys(name for state in states for name in state.get("read", {}))
        self.before = {
            name: sum(state.get("read", {}).get(name, 0) for state in states) // count
            for name in names
        }
        self.total[:], self.begun[:] = 0, 0
        self.newest = np.zeros_like(self.total)
        old, window = self.deals[-1], self.made_with["window"]
        rows = f" and {window} rows" if window > 1 else ""
        was, now = states[0]["made_with"]["workers"], self.made_with["workers"]
        return (
            f"the data are dealt out anew: processes were {len(states)} and are {count}, workers "
            f"of each were {was} and are {now}; no record comes twice in an epoch, but what was "
            f"not yet read of {old.processes * old.workers} records{rows} is left out"
        )

    def begin_with(self, deals: list[Deal]) -> None:
        if deals != self.deals:
            self._parent.close()
            self._parents, self.deals = (self.begin(deals),), deals

    def check(self, state: dict[str, Any], free: Sequence[str]) -> None:
        """Raises ValueError if a state is of other settings, but for those that are `free`."""
        saved = state["made_with"]
        if self.made_with["mixture"] is not None and "mixture" not in saved:
            raise ValueError(
                "this state of the data is of an older version, which mixed sources "
                "otherwise; start the data afresh"
            )
        other = {
            k: f"{k} was {saved.get(k)!r} and is {now!r}"
            for k, now in self.made_with.items()
            if saved.get(k) != now and k not in free
        }
        if other:
            kind = OtherDeal if all(k in DEAL for k in other) else ValueError
            raise kind(
                f"this state of the data cannot go on here: {', '.join(other.values())}; change "
                "back, or start the data afresh"
            )
        for place, now in self.contents.items():
            what = changed(state.get("contents", {}).get(place, now), now)
            if what:
                warnings.warn(
                    f"data.{place} is not what it was when the state was saved: {what}; the run "
                    "goes on by the numbers of records, so some may come twice in an epoch or not "
                    "at all; --fresh-data begins them anew",
                    stacklevel=3,
                )
