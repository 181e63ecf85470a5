"""Lossless verification of drafts: what is kept is distributed as if the model had drawn every
symbol itself, one by one.

A round has K drafts per row and T = K + 1 distributions of the model: log_p_BTV[:, i] is that of
the symbol after the first i drafts, as `log_probabilities` of sampling.py makes it. Greedy needs no
rule of its own: its distributions have all their mass on one symbol. Sources: Stern et al. 2018
(blockwise parallel decoding), Leviathan et al. 2023 (speculative decoding).
"""

import jax
import jax.numpy as jnp

from hlm.infer.sampling import ACCEPT, DRAW, draw, keys

Array = jax.Array


def accept(
    log_p_BTV: Array,
    draft_BK: Array,
    log_q_BKV: Array | None,
    draft_count_B: Array,
    seed: int | Array,
    row_and_length_B2: Array,
) -> tuple[Array, Array]:
    """The number of drafts that are kept, and the symbol that follows them; both int32 [B].

    log_q_BKV: what the drafts were drawn from, after its own temperature; None for drafts that were
    not drawn, whatever they are. draft_count_B: the first so many drafts of a row are meant, 0 to
    K. Seed, row and length: as of `next_symbol`, the length before the drafts. Drawn drafts must
    have used other keys (DRAFT). Without log_q the symbols are those that `next_symbol` gives
    without drafts.
    """
    K = draft_BK.shape[1]
    if log_p_BTV.shape[1] != K + 1:
        raise ValueError(
            f"log_p: {log_p_BTV.shape[1]} distributions for {K} drafts; give one more than drafts"
        )

    def keys_at(i: Array, use: int) -> Array:
        return keys(seed, row_and_length_B2 + jnp.stack([jnp.zeros_like(i), i], axis=1), use)

    step = jnp.broadcast_to(jnp.arange(K + 1), (*draft_BK.shape[:1], K + 1))
    if log_q_BKV is None:
        symbol_BT = jax.vmap(lambda i, log_p: draw(keys_at(i, DRAW), log_p), in_axes=1, out_axes=1)(
            step, log_p_BTV
        )
        return match(symbol_BT, draft_BK, draft_count_B)
    uniform = jax.vmap(jax.random.uniform)
    uniform_BK = jax.vmap(lambda i: uniform(keys_at(i, ACCEPT)), in_axes=1, out_axes=1)(step[:, :K])
    count_B, log_next_BV = reject(log_p_BTV, draft_BK, log_q_BKV, draft_count_B, uniform_BK)
    return count_B, draw(keys_at(count_B, DRAW), log_next_BV)


def match(symbol_BT: Array, draft_BK: Array, draft_count_B: Array) -> tuple[Array, Array]:
    """Verification by matching: drafts are kept while they are the model's own symbols.

    symbol_BT[:, i] is drawn (or the argmax) after the first i drafts. So draft x is kept with
    probability p(x), and otherwise followed by p without x. Returns the count and the symbol after
    it.
    """
    count_B = _leading(symbol_BT[:, :-1] == draft_BK, draft_count_B)
    return count_B, _at(symbol_BT, count_B)


def reject(
    log_p_BTV: Array, draft_BK: Array, log_q_BKV: Array, draft_count_B: Array, uniform_BK: Array
) -> tuple[Array, Array]:
    """Rejection sampling of drafts (Leviathan et al. 2023): x is kept with min(1, p(x) / q(x)).

    After the first that is not, the symbol is drawn from (p - q)+. Returns the count, and the
    logarithms of the distribution of the symbol after it [B, V]: p itself if every draft was kept.
    """
    log_p_of_draft, log_q_of_draft = (
        jnp.take_along_axis(a, draft_BK[:, :, None], axis=2, mode="clip")[:, :, 0]
        for a in (log_p_BTV[:, :-1], log_q_BKV)
    )
    possible = log_p_of_draft > -jnp.inf
    ratio_BK = jnp.where(possible, jnp.exp(jnp.minimum(log_p_of_draft - log_q_of_draft, 0)), 0)
    count_B = _leading(uniform_BK < ratio_BK, draft_count_B)
    log_p_BV = _at(log_p_BTV, count_B)
    p_BV, q_BV = (
        jnp.exp(log_p_BV),
        jnp.exp(_at(log_q_BKV, jnp.minimum(count_B, draft_BK.shape[1] - 1))),
    )
    rest_BV = jnp.maximum(p_BV - q_BV, 0)
    total_B1 = jnp.sum(rest_BV, axis=1, keepdims=True)
    # p = q rejects nothing, but for rounding
    from_rest_B1 = (count_B < draft_count_B)[:, None] & (total_B1 > 0)
    return count_B, jnp.where(from_rest_B1, jnp.log(rest_BV) - jnp.log(total_B1), log_p_BV)


def _leading(kept_BK: Array, draft_count_B: Array) -> Array:
    """How many of the drafts, from the first on, are kept without a gap."""
    meant_BK = jnp.arange(kept_BK.shape[1])[None] < draft_count_B[:, None]
    return jnp.sum(jnp.cumprod((kept_BK & meant_BK).astype(jnp.int32), axis=1), axis=1)


def _at(a: Array, index_B: Array) -> Array:
    """a[b, index[b]] of each row."""
    index = index_B.reshape(index_B.shape + (1,) * (a.ndim - 1))
    return jnp.take_along_axis(a, index, axis=1)[:, 0]
