"""Dynamic token pooling: BOS before every row, Gumbel noise from the case. Entropy spikes hang on the last digit of two logits."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.model.predicted import Gumbel
from hlm.train.loss import head_weight, loss_and_metrics
from hlm.vocab import BOS
from tests.parity.common import Check, Subject, rows_of, split, subject_of, unequal

CASES = ("dp_vanilla", "dp_fixed", "dp_whitespaces", "dp_gumbel", "dp_entropy")


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    config = {**meta["config"], "tgt_len": arrays["x"].shape[1] - 1}
    uniform = jnp.asarray(arrays["gumbel_u"], jnp.float32) if "gumbel_u" in arrays else None

    def with_noise(step: Any, f: Any) -> Any:
        """f() with the noise of a step; BOS needs none."""

        def supply(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            if isinstance(context.module, Gumbel) and context.method_name == "uniform":
                # The single forward pass and the first step of the curve have the same noise: the case counts steps from 0.
                return jnp.pad(uniform[jnp.maximum(step - 1, 0)], ((0, 0), (1, 0)), constant_values=0.5)
            return call(*arguments, **keywords)

        with nn.intercept_methods(supply):
            return f()

    key = None if uniform is None else jax.random.key(0)  # the noise is another, but there is some

    def logits(params: Any, batch: Any, step: Any) -> Any:
        rngs = {} if key is None else {"boundary": key}
        return with_noise(step, lambda: s.model.apply({"params": params}, batch, method="logits", rngs=rngs))[:, 1:, 0, : config["n_token"]]

    def loss(params: Any, batch: Any, step: Any) -> Any:
        return with_noise(step, lambda: loss_and_metrics(s.model, params, batch, head_weight(s.model, batch), 1.0, key))[0]

    def aux(batch: Any) -> Iterable[Check]:
        theirs = arrays.get("aux/hard_boundaries", arrays.get("aux/boundaries_gt"))
        if theirs is not None:
            rngs = {} if key is None else {"boundary": key}
            _, state = with_noise(
                0,
                lambda: s.model.apply(
                    {"params": s.params},
                    batch,
                    rngs=rngs,
                    method="logits",
                    capture_intermediates=lambda _, name: name == "cut",
                    mutable=["intermediates"],
                ),
            )
            b, _ = state["intermediates"]["trunk"]["cut"][0]
            yield unequal("boundaries", np.asarray(b.ends[:, 1:]), theirs.astype(bool)[:, : batch.token.shape[1] - 1])

    def batch(x: np.ndarray) -> Any:
        return rows_of(x, split(s.model, x), bos=BOS)

    s = subject_of("dynamic_pooling", arrays, config, batch=batch, logits=logits, loss=loss, aux=aux)
    return s
