"""The distribution of the next byte of a text, exactly, whatever the symbols of the model are.

The symbols that a codec makes of a prompt say that it ends there: a model over subwords that has
read "th" has read that no "the" comes. The next byte of an open text has to be summed over all
encodings that can still turn out to be right: its cover, those whose last symbol is the first to
reach its end (Phan et al. 2024, arXiv:2410.09303). Every new byte costs one call of the model.

A model is given as `log_p(streams)`: for every stream of symbols [n], which starts with BOS, the
log-probabilities [n, V] of the symbol after each of its elements. What it gives to symbols that no
encoding has there is left out; what remains is normalised.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hlm.fim import FIMCodec
from hlm.subwords import Subwords
from hlm.vocab import EOW, Bytes, bytes_of

LogP = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
END = 256  # the place of the end of the document behind those of the bytes


@functools.singledispatch
def next_byte(codec: Any, log_p: LogP, text: bytes) -> np.ndarray:
    """Log-probabilities of the 256 bytes that may follow an open text, and of its end: float64
    [257]. One call of the model.
    """
    raise TypeError(
        f"{type(codec).__name__} has no distribution of bytes: register one with "
        "hlm.infer.next_byte.next_byte"
    )


@next_byte.register
def _(codec: Subwords, log_p: LogP, text: bytes) -> np.ndarray:
    return covers(codec, log_p, [text])[0].next_byte()


@next_byte.register
def _(codec: Bytes, log_p: LogP, text: bytes) -> np.ndarray:
    """Every byte is a symbol; where a symbol ends words, some bytes come only behind it."""
    stream = codec.encode(text, complete=False).token
    streams = [stream, np.append(stream, EOW)] if codec.split.eow else [stream]
    after, *after_eow = (np.asarray(log_p_nV[-1], np.float64) for log_p_nV in log_p(streams))
    out = np.full(END + 1, -np.inf)
    for symbol in np.flatnonzero(codec.predicted):
        byte = codec.decode([symbol])
        if byte or symbol == codec.eos:
            longer = (
                codec.encode(text + byte, complete=symbol == codec.eos).token if after_eow else None
            )
            ends = longer is not None and longer[len(stream)] == EOW
            out[byte[0] if byte else END] = (
                after[EOW] + after_eow[0][symbol] if ends else after[symbol]
            )
    return _normalised(out)


@next_byte.register
def _(codec: FIMCodec, log_p: LogP, text: bytes) -> np.ndarray:
    return next_byte(codec.codec, log_p, text)


class Front(NamedTuple):
    """Encodings that end with one symbol behind the same beginning of a text."""

    start: int  # bytes of the beginning
    symbol: np.ndarray  # int [n]: the last symbol; it reaches beyond the text
    log_mass: np.ndarray  # float64 [n]: log-probability of the whole encoding


@dataclasses.dataclass(frozen=True)
class Cover:
    """The encodings that an open text may turn out to have."""

    codec: Subwords = dataclasses.field(repr=False)
    text: bytes
    fronts: tuple[Front, ...] = dataclasses.field(repr=False)
    log_end: float  # log-probability of the text's own encoding and EOS

    def next_byte(self) -> np.ndarray:
        """As the function of this name."""
        byte = np.concatenate(
            [_bytes(self.codec)[f.symbol, len(self.text) - f.start] for f in self.fronts]
            + [np.array([END])]
        )
        log_mass = np.concatenate([f.log_mass for f in self.fronts] + [np.array([self.log_end])])
        top = log_mass.max()
        with np.errstate(divide="ignore"):
            return _normalised(np.log(np.bincount(byte, np.exp(log_mass - top), END + 1)))

    def kept(self, byte: int) -> tuple[Front, ...]:
        """What is left of the fronts when `byte` follows, but for the one encoding that ends with
        it.
        """
        out, ended = [], 0
        for f in self.fronts:
            at = len(self.text) - f.start
            fits = _bytes(self.codec)[f.symbol, at] == byte
            longer = _sizes(self.codec)[f.symbol] > at + 1
            ended += np.count_nonzero(fits & ~longer)
            if (fits & longer).any():
                out.append(
                    f._replace(symbol=f.symbol[fits & longer], log_mass=f.log_mass[fits & longer])
                )
        if ended != 1:
            raise ValueError(
                f"{type(self.codec).__name__}.tokenizer: {ended} encodings end with "
                f"{self.text + bytes([byte])!r}, not one; it does not read from left to right"
            )
        return tuple(out)


def covers(codec: Subwords, log_p: LogP, texts: Sequence[bytes]) -> list[Cover]:
    """The cover of each text, by one call of the model with as many streams per text as its longest
    symbol has bytes.
    """
    longest = int(_sizes(codec).max())
    jobs = [
        (i, start)
        for i, text in enumerate(texts)
        for start in range(max(0, len(text) - longest + 1), len(text) + 1)
    ]
    streams = [codec.encode(texts[i][:start], complete=False).token for i, start in jobs]
    fronts: list[list[Front]] = [[] for _ in texts]
    log_end = [0.0] * len(texts)
    for (i, start), stream, log_p_nV in zip(jobs, streams, log_p(streams), strict=True):
        front, log_end[i] = _front(codec, stream, log_p_nV, texts[i], start)
        fronts[i].append(front)
    return [
        Cover(codec, text, tuple(f), end)
        for text, f, end in zip(texts, fronts, log_end, strict=True)
    ]


def extended(log_p: LogP, opened: Sequence[Cover], following: Sequence[int]) -> list[Cover]:
    """Each cover when its text is continued by a byte: one call of the model with one stream per
    text.
    """
    kept = [cover.kept(byte) for cover, byte in zip(opened, following, strict=True)]
    texts = [cover.text + bytes([byte]) for cover, byte in zip(opened, following, strict=True)]
    streams = [
        c.codec.encode(text, complete=False).token for c, text in zip(opened, texts, strict=True)
    ]
    out = []
    for c, text, fronts, stream, log_p_nV in zip(
        opened, texts, kept, streams, log_p(streams), strict=True
    ):
        front, log_end = _front(c.codec, stream, log_p_nV, text, len(text))
        out.append(Cover(c.codec, text, (*fronts, front), log_end))
    return out


def _front(
    codec: Subwords, stream: np.ndarray, log_p_nV: np.ndarray, text: bytes, start: int
) -> tuple[Front, float]:
    """The encodings of `text` and more that begin with `stream`, the encoding of text[:start]; and
    the mass of its end there.
    """
    rest = np.frombuffer(text[start:], np.uint8)
    symbol = np.flatnonzero(
        (_sizes(codec) > len(rest)) & (_bytes(codec)[:, : len(rest)] == rest).all(1)
    )
    symbol = symbol[codec.follows(text[:start], symbol)]
    log_p_nV = np.asarray(log_p_nV, np.float64)
    before = log_p_nV[np.arange(len(stream) - 1), stream[1:]].sum()
    return Front(start, symbol, before + log_p_nV[-1][symbol]), before + log_p_nV[-1][codec.eos]


@functools.cache
def _bytes(codec: Subwords) -> np.ndarray:
    """The bytes of each symbol, int16 [V, longest]; -1 behind the last."""
    pieces = bytes_of(codec)
    out = np.full((len(pieces), max(map(len, pieces)) + 1), -1, np.int16)
    for row, piece in zip(out, pieces, strict=True):
        row[: len(piece)] = list(piece)
    return out


@functools.cache
def _sizes(codec: Subwords) -> np.ndarray:
    """Bytes of each symbol, [V]; 0 for those without."""
    return (_bytes(codec) >= 0).sum(1)


def _normalised(log_mass: np.ndarray) -> np.ndarray:
    top = log_mass.max()
    return log_mass - (top + np.log(np.exp(log_mass - top).sum()))
