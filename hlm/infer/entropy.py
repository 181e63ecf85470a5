"""How surprised a model expects to be, and the threshold that cuts text into chunks of a wanted
size by it.
"""

from collections.abc import Sequence

import jax
import numpy as np

from hlm.data.pack import Packer, stack
from hlm.infer import given
from hlm.infer.api import LanguageModel
from hlm.infer.given import Text
from hlm.papers.blt import next_entropy, threshold_for
from hlm.seq import Batch, seq_of


def entropies(lm: LanguageModel, texts: Text | Sequence[Text]) -> np.ndarray:
    """Entropy in nats of the model's prediction after BOS and after each symbol, in rows as in
    training; float32 [symbols].
    """
    packer = Packer(lm.budget)
    encoded = [lm.codec.encode(text) for text in given.texts(texts, "texts")]
    rows = [row for e in encoded for row in packer.add(e)] + packer.flush()
    if not rows:
        raise ValueError("texts: there are none; give at least one")

    @jax.jit
    def run(params: dict, batch: Batch) -> jax.Array:
        return lm.model.apply({"params": params}, seq_of(batch), method=next_entropy)  # pyright: ignore[reportReturnType]

    found = []
    for i in range(0, len(rows), lm.rows):
        part = rows[i : i + lm.rows]
        batch = stack(part + [part[0]] * (lm.rows - len(part)))
        found.append(
            np.asarray(run(lm.params, Batch(**batch)))[: len(part)][batch["doc"][: len(part)] > 0]
        )
    return np.concatenate(found)


def fit_threshold(lm: LanguageModel, texts: Text | Sequence[Text], size: float) -> float:
    """The threshold of `Entropy(lm.model, ...)` at which chunks of these texts have `size` symbols
    on average.
    """
    return threshold_for(entropies(lm, texts), given.real(size, "size"))
