"""Log-likelihood of a text given the text before it: of both together, the bytes of the second.

Exact for models of bytes. A tokenizer cuts the two together, as it would a text that was written
so; begin a continuation with its blank, and no piece of usual tokenizers lies across.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hlm.evals.perplexity import group_size, grouped
from hlm.infer.api import LanguageModel

Pair = tuple[bytes, bytes]  # what is given, and what follows it


class Likelihood(NamedTuple):
    nats: float  # log-likelihood: 0 or less
    nbytes: int
    greedy: bool  # each symbol was the model's best guess: greedy decoding writes just this


def likelihoods(lm: LanguageModel, pairs: Sequence[Pair]) -> list[Likelihood]:
    """One for each pair, in order; equal texts are read once."""
    texts = list(dict.fromkeys(context + continuation for context, continuation in pairs))
    wanted: dict[bytes, list[int]] = {}
    for i, (context, continuation) in enumerate(pairs):
        wanted.setdefault(context + continuation, []).append(i)
    found: list[Likelihood] = [Likelihood(0.0, 0, True)] * len(pairs)
    for group in grouped(texts, group_size(lm)):
        for text, score in zip(group, lm.score(group, complete=False), strict=True):
            for i in wanted[text]:
                start = len(pairs[i][0])
                nats = -float(score.per_byte[start:].sum())
                found[i] = Likelihood(nats, len(text) - start, bool(score.hits[start:].all()))
    return found
