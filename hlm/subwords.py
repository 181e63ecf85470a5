"""Subwords: a codec whose symbols are pieces of text, and pieces as labels for models of bytes. By
the `tokenizers` library.
"""

import abc
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers

from hlm.vocab import EVERY_LEVEL, Encoded

# The alphabet of byte-level BPE: a printable character for every byte (Radford et al. 2019), so
# that any bytes survive `tokenizers`.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_ALPHABET = {b: chr(b) for b in _PRINTABLE} | {
    b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}
_TO_ALPHABET = str.maketrans({chr(b): c for b, c in _ALPHABET.items()})
_FROM_ALPHABET = {c: b for b, c in _ALPHABET.items()}
_SPECIAL = ("<bos>", "<eos>")
_TRAINER: dict[str, Any] = dict(  # what trainers of all kinds are given
    initial_alphabet=sorted(_FROM_ALPHABET), special_tokens=list(_SPECIAL), show_progress=False
)
# To `WordPieces` all ASCII white space is a newline: unlike a space, it is never the beginning of a
# longer piece.
_BLANK = ord("\n")
_BLANKS = bytes(_BLANK if bytes([b]).isspace() else b for b in range(256))


@dataclasses.dataclass(frozen=True)
class Subwords(abc.ABC):
    """Base of BPE and Unigram: learned pieces of words, for any bytes; a symbol counts as many
    bytes as it stands for.

    `tokenizer` is the JSON text of the `tokenizers` library, kept whole so that a checkpoint needs
    no other file. `size` may exceed the trained vocabulary (rows that are never predicted), which
    keeps tables divisible.
    """

    tokenizer: str = dataclasses.field(repr=False)
    size: int

    def __post_init__(self):
        if len(self._bytes_of) > self.size:
            raise ValueError(
                f"{type(self).__name__}.size: {self.size} is less than the tokenizer's "
                f"{len(self._bytes_of)} symbols"
            )

    @staticmethod
    @abc.abstractmethod
    def train(texts: Iterable[bytes], size: int) -> "Subwords":
        """Learn pieces from texts."""

    @property
    def bos(self) -> int:
        return 0  # `_SPECIAL` come first in the vocabulary

    @property
    def eos(self) -> int:
        return 1

    @functools.cached_property
    def _model(self) -> Any:
        return _read_tokenizer(self.tokenizer)

    @functools.cached_property
    def _bytes_of(self) -> list[bytes]:
        vocabulary = self._model.get_vocab()
        return [
            b"" if piece in _SPECIAL else bytes(_FROM_ALPHABET[c] for c in piece)
            for piece, _ in sorted(vocabulary.items(), key=lambda item: item[1])
        ]

    @functools.cached_property
    def _nbytes_of(self) -> np.ndarray:
        return np.array([len(b) for b in self._bytes_of], np.uint8)

    @property
    def predicted(self) -> np.ndarray:
        ok = np.arange(self.size) < len(self._bytes_of)
        ok[self.bos] = False
        return ok

    def encode(self, text: bytes, complete: bool = True) -> Encoded:
        ids = np.array(self._model.encode(_as_text(text)).ids, np.int32)
        token = np.concatenate([[self.bos], ids, [self.eos] if complete else []]).astype(np.int32)
        return Encoded(token, self.levels(token), self._nbytes_of[token])

    def levels(self, token: np.ndarray) -> np.ndarray:
        level = np.zeros(len(token), np.uint8)
        level[0] = EVERY_LEVEL
        return level

    def decode(self, tokens: Any) -> bytes:
        return b"".join(self._bytes_of[t] for t in np.asarray(tokens))

    def follows(self, text: bytes, symbols: np.ndarray) -> np.ndarray:
        """bool [n]: whether `text` and the bytes of a symbol are encoded as `text` is, with that
        symbol behind. Symbols have bytes.

        Only the last word of the text is looked at: the pre-tokenizer reads from left to right, so
        words before it stay as they are.
        """
        splitter, text_ = self._model.pre_tokenizer, _as_text(text)
        words = splitter.pre_tokenize_str(text_) if splitter else [(text_, (0, len(text)))]
        word = words[-1][0] if words else ""
        known = self._model.encode(word).ids
        longer = self._model.encode_batch(
            [word + self._model.id_to_token(int(symbol)) for symbol in symbols]
        )
        return np.array(
            [e.ids == [*known, symbol] for e, symbol in zip(longer, symbols, strict=True)], bool
        )


