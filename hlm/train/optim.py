"""Optimizers from optax, by parameter path. Gains and biases are never decayed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from hlm.config import check_least
from hlm.sharding import keystr, leaf_axes, leaf_name
from hlm.train.schedule import Cosine, Decay


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) after clipping by global norm; linear warm-up to `peak`,
    then `decay` to its final share.

    Parameters below the name `frozen` (a part's given, not its learned knowledge) never change.
    `multipliers`: learning-rate factors by parameter path prefix, for example {"trunk/backbone":
    0.5}; the longest prefix wins.
    """

    peak: float
    warmup: int
    decay: Decay = dataclasses.field(default_factory=Cosine)
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    multipliers: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_least(self, 0, "peak", "warmup", "weight_decay", "clip")

    def learning_rate(self, step: Any, steps: int) -> jax.Array:
        fraction = jnp.clip((step - self.warmup) / max(steps - self.warmup, 1), 0.0, 1.0)
        return self.peak * jnp.minimum((step + 1) / max(self.warmup, 1), 1.0) * self.decay(fraction)

    def direction(self) -> optax.GradientTransformation:
        """Gradients to updates of a size that does not depend on theirs."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)

    def build(self, steps: int) -> optax.GradientTransformation:
        return self.at(lambda step: self.learning_rate(step, steps))

    def at(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The optimizer with a learning rate of its own for each step, in place of warm-up and
        decay.
        """
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            self.direction(),
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
            by_path(self.multipliers),
            optax.scale_by_learning_rate(rate),
        )


@dataclasses.dataclass(frozen=True)
class Muon(AdamW):
    """Muon (Jordan et al. 2024): the momentum of each matrix, made orthogonal by Newton-Schulz
    iterations; AdamW for tables, heads, gains and biases.

    A matrix's updates are scaled to the size of AdamW's (Liu et al. 2025, 2502.16982, section 2.2),
    times `matrices`; so `peak`, decay and multipliers mean what they mean there. Products of the
    iterations cost about 4 * iterations * rows * columns^2 FLOPs a matrix and step, whatever the
    batch.
    """

    matrices: float = 1.0
    momentum: float = 0.95
    iterations: int = 5

    def __post_init__(self):
        super().__post_init__()
        check_least(self, 0, "matrices")
        check_least(self, 1, "iterations")

    def direction(self) -> optax.GradientTransformation:
        return contrib.muon(  # its own rates turn the sign of updates, which `build` does
            learning_rate=-self.matrices,
            adam_learning_rate=-1.0,
            ns_steps=self.iterations,
            beta=self.momentum,
            eps=self.eps,
            adam_b1=self.b1,
            adam_b2=self.b2,
            muon_weight_dimension_numbers=as_matrices,
            consistent_rms=0.2,
        )


# leaf name -> axes that are summed over, axes of the result; other leaves are no matrices for Muon
MATRICES = {
    **dict.fromkeys(("q", "k", "v", "r", "slot"), ((-3,), (-2, -1))),
    "o": ((-3, -2), (-1,)),
    **dict.fromkeys(("gate", "up", "down", "kernel"), ((-2,), (-1,))),
}


def as_matrices(params: Any) -> Any:
    """Which axes of each parameter make a matrix; None where Adam updates it."""

    def one(path: tuple, _: Any) -> contrib.MuonDimensionNumbers | None:
        axes = None if frozen(path) else MATRICES.get(leaf_name(path))
        return None if axes is None else contrib.MuonDimensionNumbers(*axes)

    return jax.tree_util.tree_map_with_path(one, params)


def decayed(params: Any) -> Any:
    """True for matrices and tables, False for gains and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: len(leaf_axes(path)) > 1, params)


def frozen(path: tuple) -> bool:
    """Whether the parameter at this tree path is never trained."""
    return "frozen" in keystr(path).split("/")


def by_path(multipliers: dict[str, float]) -> optax.GradientTransformation:
    """Multiply each update by the factor of its longest matching path prefix; a prefix that matches
    nothing is an error.

    The factor of frozen parameters is 0.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        matched: set[str] = set()

        def one(path: tuple, update: jax.Array) -> jax.Array:
            name = keystr(path)
            found = [p for p in multipliers if name == p or name.startswith(p + "/")]
            matched.update(found)
            if frozen(path):
                return jnp.zeros_like(update)
            return update * multipliers[max(found, key=len)] if found else update

        updates = jax.tree_util.tree_map_with_path(one, updates)
        if unmatched := set(multipliers) - matched:
            raise ValueError(
                f"optim.multipliers: no parameter path starts with {', '.join(sorted(unmatched))}"
            )
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
