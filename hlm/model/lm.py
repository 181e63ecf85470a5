"""The language model: symbols -> embedding -> trunk -> heads. The only module that knows symbols
and their likelihood.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from hlm.auxiliary import Aux, Reading, Ready
from hlm.metrics import Metrics
from hlm.model import objective
from hlm.model.embed import Embedding
from hlm.model.heads import Heads, Readout, targets_ahead
from hlm.model.objective import Objective, Seen, Step
from hlm.nn.basic import Norm, RMSNorm
from hlm.nn.stack import Trunk
from hlm.seq import Batch, Seq, seq_of
from hlm.vocab import Codec

Array = jax.Array


@struct.dataclass
class Output:
    """What a forward pass gives: likelihoods, losses and statistics. Logits never leave."""

    nll_BLN: Array  # float32, nats: head i's surprise at the symbol i steps on
    weight_BLN: Array  # float32: zero where there is no such symbol, or none to learn
    hit_BL: Array  # bool: head 1's best guess was right
    nbytes_BL: Array  # uint8: text bytes that head 1 is to predict here
    losses: Metrics  # to be added to head 1's likelihood, each a mean
    metrics: Metrics


class Model(Protocol):
    """What training and evaluation ask of a model: `LM`, or a masked one (hlm/papers/masked.py)."""

    codec: Codec
    trunk: Any
    objectives: Any  # a tuple of Objective
    # predicts what follows, so that texts have a likelihood and can be generated
    causal: ClassVar[bool]
    bits: ClassVar[str]  # how it calls its mean surprise
    accuracy: ClassVar[str]  # and the share of bytes that its best guesses get right

    def __call__(self, batch: Batch, step: Step | None = None) -> Output: ...

    def targets(self, batch: Batch) -> tuple[Array, Array]: ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any: ...


class LM(nn.Module):
    """A causal language model over packed rows. `dtype` is that of the activations; parameters are
    float32.

    `shared`: parameters that layers of all levels read through `Seq.shared`. `objectives`: what
    training wants besides the likelihood of the next symbol (hlm/model/objective.py).
    """

    codec: Codec
    embed: Embedding
    trunk: Trunk
    heads: Readout = dataclasses.field(default_factory=Heads)
    norm: Norm | None = dataclasses.field(default_factory=RMSNorm)
    dtype: str = "float32"
    shared: nn.Module | None = None
    objectives: tuple[Objective, ...] = ()
    causal: ClassVar[bool] = True
    bits: ClassVar[str] = "bits_per_byte"
    accuracy: ClassVar[str] = "byte_accuracy"

    def __call__(self, batch: Batch, step: Step | None = None) -> Output:
        """`step`: of training; None: in evaluation, where losses have their full weight."""
        objective.check(self)
        seq, key = seq_of(batch), self.make_rng("boundary") if self.has_rng("boundary") else None
        y_BLD, aux, longer = self.read_longer(seq, key)
        target_BLN, weight_BLN = self.targets(batch)
        nll_BLN, hit_BL = self.heads(y_BLD, self.codec.predicted, target_BLN)
        objective.everything_taken(self.objectives, aux)
        for o in self.objectives:
            outputs = (y_BLD, longer.get(o), aux, target_BLN, weight_BLN, nll_BLN)
            aux |= o.losses(Seen(self, batch, *outputs, step, key))
        nbytes_BL = jnp.where(weight_BLN[:, :, 0] > 0, batch.nbytes, 0)
        return Output(
            nll_BLN, weight_BLN, hit_BL, nbytes_BL, aux.losses, {**aux.metrics, **aux.losses}
        )

    def read_longer(self, seq: Seq, key: Array | None) -> tuple[Array, Aux, dict[Objective, Array]]:
        """As `read`, of the row that objectives made longer: (outputs of its own elements, Aux, the
        longer row's outputs).
        """
        found = [(o, made) for o in self.objectives if (made := o.lengthen(seq, key)) is not None]
        if len(found) > 1:
            raise ValueError(
                f"objectives: {[o for o, _ in found]} each make rows longer; give one of them"
            )
        if not found:
            return *self.read(seq), {}
        ((o, made),) = found
        y_BMD, aux = self.read(made.seq)
        return made.longer.own(y_BMD), aux, {o: y_BMD}

    def targets(self, batch: Batch) -> tuple[Array, Array]:
        """What each head is to predict, and its weight; [B, L, N]."""
        return targets_ahead(batch, self.heads.ahead)

    def logits(self, batch: Batch) -> Array:
        """Logits of every head [B, L, N, V], float32."""
        return self.heads(self.hidden(batch)[0], self.codec.predicted)

    def advance(self, seq: Seq) -> tuple[Array, Array]:
        """Decode: read the next elements of rows (`seq.decoding`; apply with the collection "cache"
        mutable).

        Returns the logits of every head [B, L, N, V], float32, and which of them are there [B, L]
        bool; those of an element whose chunk waits come with a later call, in the place of its
        first element.
        """
        y_BLD, aux = self.read(seq)
        ready = aux.first(Ready)
        there_BL = seq.doc > 0 if ready is None else ready.there_BL
        return self.heads(y_BLD, self.codec.predicted), there_BL

    def hidden(self, batch: Batch) -> tuple[Array, Aux]:
        """(the decoder's output behind the last norm [B, L, D], Aux)."""
        return self.read(seq_of(batch))

    @nn.compact
    def read(self, seq: Seq) -> tuple[Array, Aux]:
        """As `hidden`, from the symbols alone."""
        if self.shared is not None:
            seq = dataclasses.replace(seq, shared=self.shared())
        y_BLD, aux = self.trunk(self.embed(seq, self.dtype), seq, None)
        if self.norm is None:
            return y_BLD, aux
        # All readings of the decoder go through the norm at once: its scale is made only once.
        others = aux.all(Reading)
        rows_BLD = jnp.concatenate([y_BLD, *(other.y_BLD for other in others)])
        y_BLD, *normed = jnp.split(self.norm(self, rows_BLD, "out"), 1 + len(others))
        left = tuple(
            dataclasses.replace(other, y_BLD=y) for other, y in zip(others, normed, strict=True)
        )
        return y_BLD, aux.without(Reading) | Aux(left=left)


def init_params(model: Any, length: int, seed: int) -> Any:
    """Fresh parameters.

    Call it under `jax.eval_shape` for their shapes, under `jax.jit` for the real thing.
    """
    ints, small = jnp.zeros((1, length), jnp.int32), jnp.zeros((1, length), jnp.uint8)
    batch = Batch(
        token=ints,
        doc=ints,
        level=small,
        target=ints,
        weight=jnp.zeros((1, length)),
        nbytes=small,
        label=ints,
    )
    return model.init({"params": jax.random.key(seed), "boundary": jax.random.key(0)}, batch)[
        "params"
    ]


def abstract_params(model: Any, length: int) -> Any:
    """Shapes and dtypes of the parameters."""
    return jax.eval_shape(lambda: init_params(model, length, 0))
