"""Dynamic token pooling: BOS before every row, Gumbel noise from the case.

Entropy spikes are examples that hang on the last digits of two entropies; one of them more or less
moves the loss by 0.5 / (B T). There the curve may part from the reference as far as the reference's
float32 parts from its float64.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hlm.model.pool import Mean as MeanPool
from hlm.model.unpool import Broadcast
from hlm.papers.dynamic_pooling import EndLogits, Gumbel, end_loss
from hlm.seq import Batch, boundaries, seq_of
from hlm.split import After, Fixed
from hlm.train.loss import loss_and_metrics
from hlm.vocab import BOS
from tests.parity.common import (
    CURVE,
    LOGITS,
    LOSS,
    Check,
    Subject,
    largest,
    rows_of,
    split,
    subject_of,
    unequal,
)

CASES = ("dp_vanilla", "dp_fixed", "dp_whitespaces", "dp_gumbel", "dp_entropy")
UNITS = ("units_dp",)


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    config = {**meta["config"], "tgt_len": arrays["x"].shape[1] - 1}
    uniform = jnp.asarray(arrays["gumbel_u"], jnp.float32) if "gumbel_u" in arrays else None

    def with_noise(step: Any, f: Any) -> Any:
        """f() with the noise of a step; BOS needs none."""

        def supply(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            if isinstance(context.module, Gumbel) and context.method_name == "uniform":
                # The single forward pass and the first step of the curve have the same noise: the
                # case counts steps from 0.
                return jnp.pad(
                    uniform[jnp.maximum(step - 1, 0)], ((0, 0), (1, 0)), constant_values=0.5
                )
            return call(*arguments, **keywords)

        with nn.intercept_methods(supply):
            return f()

    key = None if uniform is None else jax.random.key(0)  # the noise is another, but there is some

    def logits(params: Any, batch: Any, step: Any) -> Any:
        rngs = {} if key is None else {"boundary": key}
        return with_noise(
            step, lambda: s.model.apply({"params": params}, batch, method="logits", rngs=rngs)
        )[:, 1:, 0, : config["n_token"]]

    def loss(params: Any, batch: Any, step: Any) -> Any:
        return with_noise(step, lambda: loss_and_metrics(s.model, params, batch, None, 1.0, key))[0]

    def aux(batch: Any) -> Iterable[Check]:
        theirs = arrays.get("aux/hard_boundaries", arrays.get("aux/boundaries_gt"))
        if theirs is not None:
            rngs = {} if key is None else {"boundary": key}
            kept = functools.partial(
                s.model.apply,
                method="logits",
                capture_intermediates=lambda _, name: name == "cut",
                mutable=["intermediates"],
            )
            _, state = jax.jit(
                lambda params: with_noise(0, lambda: kept({"params": params}, batch, rngs=rngs))
            )(s.params)
            b, _ = state["intermediates"]["trunk"]["cut"][0]
            yield unequal(
                "boundaries",
                np.asarray(b.ends[:, 1:]),
                theirs.astype(bool)[:, : batch.token.shape[1] - 1],
            )

    def batch(x: np.ndarray) -> Any:
        return rows_of(x, split(s.model, x), bos=BOS)

    own = np.max(np.abs(arrays.get("traj_loss32", 0) - arrays.get("traj_loss64", 0)))
    spikes = config["boundaries_type"] == "entropy" and own > CURVE
    s = subject_of(
        "dynamic_pooling",
        arrays,
        config,
        batch=batch,
        logits=logits,
        loss=loss,
        aux=aux,
        tolerances={"training curve": float(own)} if spikes else {},
        notes={
            "training curve": "ties between entropies: as near as the reference's f32 to its f64"
        }
        if spikes
        else {},
    )
    return s


def units(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    yield from pooling(arrays)
    for name, rule in [(f"fixed{n}", Fixed(n, first=1)) for n in (2, 3, 4)] + [
        ("whitespaces", After((32,)))
    ]:
        ours = [rule.levels(row.astype(np.uint8), False) > 0 for row in arrays["x"]]
        yield unequal(name, ours, arrays[name])
    probs, examples, hard = (jnp.asarray(arrays[f"bp/{name}"]) for name in ("probs", "gt", "hard"))
    yield unequal("decisions", probs > 0.5, hard > 0)
    everywhere = jnp.ones(probs.shape)
    examples_loss = end_loss(EndLogits(probs, everywhere > 0), examples).value()
    yield Check(
        "loss of examples",
        abs(examples_loss - float(arrays["bp/entropy_loss"])),
        LOSS,
        "the probability taken for a logit",
    )
    prior_loss = Gumbel(1, prior=0.2).surprise(hard, everywhere > 0).value()
    yield Check("loss of the prior", abs(prior_loss - float(arrays["bp/gumbel_prior_loss"])), LOSS)


def pooling(arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    """Means of chunks behind the null vector, and the newest of them at every element."""
    hidden_BLD = np.pad(arrays["hidden"].transpose(1, 0, 2), ((0, 0), (1, 0), (0, 0)))  # BOS
    zero_BL = jnp.zeros(hidden_BLD.shape[:2], jnp.int32)
    seq = seq_of(
        Batch(
            token=zero_BL,
            doc=zero_BL + 1,
            level=zero_BL,
            target=zero_BL,
            weight=zero_BL,
            nbytes=zero_BL,
        )
    )
    for name in ("none", "first", "all", "rand", "ragged"):
        ends_BL = np.pad(arrays[f"{name}/boundaries"] > 0, ((0, 0), (1, 0)))
        down_BSD = arrays[f"{name}/down"].transpose(1, 0, 2)
        b, _ = boundaries(jnp.asarray(ends_BL), seq, down_BSD.shape[1])
        params = {"start": jnp.asarray(arrays["null_group"].ravel())}
        z_BSD: Any = MeanPool(None, null=True).apply({"params": params}, jnp.asarray(hidden_BLD), b)
        # Rows with fewer chunks than others have a mean of their open tail there, which no element
        # reads.
        yield Check(
            f"{name}: pool",
            largest(jnp.where(b.used[..., None], z_BSD, down_BSD), down_BSD),
            LOGITS,
        )
        u_BLD: Any = Broadcast(project=False).apply({}, z_BSD, jnp.zeros(hidden_BLD.shape), b)
        yield Check(
            f"{name}: unpool",
            largest(u_BLD[:, 1:], arrays[f"{name}/up"].transpose(1, 0, 2)),
            LOGITS,
        )
