"""Symbols: how text becomes a row of integers and back.

A codec turns bytes into `Encoded` symbols, and symbols back into bytes. It also knows where chunks
end, because the splitter that cuts the text into words is part of how a model reads text. Nothing
here knows rows, batches or devices.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from hlm.split import Splitter

# begin of context, end of document, end of word, masked symbol
BOS, EOS, EOW, MASK = (256, 257, 258, 259)
BYTE_SYMBOLS = 260
EVERY_LEVEL = 255  # the level of BOS: it ends a chunk at every level


class Encoded(NamedTuple):
    """One text as symbols (numpy, all [n]); element 0 is BOS. `token[1:]` are also the targets of
    `token[:-1]`.

    A complete text ends with EOS, which is only ever a target; packing drops it from the inputs.
    """

    token: np.ndarray  # int32
    # uint8: how many levels end after this symbol, from symbols at or before it only
    level: np.ndarray
    nbytes: np.ndarray  # uint8: text bytes that the symbol stands for; 0 for BOS, EOS, EOW
    # int32: what `AuxiliaryLabels` says of each byte; unlike levels, it may look ahead
    label: np.ndarray | None = None
    weight: np.ndarray | None = None  # float32: of each symbol as a target; None: 1
    whole: bool = False  # packing leaves it in one piece if it fits into a row


@runtime_checkable
class AuxiliaryLabels(Protocol):
    """What a part of a model learns from besides the symbols: `marks(text, levels of its bytes)` ->
    int32 [len(text)], 0 for nothing.
    """

    def marks(self, text: bytes, level: np.ndarray) -> np.ndarray: ...


@runtime_checkable
class Codec(Protocol):
    """What an LM needs to know of its symbols."""

    @property
    def bos(self) -> int: ...

    @property
    def eos(self) -> int: ...

    @property
    def size(self) -> int: ...  # rows of the embedding table

    @property
    def predicted(self) -> np.ndarray: ...  # bool [size]: symbols that can be a target

    def encode(self, text: bytes, complete: bool = True) -> Encoded: ...

    # levels of an open symbol stream [n] that starts with BOS
    def levels(self, token: np.ndarray) -> np.ndarray: ...

    def decode(self, tokens: Any) -> bytes: ...


def bytes_of(codec: Codec) -> list[bytes]:
    """What each symbol stands for; empty for those without bytes and for those that are never
    predicted.
    """
    return [
        codec.decode([symbol]) if predicted else b""
        for symbol, predicted in enumerate(codec.predicted)
    ]


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Every byte is a symbol; `split` says where words end; `labels` what a part learns from
    besides.
    """

    split: Splitter
    size: int = BYTE_SYMBOLS
    labels: AuxiliaryLabels | None = None

    @property
    def bos(self) -> int:
        return BOS

    @property
    def eos(self) -> int:
        return EOS

    @property
    def predicted(self) -> np.ndarray:
        ok = np.arange(self.size) < 256
        ok[EOS] = True
        ok[EOW] = self.split.eow
        return ok

    def encode(self, text: bytes, complete: bool = True) -> Encoded:
        """Symbols of `text` after BOS; a complete text closes its last word and ends with EOS, a
        prompt stays open.
        """
        byte = np.frombuffer(text, np.uint8)
        split = self.split.levels(byte, complete)
        # an EOW follows each, and takes its level
        ends = np.flatnonzero(split) if self.split.eow else np.zeros(0, np.int64)
        size = 1 + len(byte) + len(ends) + complete
        token, level, nbytes = (
            np.full(size, EOW, np.int32),
            np.zeros(size, np.uint8),
            np.zeros(size, np.uint8),
        )
        token[0], level[0] = self.bos, EVERY_LEVEL
        if complete:
            token[-1] = self.eos
        eow = ends + 2 + np.arange(len(ends))
        plain = np.ones(size, bool)
        plain[0], plain[eow], plain[size - complete :] = False, False, False
        token[plain], nbytes[plain] = byte, 1
        level[eow if self.split.eow else plain] = split[ends] if self.split.eow else split
        if self.labels is None:
            return Encoded(token, level, nbytes)
        label = np.zeros(size, np.int32)
        label[plain] = self.labels.marks(text, split)
        return Encoded(token, level, nbytes, label)

    def levels(self, token: np.ndarray) -> np.ndarray:
        level = np.zeros(len(token), np.uint8)
        level[0] = EVERY_LEVEL
        if self.split.eow:
            level[token == EOW] = 1
        else:
            byte = token < min(256, self.bos)
            level[byte] = self.split.levels(token[byte].astype(np.uint8), False)
        return level

    def decode(self, tokens: Any) -> bytes:
        token = np.asarray(tokens)
        return token[token < min(256, self.bos)].astype(np.uint8).tobytes()


