"""Where text comes from. A source is what a config states; `open()` gives access to its records."""

import dataclasses

from hlm.data.formats.array_record import ArrayRecord
from hlm.data.formats.arrow import Arrow
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

    def open(self) -> Records:
        return self.source.stream()


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The first documents of a source: whole ones, as long as they fit into `nbytes`.

    If the first one does not fit, as many of its bytes as do, cut after a word. They are held in
    memory: for validation.
    """

    source: Source
    nbytes: int

    def __post_init__(self):
        if self.nbytes < 1:
            raise ValueError(f"Beginning.nbytes is {self.nbytes}; it must be at least 1")

    def open(self) -> Records:
        opened = self.source.open()
        taken: list[tuple[str, Record]] = []
        document: list[tuple[str, Record]] = []
        left = self.nbytes
        for name, record in opened.named():
            document.append((name, record))
            size = sum(len(piece.text) for _, piece in document)
            if size > left:
                break
            if record.complete:
                taken, document, left = taken + document, [], left - size
        if not taken and document:
            text = b"".join(piece.text for _, piece in document)
            prompt = sum(piece.prompt for _, piece in document)
            end = cuts(text, 0, len(text), self.nbytes)[0]
            taken = [(document[0][0], Record(text[:end], True, min(prompt, end)))]
        return Listed(taken, opened.locations())


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
