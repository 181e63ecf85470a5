"""Records and sources: a record is a piece of text of a size that can be shuffled and dealt out to
machines, a document or a part of a long one.

Bytes come through exactly as they are stored: nothing is decoded, normalised or translated. Only a
byte order mark of UTF-8 that begins a file is left out: it says how text is stored.
"""

import abc
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from hlm.data.formats.files import File


class Record(NamedTuple):
    text: bytes
    # False: the document goes on in the next record, so no EOS belongs after this one
    complete: bool
    prompt: int = 0  # so many bytes at its beginning are read, but not learned


class Prompted(bytes):
    """A whole text. `prompt`: so many bytes at its beginning are read, but not scored."""

    prompt: int

    def __new__(cls, text: bytes, prompt: int = 0) -> "Prompted":
        made = super().__new__(cls, text)
        made.prompt = min(prompt, len(text))
        return made


def prompt_of(text: bytes) -> int:
    """How many of its bytes are not scored."""
    return text.prompt if isinstance(text, Prompted) else 0


class Records(abc.ABC):
    """Random access to records; iterates, and can be pickled to another process, where files are
    opened again.
    """

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Where the record comes from, for people; records of one document share it."""

    def locations(self) -> list[File]:
        """The files that hold the records, in order; none if that is not known."""
        return []

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def named(self) -> Iterator[tuple[str, Record]]:
        """(name, record) of all records, in order."""
        return ((self.name(i), record) for i, record in enumerate(self))


@runtime_checkable
class Source(Protocol):
    def open(self) -> Records: ...
