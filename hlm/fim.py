"""Texts with a gap (fill-in-the-middle): how a model learns to fill it, and how it is asked to.

A text with a gap is read with its end first (Bavarian et al. 2022, arXiv 2207.14255, "SPM"):

    BOS SUFFIX what comes after the gap PREFIX what comes before it and then what belongs in it EOS

No symbol stands between what comes before the gap and what belongs in it, so a word or a character
that the gap cuts goes on in it: its chunk stays open as in any other prompt.
"""

import dataclasses
from typing import Any

import numpy as np

from hlm.vocab import EVERY_LEVEL, Codec, Encoded


@dataclasses.dataclass(frozen=True)
class FIMCodec:
    """The symbols of `codec`, and SUFFIX and PREFIX behind them. Each of the two ends a chunk at
    every level, and splitting starts anew.

    They are never predicted, so texts without a gap are as likely as they would be without them.
    """

    codec: Codec

    def __post_init__(self):
        if dropout := getattr(self.codec, "dropout", 0.0):
            raise ValueError(f"FIMCodec.codec.dropout: {dropout}, which gaps do not have; give 0")
        if not (self.codec.eos < self.codec.size and self.codec.predicted[self.codec.eos]):
            raise ValueError(
                f"FIMCodec.codec: {self.codec} never predicts EOS, so what is written into a "
                "gap would never end"
            )

    @property
    def suffix(self) -> int:
        return self.codec.size

    @property
    def prefix(self) -> int:
        return self.codec.size + 1

    @property
    def bos(self) -> int:
        return self.codec.bos

    @property
    def eos(self) -> int:
        return self.codec.eos

    @property
    def size(self) -> int:
        return self.codec.size + 2

    @property
    def predicted(self) -> np.ndarray:
        return np.append(self.codec.predicted, [False, False])

    def encode(self, text: bytes, complete: bool = True) -> Encoded:
        """A text without a gap."""
        return self.codec.encode(text, complete)

    def encode_infill(self, before: bytes, after: bytes, complete: bool) -> Encoded:
        """A text with a gap between `before` and `after`; `complete`: nothing is missing in it, so
        EOS follows.
        """
        first, second = (
            self.codec.encode(after, complete=False),
            self.codec.encode(before, complete),
        )

        def joined(start: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.concatenate([np.array([start], a.dtype), a, b])

        token = joined(self.bos, first.token, second.token)
        token[1], token[1 + len(first.token)] = self.suffix, self.prefix  # in place of their BOS
        level, nbytes = (
            joined(EVERY_LEVEL, first.level, second.level),
            joined(0, first.nbytes, second.nbytes),
        )
        labels = [e.label for e in (first, second) if e.label is not None]
        label = joined(0, *labels) if labels else None
        return Encoded(
            token, level, nbytes, label, (token < self.codec.size).astype(np.float32), whole=True
        )

    def levels(self, token: np.ndarray) -> np.ndarray:
        marks = np.flatnonzero(token >= self.codec.size)
        # each begins with BOS or in place of it
        parts = np.split(np.where(token < self.codec.size, token, self.bos), marks)
        return np.concatenate([self.codec.levels(part) for part in parts])

    def decode(self, tokens: Any) -> bytes:
        token = np.asarray(tokens)
        return self.codec.decode(token[token < self.codec.size])


@dataclasses.dataclass(frozen=True)
class FIM:
    """Training on texts with a gap: a share `rate` of the records, each by itself; the others are
    read as they are.

    Of two random places between characters the later one is the end of the gap. (Its start is
    nowhere marked: every place before the end is one.) A record that is longer than a row is cut,
    and then what is behind the cut does not see what comes after the gap: give the source a `piece`
    that fits.
    """

    rate: float = 0.5

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"FIM.rate is {self.rate}; give a share above 0 and at most 1")

    def encode(
        self, codec: FIMCodec, text: bytes, complete: bool, rng: np.random.Generator
    ) -> Encoded:
        """A record as it is read this time.

        `complete` is that of records without a gap: one with a gap is a text by itself.
        """
        if rng.random() >= self.rate:
            return codec.encode(text, complete)
        places = between_characters(text)
        end = int(places[rng.integers(len(places), size=2).max()])
        return codec.encode_infill(text[:end], text[end:], complete=True)


@dataclasses.dataclass(frozen=True)
class Infill:
    """A prompt in two parts: what the model writes belongs between them. Its model needs
    `codec=FIMCodec(...)`.

    A part may begin or end inside a character: prefix, what is made and suffix are joined as bytes.
    `stream`, which gives whole characters, shows one that only the suffix would complete as U+FFFD.
    """

    prefix: str | bytes
    suffix: str | bytes


def between_characters(text: bytes) -> np.ndarray:
    """The places where a text may be cut, int64, ascending: before every byte that begins a UTF-8
    character, and at the end.
    """
    return np.append(np.flatnonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80), len(text))