@dataclasses.dataclass(frozen=True)
class BPE(Subwords):
    """Subwords of a byte-level BPE made by `BPE.train`. `dropout`: BPE-dropout while training (see
    `sample`); whatever else reads text does so without it.
    """

    dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"BPE.dropout: {self.dropout}; give a share of at least 0, below 1")

    @staticmethod
    def train(texts: Iterable[bytes], size: int) -> "BPE":
        """Learn merges from texts.

        Words are a space with the letters, digits (up to three) or punctuation that follow.
        """
        _check_size("BPE", size)
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = _words()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, **_TRAINER)
        model.train_from_iterator((_as_text(t) for t in texts), trainer)
        return BPE(model.to_str(), size)

    def sample(self, text: bytes, complete: bool, rng: np.random.Generator) -> Encoded:
        """`encode` with BPE-dropout (Provilkov et al. 2020, 1910.13267, algorithm 1): before each
        merge of a word, each possible one is left out with probability `dropout`; a word ends when
        none is left. Pure Python: about 0.15 MB/s.
        """
        words = self._model.pre_tokenizer.pre_tokenize_str(_as_text(text))
        parts = [part for word, _ in words for part in self._dropped(word, rng)]
        ids = [self._id_of[part] for part in parts]
        token = np.array([self.bos, *ids, *([self.eos] if complete else [])], np.int32)
        return Encoded(token, self.levels(token), self._nbytes_of[token])

    def _dropped(self, word: str, rng: np.random.Generator) -> list[str]:
        parts = list(word)
        while True:
            pairs = itertools.pairwise(parts)
            possible = [
                (r, i) for i, pair in enumerate(pairs) if (r := self._rank.get(pair, -1)) >= 0
            ]
            draws = rng.random(len(possible))
            kept = [merge for merge, u in zip(possible, draws, strict=True) if u >= self.dropout]
            if not kept:
                return parts
            _, i = min(kept)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]

    @functools.cached_property
    def _rank(self) -> dict[tuple[str, ...], int]:
        """The merges, first ones first."""
        merges = json.loads(self.tokenizer)["model"]["merges"]
        return {tuple(m.split(" ") if isinstance(m, str) else m): i for i, m in enumerate(merges)}

    @functools.cached_property
    def _id_of(self) -> dict[str, int]:
        return self._model.get_vocab()


@dataclasses.dataclass(frozen=True)
class Unigram(Subwords):
    """Subwords of a unigram model (Kudo 2018, 1804.10959): the most probable pieces of each word,
    in place of merges; learned by `Unigram.train`.
    """

    @staticmethod
    def train(texts: Iterable[bytes], size: int) -> "Unigram":
        """Learn pieces and their probabilities from texts, whose words are those of `BPE.train`."""
        _check_size("Unigram", size)
        model = tokenizers.Tokenizer(tokenizers.models.Unigram())
        model.pre_tokenizer = _words()
        trainer = tokenizers.trainers.UnigramTrainer(vocab_size=size, **_TRAINER)
        model.train_from_iterator((_as_text(t) for t in texts), trainer)
        return Unigram(model.to_str(), size)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """1, for an end, at the first byte of every piece of a tokenizer (dynamic pooling); first
    because the space stands before its word.

    `tokenizer`: JSON text of the `tokenizers` library over the alphabet of byte-level BPE: that of
    `BPE.train`, or of a Unigram model.
    """

    tokenizer: str = dataclasses.field(repr=False)

    @functools.cached_property
    def _model(self) -> Any:
        return _read_tokenizer(self.tokenizer)

    def marks(self, text: bytes, level: np.ndarray) -> np.ndarray:
        mark = np.zeros(len(text), np.int32)
        mark[
            [
                start
                for start, _ in self._model.encode(_as_text(text), add_special_tokens=False).offsets
            ]
        ] = 1
        return mark


@dataclasses.dataclass(frozen=True)
class WordPieces:
    """1 + the number of the piece that begins at each byte, of the pieces of words without white
    space (Byte2Word).

    No piece goes beyond the end of a level-1 chunk. `tokenizer` is the JSON text of
    `WordPieces.train`.
    """

    tokenizer: str = dataclasses.field(repr=False)

    @staticmethod
    def train(texts: Iterable[bytes], size: int) -> "WordPieces":
        """Learn up to `size` pieces from the words of these texts."""
        return WordPieces(BPE.train((text.translate(_BLANKS) for text in texts), size).tokenizer)

    @functools.cached_property
    def _model(self) -> Any:
        return _read_tokenizer(self.tokenizer)

    @property
    def size(self) -> int:
        return self._model.get_vocab_size()

    def marks(self, text: bytes, level: np.ndarray) -> np.ndarray:
        byte = np.frombuffer(text.translate(_BLANKS), np.uint8)
        ends = np.flatnonzero(level)
        apart = np.insert(byte, ends + 1, _BLANK)  # no piece goes across a blank
        found = self._model.encode(_as_text(apart.tobytes()), add_special_tokens=False)
        start = np.fromiter((start for start, _ in found.offsets), np.int64, len(found.ids))
        kept = apart[start] != _BLANK
        start = start[kept]
        # blanks that were put in before it
        start -= np.searchsorted(ends + 1 + np.arange(len(ends)), start)
        mark = np.zeros(len(text), np.int32)
        mark[start] = np.asarray(found.ids, np.int32)[kept] + 1
        return mark


def _as_text(text: bytes) -> str:
    return text.decode("latin-1").translate(_TO_ALPHABET)


def _read_tokenizer(json: str) -> Any:
    model = tokenizers.Tokenizer.from_str(json)
    model.encode_special_tokens = True  # the letters "<eos>" in a text are text
    return model


def _check_size(kind: str, size: int) -> None:
    if size < 256 + len(_SPECIAL):
        raise ValueError(
            f"{kind}.size: {size} is less than the {256 + len(_SPECIAL)} symbols for bytes, BOS "
            "and EOS"
        )


def _words() -> Any:
    """A pre-tokenizer: a space with the letters, digits (up to three) or punctuation behind it."""
    space, blank = _ALPHABET[32], "".join(_ALPHABET[b] for b in [*range(33), 127])
    mark = re.escape("".join(chr(b) for b in range(33, 127) if not chr(b).isalnum()))
    words = f"{space}?[0-9]{{1,3}}|{space}?[^0-9{mark}{blank}]+|{space}?[{mark}]+|[{blank}]+"
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(words), "isolated")