@dataclasses.dataclass(frozen=True)
class Renumbered(Bytes):
    """Bytes as other codes number them: byte b is symbol b + `first`; `begin` and `end` are BOS and
    EOS. All symbols are predicted.

    The defaults are BLT's. Where a mark is the number of a byte, texts that hold this byte are
    refused (TFree-HAT).
    """

    first: int = 4
    begin: int = 1
    end: int = 2

    def __post_init__(self):
        if self.split.eow:
            raise ValueError(
                f"Renumbered.split: {self.split} needs a symbol for ends of words, and there "
                "is none"
            )
        if self.size < max(self.first + 256, self.begin + 1, self.end + 1):
            raise ValueError(
                f"Renumbered.size: {self.size} symbols do not hold 256 bytes from "
                f"{self.first} on, {self.begin}, {self.end}"
            )

    @property
    def bos(self) -> int:
        return self.begin

    @property
    def eos(self) -> int:
        return self.end

    @property
    def predicted(self) -> np.ndarray:
        return np.ones(self.size, bool)

    def encode(self, text: bytes, complete: bool = True) -> Encoded:
        for mark in (self.begin, self.end):
            if 0 <= mark - self.first < 256 and mark - self.first in text:
                raise ValueError(
                    f"text: holds a byte {mark - self.first}, which is symbol {mark} and kept "
                    "for BOS or EOS; decode it first"
                )
        plain = Bytes(self.split, labels=self.labels).encode(text, complete)
        special = np.where(plain.token == EOS, self.end, self.begin)
        return plain._replace(
            token=np.where(plain.token < 256, plain.token + self.first, special).astype(np.int32)
        )

    def levels(self, token: np.ndarray) -> np.ndarray:
        return Bytes(self.split).levels(self._plain(token))

    def decode(self, tokens: Any) -> bytes:
        return Bytes(self.split).decode(self._plain(np.asarray(tokens)))

    def _plain(self, token: np.ndarray) -> np.ndarray:
        """As `Bytes` numbers them."""
        byte = (
            (token >= self.first)
            & (token < self.first + 256)
            & (token != self.begin)
            & (token != self.end)
        )
        return np.where(byte, token - self.first, EOS)


def utf8(split: Splitter) -> Renumbered:
    """256 symbols: BOS and EOS are the bytes 254 and 255, which no UTF-8 text holds (H-Net,
    MEGABYTE-pytorch).
    """
    return Renumbered(split, size=256, first=0, begin=254, end=255)


def utf8_mark(split: Splitter) -> Renumbered:
    """256 symbols, of which byte 255 begins and ends documents (SpaceByte)."""
    return Renumbered(split, size=256, first=0, begin=255, end=255)


def bytes258(split: Splitter) -> Renumbered:
    """Bytes, BOS and EOS, all of them predicted (AU-Net as released)."""
    return Renumbered(split, size=EOS + 1, first=0, begin=BOS, end=EOS)


@dataclasses.dataclass(frozen=True)
class Characters(Bytes):
    """Bytes below `known`, and texts that never end: models of one stream of characters (dynamic
    token pooling).
    """

    known: int = 256
    size: int = BOS + 1

    def __post_init__(self):
        if not 0 < self.known <= BOS or self.size <= BOS:
            raise ValueError(
                f"Characters.known, size: {self.known} of {self.size} symbols; known is 1 to "
                f"256 and BOS is symbol {BOS}"
            )
        if self.split.eow:
            raise ValueError(
                f"Characters.split: {self.split} needs a symbol for ends of words, and there "
                "is none"
            )

    @property
    def predicted(self) -> np.ndarray:
        return np.arange(self.size) < self.known

    def encode(self, text: bytes, complete: bool = True) -> Encoded:
        if text and max(text) >= self.known:
            raise ValueError(f"text: byte {max(text)} is none of the model's {self.known} symbols")
        return super().encode(text, False)
