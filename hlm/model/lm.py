"""The language model: symbols -> embedding -> trunk -> heads. The only module that knows symbols and their likelihood."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from hlm.metrics import Metrics
from hlm.model.endings import EndHeads
from hlm.model.heads import Heads, targets_ahead
from hlm.model.hierarchy import Hierarchy
from hlm.model.predicted import TAUGHT, Teacher, mean_of_rows
from hlm.model.registers import Registers
from hlm.model.shortcut import PAST_BACKBONE
from hlm.model.streaming import READY
from hlm.nn.attention import Attention
from hlm.nn.basic import Norm, RMSNorm
from hlm.seq import Batch, Seq, seq_of
from hlm.vocab import Codec

Array = jax.Array


@struct.dataclass
class Output:
    """What a forward pass gives: likelihoods and statistics. Logits never leave."""

    nll_BLN: Array  # float32, nats: head i's surprise at the symbol i steps on
    weight_BLN: Array  # float32: zero where there is no such symbol
    hit_BL: Array  # bool: head 1's best guess was right
    nbytes_BL: Array  # uint8: text bytes that head 1 is to predict here
    metrics: Metrics


class LM(nn.Module):
    """A causal language model over packed rows. `dtype` is that of the activations; parameters are float32.

    `shared`: parameters that layers of all levels read through `Seq.shared`. `teacher` sets the examples for a segmenter that learns from
    them (hlm/model/predicted.py). `registers` adds an objective to training, for a trunk of full attention (hlm/model/registers.py).
    """

    codec: Codec
    embed: nn.Module
    trunk: nn.Module
    heads: Heads | EndHeads = dataclasses.field(default_factory=Heads)
    norm: Norm | None = dataclasses.field(default_factory=RMSNorm)
    dtype: str = "float32"
    shared: nn.Module | None = None
    teacher: Teacher | None = None
    registers: Registers | None = None
    causal: ClassVar[bool] = True  # predicts what follows, so that texts have a likelihood and can be generated
    bits: ClassVar[str] = "bits_per_byte"  # how it calls its mean surprise
    accuracy: ClassVar[str] = "byte_accuracy"  # and the share of bytes that its best guesses get right

    @property
    def loss_weights(self) -> np.ndarray:
        """Of the heads [N]."""
        return self.heads.loss_weights

    def __call__(self, batch: Batch) -> Output:
        y_BLD, metrics = self.hidden(batch) if self.registers is None else self.with_registers(self.registers, batch)
        if (self.teacher is None) == (TAUGHT in metrics):
            raise ValueError("teacher: give LM.teacher if and only if the segmenter learns from examples (hlm.Predicted)")
        if self.teacher is not None:
            metrics = self.teacher(metrics, self.heads(y_BLD, self.codec.predicted)[:, :, 0], batch)
        target_BLN, weight_BLN = self.targets(batch)
        nll_BLN, hit_BL = self.heads(y_BLD, self.codec.predicted, target_BLN)
        metrics = self.heads.losses(metrics, y_BLD, self.codec.predicted, target_BLN)
        if PAST_BACKBONE in metrics:
            past = metrics.pop(PAST_BACKBONE)
            past_BLN, _ = self.heads(past.total, self.codec.predicted, target_BLN)
            metrics["loss/shortcut"] = mean_of_rows(past.weight * past_BLN[:, :, 0], weight_BLN[:, :, 0])
        nbytes_BL = jnp.where(weight_BLN[:, :, 0] > 0, batch.nbytes, 0)
        return Output(nll_BLN, weight_BLN, hit_BL, nbytes_BL, metrics)

    def targets(self, batch: Batch) -> tuple[Array, Array]:
        """What each head is to predict, and its weight; [B, L, N]."""
        return targets_ahead(batch, self.heads.ahead)

    def logits(self, batch: Batch) -> Array:
        """Logits of every head [B, L, N, V], float32."""
        return self.heads(self.hidden(batch)[0], self.codec.predicted)

    def advance(self, seq: Seq) -> tuple[Array, Array]:
        """Read the next elements of rows that are read piece by piece (`seq.stream`; apply with the collection "cache" mutable).

        Returns the logits of every head [B, L, N, V], float32, and which of them are there [B, L] bool; those of an element whose chunk
        waits come with a later call, in the place of its first element.
        """
        y_BLD, metrics = self.read(seq)
        there_BL = metrics[READY].total if READY in metrics else seq.doc > 0
        return self.heads(y_BLD, self.codec.predicted), there_BL

    def hidden(self, batch: Batch) -> tuple[Array, Metrics]:
        """The decoder's output after the last norm [B, L, D]."""
        return self.read(seq_of(batch))

    def with_registers(self, registers: Registers, batch: Batch) -> tuple[Array, Metrics]:
        """As `hidden`, and in training the registers' loss."""
        mixer = getattr(getattr(self.trunk, "block", None), "mixer", None)
        if not isinstance(mixer, Attention) or mixer.window is not None:
            raise ValueError("registers: need a trunk Stack(depth, Block(Attention(...), ...)) without window")
        if registers.symbol >= self.codec.size:
            raise ValueError(f"registers.symbol: {registers.symbol} is none of the codec's {self.codec.size} symbols")
        if not self.has_rng("boundary"):
            return self.hidden(batch)
        seq = seq_of(batch)
        ahead_BL = registers.ahead(self.make_rng("boundary"), seq)
        y_BMD, metrics = self.read(registers.beside(seq, ahead_BL))
        target_BL, weight_BL = registers.targets(batch, ahead_BL)
        target_BLN = jnp.repeat(target_BL[:, :, None], self.heads.ahead, axis=2)
        nll_BL = self.heads(y_BMD[:, 1::2], self.codec.predicted, target_BLN)[0][:, :, 0]
        return y_BMD[:, ::2], {**metrics, "loss/registers": mean_of_rows(registers.loss_weight * nll_BL, weight_BL)}

    @nn.compact
    def read(self, seq: Seq) -> tuple[Array, Metrics]:
        """As `hidden`, from the symbols alone."""
        if self.shared is not None:
            seq = seq.replace(shared=self.shared())  # pyright: ignore[reportAttributeAccessIssue]
        y_BLD, metrics = self.trunk(self.embed(seq, self.dtype), seq, None)
        if PAST_BACKBONE not in metrics:
            return (y_BLD if self.norm is None else self.norm(self, y_BLD, "out")), metrics
        past = metrics[PAST_BACKBONE]
        both = jnp.concatenate([y_BLD, past.total], axis=0)
        y_BLD, past_BLD = jnp.split(both if self.norm is None else self.norm(self, both, "out"), 2)
        return y_BLD, metrics | {PAST_BACKBONE: past.replace(total=past_BLD)}  # pyright: ignore[reportAttributeAccessIssue]


def init_params(model: nn.Module, length: int, seed: int) -> Any:
    """Fresh parameters. Call it under `jax.eval_shape` for their shapes, under `jax.jit` for the real thing."""
    ints, small = jnp.zeros((1, length), jnp.int32), jnp.zeros((1, length), jnp.uint8)
    batch = Batch(token=ints, doc=ints, level=small, target=ints, weight=jnp.zeros((1, length)), nbytes=small, example=ints)
    return model.init({"params": jax.random.key(seed), "boundary": jax.random.key(0)}, batch)["params"]


def abstract_params(model: nn.Module, length: int) -> Any:
    """Shapes and dtypes of the parameters."""
    return jax.eval_shape(lambda: init_params(model, length, 0))


def capacities(trunk: Any) -> tuple[int, ...]:
    """Chunks per row at each level, outermost first."""
    return (trunk.capacity, *capacities(trunk.backbone)) if isinstance(trunk, Hierarchy) else ()
