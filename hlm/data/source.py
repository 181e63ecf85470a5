"""Where text comes from. A source is what a config states; `open()` gives access to its records."""

import dataclasses

from hlm.data.formats.array_record import ArrayRecord
from hlm.data.formats.json_lines import JsonLines
from hlm.data.formats.pieces import cuts
from hlm.data.formats.record import Record, Records, Source
from hlm.data.formats.text import TextFiles
from hlm.data.formats.tfds import Tfds

__all__ = [
    "ArrayRecord",
    "JsonLines",
    "Mixture",
    "Record",
    "Records",
    "Source",
    "TextFiles",
    "Tfds",
    "cuts",
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
