"""Optimizers from optax, by parameter path. Gains and biases are never decayed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hlm.config import check_least
from hlm.sharding import keystr, leaf_axes
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

    def build(self, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
            by_path(self.multipliers),
            optax.scale_by_learning_rate(lambda step: self.learning_rate(step, steps)),
        )


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
