"""Masked models over words: HLM (Sun et al. 2023, arXiv 2305.14571), and what such models share.

The idea: BERT without a vocabulary. A shallow both-ways encoder reads the characters of each
word, a deep one models words, and whole words are hidden; a last both-ways layer inside each
word, beside the word's vector, spells the hidden characters.

    characters [B, L, D] ── inside a word ── h ── at the word's end ── [B, S, E]
                                             │                         both ways over words
    hidden letters ── inside the word ────── h + w of the own word, at its end

    loss = -sum over hidden letters of log p(letter | all that is not hidden)

Such a model is not causal: it reads the text itself and its targets are the hidden parts of it;
`Batch.target` is not used, and its trunk is a Hierarchy whose segmenter is
`hlm.segment.SeenWithin`. Only letters are hidden, which here are all bytes but ASCII white space.
A word that its row cuts has no chunk: it is neither hidden nor seen. Words of a prompt are
seen, but not hidden.

Where ours differs: the word's vector is that of its end (EOW) in place of a symbol before it;
masking is drawn on the device.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from hlm.auxiliary import Aux
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import Output
from hlm.model.objective import Step
from hlm.nn.basic import weight, zeros
from hlm.nn.projection import project
from hlm.seq import Batch, Boundaries, Seq, boundaries, prefix_noise, seq_of, take
from hlm.vocab import MASK, Bytes, Codec

Array = jax.Array
SYMBOLS = 256  # that may be hidden, and guessed
LETTER = np.array([not bytes([b]).isspace() for b in range(SYMBOLS)])


@dataclasses.dataclass(frozen=True)
class WholeWords:
    """Hides `share` of the words: of these, `masked` are read as MASK, `random` as random bytes,
    and the others as they are.

    What is drawn follows from the key and the document up to the end of the word, or up to the
    byte.
    """

    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(
                f"WholeWords.share: {self.share} of the words; it must be above 0 and at most 1"
            )
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1:
            raise ValueError(
                f"WholeWords.masked, random: {self.masked} and {self.random} of the hidden "
                "words; they share 1 at most"
            )

    def __call__(
        self, key: Array, seq: Seq, b: Boundaries, letter_BL: Array
    ) -> tuple[Array, Array]:
        """(letters that are hidden, bool [B, L]; the symbols to read, int32 [B, L])."""
        word_key, byte_key = jax.random.split(key)
        # below 1: hidden, and its size decides how
        draw_BS = take(prefix_noise(word_key, seq), b.at) / self.share
        draw_BL = take(draw_BS, jnp.minimum(b.member, b.capacity - 1))
        random_BL = jnp.floor(SYMBOLS * prefix_noise(byte_key, seq)).astype(jnp.int32)
        read_BL = jnp.where(draw_BL < self.masked + self.random, random_BL, seq.token)
        read_BL = jnp.where(draw_BL < self.masked, MASK, read_BL)
        hidden_BL = letter_BL & (draw_BL < 1)
        return hidden_BL, jnp.where(hidden_BL, read_BL, seq.token)


@struct.dataclass
class Questions:
    """What is asked about the hidden letters; all [B, L]."""

    asked: Array  # bool: this element has to answer
    answer: Array  # int32: its right answer
    by: Array  # int32: the element that answers for this letter; -1: none


class Answers(Protocol):
    """Heads of a masked model."""

    @property
    def most(self) -> int | None: ...  # answers that a row can be asked for at once

    # ValueError if texts of this codec do not hold the answers
    def check(self, codec: Codec) -> None: ...

    def questions(self, batch: Batch, b: Boundaries, hidden_BL: Array) -> Questions: ...

    def logits(self, y_BLD: Array, batch: Batch, b: Boundaries) -> Array: ...  # float32 [B, L, V]

    def __call__(
        self, y_BLD: Array, batch: Batch, b: Boundaries, q: Questions
    ) -> tuple[Array, Array]:
        """(nats, whether the best guess is right), [B, L]; of no meaning where nothing is asked."""
        ...


class Spell(nn.Module):
    """Letter heads: every hidden letter is guessed at its own element, by a linear layer (HLM)."""

    most: ClassVar[None] = None

    def check(self, codec: Codec) -> None:
        pass

    def questions(self, batch: Batch, b: Boundaries, hidden_BL: Array) -> Questions:
        i_BL = jnp.broadcast_to(
            jnp.arange(hidden_BL.shape[1], dtype=jnp.int32)[None], hidden_BL.shape
        )
        return Questions(hidden_BL, batch.token, i_BL)

    @nn.compact
    def logits(self, y_BLD: Array, batch: Batch, b: Boundaries) -> Array:
        return linear(self, y_BLD, SYMBOLS)

    def __call__(
        self, y_BLD: Array, batch: Batch, b: Boundaries, q: Questions
    ) -> tuple[Array, Array]:
        return surprise(self.logits(y_BLD, batch, b), q.answer)


class MaskedLM(nn.Module):
    """Masked language model over packed rows: guesses the hidden words.

    `dtype` is that of the activations; parameters are float32.
    """

    codec: Codec
    embed: nn.Module
    trunk: Hierarchy
    heads: Any  # Answers
    masking: WholeWords = dataclasses.field(default_factory=WholeWords)
    dtype: str = "float32"
    objectives: ClassVar[tuple] = ()
    causal: ClassVar[bool] = False
    bits: ClassVar[str] = "bits_per_masked_letter"
    accuracy: ClassVar[str] = "masked_accuracy"

    def __call__(self, batch: Batch, step: Step | None = None) -> Output:
        """With words hidden by the generator "mask", or without it always in the same way."""
        return self.guess(batch, *self.draw(batch))

    def guess(self, batch: Batch, hidden_BL: Array, read_BL: Array | None = None) -> Output:
        """With these letters hidden, whole words of them; `read_BL` are the symbols to read (None:
        MASK for what is hidden).
        """
        if read_BL is None:
            read_BL = jnp.where(hidden_BL, MASK, batch.token)
        seq, b = self.words(batch)
        y_BLD, aux = self.read(dataclasses.replace(seq, token=read_BL))
        q = self.heads.questions(batch, b, hidden_BL)
        nats_BL, right_BL = self.heads(y_BLD, batch, b, q)
        by_BL = jnp.maximum(q.by, 0)
        answered_BL = hidden_BL & (q.by >= 0) & take(q.asked, by_BL)
        return Output(
            nll_BLN=nats_BL[..., None],
            weight_BLN=q.asked.astype(jnp.float32)[..., None],
            hit_BL=take(right_BL, by_BL),
            nbytes_BL=answered_BL.astype(jnp.uint8),
            losses=aux.losses,
            metrics={**aux.metrics, **aux.losses},
        )

    def targets(self, batch: Batch) -> tuple[Array, Array]:
        """What is to be predicted, and its weight; [B, L, 1]. ValueError if texts of the codec do
        not hold it.
        """
        if not isinstance(self.codec, Bytes) or self.codec.bos < SYMBOLS or self.codec.size <= MASK:
            raise ValueError(
                f"codec: {type(self.codec).__name__} has no symbol MASK beside all bytes; "
                "give hlm.Bytes"
            )
        if not self.codec.split.eow:
            raise ValueError(
                f"codec.split: {self.codec.split} leaves the last word of a text open; give "
                "hlm.split.Words(eow=True)"
            )
        self.heads.check(self.codec)
        q = self.heads.questions(batch, self.words(batch)[1], self.draw(batch)[0])
        return q.answer[..., None], q.asked.astype(jnp.float32)[..., None]

    def draw(self, batch: Batch) -> tuple[Array, Array]:
        """(letters that are hidden, the symbols to read)."""
        key = self.make_rng("mask") if self.has_rng("mask") else jax.random.key(0)
        seq, b = self.words(batch)
        return self.masking(key, seq, b, letters(seq, b) & learned(batch, b))

    def words(self, batch: Batch) -> tuple[Seq, Boundaries]:
        seq = seq_of(batch)
        return seq, boundaries(seq.level >= 1, seq, self.trunk.capacity)[0]

    def logits(self, batch: Batch, hidden_BL: Array | None = None) -> Array:
        """Logits of every answer [B, L, 1, V], float32, with these letters hidden (None: with words
        hidden as in a call).
        """
        read_BL = (
            self.draw(batch)[1] if hidden_BL is None else jnp.where(hidden_BL, MASK, batch.token)
        )
        seq, b = self.words(batch)
        y_BLD, _ = self.read(dataclasses.replace(seq, token=read_BL))
        return self.heads.logits(y_BLD, batch, b)[:, :, None]

    def hidden(self, batch: Batch) -> tuple[Array, Aux]:
        """(the decoder's output [B, L, D] for the text as it is, Aux)."""
        return self.read(seq_of(batch))

    def read(self, seq: Seq) -> tuple[Array, Aux]:
        return self.trunk(self.embed(seq, self.dtype), seq, None)


def letters(seq: Seq, b: Boundaries) -> Array:
    """Elements that can be hidden: bool [B, L]."""
    return (
        (seq.token < SYMBOLS)
        & jnp.asarray(LETTER)[jnp.minimum(seq.token, SYMBOLS - 1)]
        & (b.member < b.capacity)
    )


def learned(batch: Batch, b: Boundaries) -> Array:
    """Elements of words that do not end in a prompt: bool [B, L]."""
    own_BL = jnp.pad(batch.weight, ((0, 0), (1, 0)))[:, :-1] > 0  # as the target of the one before
    return take(take(own_BL, b.at), jnp.minimum(b.member, b.capacity - 1))


def linear(module: nn.Module, y: Array, size: int) -> Array:
    """A head of `size` answers with biases, its parameters in `module`; float32."""
    head_D1V = weight(module, "head", (y.shape[-1], 1, size))
    bias_V = weight(module, "bias", (size,), init=zeros)
    return project(y, head_D1V, dtype=jnp.float32)[..., 0, :] + bias_V[None, None]


def surprise(logits: Array, answer: Array) -> tuple[Array, Array]:
    """(nats of the answer, whether it is the best guess)."""
    chosen = jnp.take_along_axis(logits, answer[..., None], axis=-1, mode="clip")[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.argmax(logits, axis=-1) == answer
