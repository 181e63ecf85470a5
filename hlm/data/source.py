"""Where text comes from. A source is what a config states; `open()` gives access to its records."""

import dataclasses

from hlm.data.formats.array_record import ArrayRecord
from hlm.data.formats.arrow import Arrow
from hlm.data.formats.fields import check_types
from hlm.data.formats.files import File
from hlm.data.formats.json_lines import JsonLines
from hlm.data.formats.parquet import Parquet
from hlm.data.formats.pieces import cuts
from hlm.data.formats.record import Prompted, Record, Records, Source, prompt_of
from hlm.data.formats.stream import Stream
from hlm.data.formats.text import TextFiles
from hlm.data.formats.tfds import Tfds

__all__ = [
    "ArrayRecord",
    "Arrow",
    "Beginning",
    "JsonLines",
    "Mixture",
    "Parquet",
    "Prompted",
    "Record",
    "Records",
    "Source",
    "Stream",
    "Streamed",
    "TextFiles",
    "Tfds",
    "cuts",
    "prompt_of",
]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources at once, each repeated as needed; `weights`, of any sum, are shares of bytes.

    Bytes are those of the text that is read: prompts included, symbols such as EOS not. At any
    moment each source has had its share, but for about a record; so it is in each worker of each
    process. by_records: shares of records instead, however long they are. names: of the sources,
    for metrics; None: their numbers.
    """

    sources: tuple["Source | Mixture", ...]
    weights: tuple[float, ...]
    by_records: bool = False
    names: tuple[str, ...] | None = None

    def __post_init__(self):
        check_types(self)
        if not self.sources:
            raise ValueError("Mixture.sources is empty; give at least one source")
        if len(self.weights) != len(self.sources):
            raise ValueError(
                f"Mixture.weights has {len(self.weights)} numbers for {len(self.sources)} "
                "sources; give one for each"
            )
        if not all(0 < w < float("inf") for w in self.weights):
            raise ValueError(
                f"Mixture.weights is {self.weights}; each must be above 0 (leave a source out "
                "to not read it)"
            )
        names = self.names
        if names is not None and (
            not len(self.sources) == len(names) == len(set(names))
            or any(not n or "/" in n for n in names)
        ):
            raise ValueError(
                f"Mixture.names is {names} for {len(self.sources)} sources; give each a name "
                "of its own, without /"
            )


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A source whose files are read one after the other, also where they could be read at random.

    For plain files of terabytes: nothing is read or counted before its turn.
    """

    source: TextFiles | JsonLines | ArrayRecord

    def __post_init__(self):
        if not callable(getattr(self.source, "stream", None)):
            raise ValueError(
                f"Streamed.source is {self.source!r}; it must be TextFiles, JsonLines or "
                "ArrayRecord (others are streams already, or have no files)"
            )

    def open(self) -> Records:
        return self.source.stream()


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The first documents of a source: whole ones, as long as they fit into `nbytes`.

    If the first one does not fit, as many of its bytes as do, cut after a word. With `each`, of
    every document only its first `each` bytes: the beginnings of ten novels in place of one. They
    are held in memory: for validation.
    """

    source: Source
    nbytes: int
    each: int | None = None

    def __post_init__(self):
        check_types(self)
        for name in ("nbytes", "each"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"Beginning.{name} is {value}; it must be at least 1")

    def open(self) -> Records:
        opened = self.source.open()
        taken: list[tuple[str, Record]] = []
        document: list[tuple[str, Record]] = []
        left, room = self.nbytes, self.each
        for name, record in opened.named():
            kept, ends = record, record.complete
            if room is not None:  # without room, the document's end is all that is waited for
                kept = first_bytes(record, room)
                room = 0 if kept != record else room - len(record.text)
            if kept.text or not document:
                document.append((name, kept))
            size = sum(len(piece.text) for _, piece in document)
            if size > left:
                break
            if ends:
                document[-1] = (name, document[-1][1]._replace(complete=True))
                taken, document, left, room = taken + document, [], left - size, self.each
        if not taken and document:
            whole = Record(
                b"".join(piece.text for _, piece in document),
                True,
                sum(piece.prompt for _, piece in document),
            )
            taken = [(document[0][0], first_bytes(whole, self.nbytes))]
        return Listed(taken, opened.locations())


def first_bytes(record: Record, nbytes: int) -> Record:
    """At most `nbytes` of a record, cut after a word."""
    end = cuts(record.text, 0, len(record.text), nbytes)[0] if nbytes else 0
    return Record(record.text[:end], record.complete, min(record.prompt, end))


class Listed(Records):
    """Records that are in memory."""

    def __init__(self, records: list[tuple[str, Record]], files: list[File]):
        self.records, self.files = records, files

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index][1]

    def name(self, index: int) -> str:
        return self.records[index][0]

    def locations(self) -> list[File]:
        return self.files
