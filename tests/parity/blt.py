"""BLT of transformers, on bytes without BOS. The patch lengths of its code go wrong behind the end
of all rows but the longest.

There the last patch is one byte too long and lengths of 0 and -1 follow; only where patches begin
inside a row is compared.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hlm.papers.blt import PRIMES, bucket, next_entropy, peaks
from hlm.seq import Batch, Seq, boundaries, seq_of
from hlm.vocab import Renumbered
from tests.parity.common import LOGITS, Check, Subject, largest, rows_of, subject_of, unequal

CASES = ("blt",)
UNITS = ("units_blt",)
FROZEN = "trunk/segmenter/frozen"
UNIT_BUCKETS = 4096  # the units' hashes are modulo this


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    sizes = meta["config"] | {"max_position_embeddings": arrays["x"].shape[1] - 1}

    def aux(batch: Batch) -> Iterable[Check]:
        seq, segmenter = seq_of(batch), s.model.trunk.segmenter
        frozen = functools.reduce(lambda tree, key: tree[key], FROZEN.split("/"), s.params)
        entropy_BL = jax.jit(functools.partial(segmenter.frozen.apply, method=next_entropy))(
            {"params": frozen}, seq
        )
        yield Check("entropies", largest(entropy_BL, arrays["aux/entropies"]), LOGITS)
        ends_BL = peaks(entropy_BL, seq, segmenter.threshold, segmenter.longest)
        yield unequal(
            "patches",
            starts_of_ends(ends_BL),
            starts_of_lengths(arrays["aux/patch_lengths"], seq.token.shape[1]),
        )
        b, _ = boundaries(ends_BL, seq, s.model.trunk.capacity)
        yield unequal("patches seen", b.seen, arrays["aux/decoder_patch_ids"])
        for n in s.model.embed.ngrams:
            yield unequal(
                f"hash of {n}", hashed(seq, n, 0, s.model.embed.buckets), arrays[f"aux/hash_g{n}"]
            )

    s = subject_of(
        "blt",
        arrays,
        sizes,
        batch=lambda x: rows_of(np.asarray(x) + Renumbered.first),
        trained=lambda path: not path.startswith(FROZEN),
        aux=aux,
    )
    return s


def units(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    entropy_BL = jnp.asarray(arrays["entropies"])
    L = entropy_BL.shape[1]
    for name in arrays:
        if name.startswith("pl_"):
            threshold, _, longest = name.removeprefix("pl_").partition("_max")
            ends_BL = peaks(
                entropy_BL,
                alone(np.zeros(entropy_BL.shape)),
                float(threshold),
                int(longest) if longest else None,
            )
            yield unequal(name, starts_of_ends(ends_BL), starts_of_lengths(arrays[name], L))
        if name.startswith("hash_g"):
            n, _, function = name.removeprefix("hash_g").partition("_p")
            yield unequal(
                name, hashed(alone(arrays["x"]), int(n), int(function), UNIT_BUCKETS), arrays[name]
            )


def hashed(seq: Seq, n: int, function: int, buckets: int) -> jax.Array:
    return bucket(jnp.pad(seq.token, ((0, 0), (n - 1, 0))), seq.pos, n, PRIMES[function], buckets)


def alone(token_BL: np.ndarray) -> Seq:
    """Rows of one document each."""
    return seq_of(rows_of(np.pad(token_BL, ((0, 0), (0, 1)))))


def starts_of_ends(ends_BL: Any) -> np.ndarray:
    """Where chunks begin [B, L]."""
    return np.pad(np.asarray(ends_BL)[:, :-1], ((0, 0), (1, 0)), constant_values=True)


def starts_of_lengths(lengths_BS: np.ndarray, length: int) -> np.ndarray:
    begin_BS = np.cumsum(np.pad(lengths_BS, ((0, 0), (1, 0))), axis=1)
    return np.stack([np.isin(np.arange(length), begin_S) for begin_S in begin_BS])
