"""A LanguageModel as a model of lm-evaluation-harness, in this process; needs the extra `lm_eval`.

Log-likelihoods are those of hlm/evals/continuation.py, in batches; a rolling one is that of the
whole text after BOS, without its end, by our windows. Lengths that tasks give in tokens are taken
as BYTES_PER_TOKEN bytes each.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval import evaluator  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

from hlm.evals.continuation import likelihoods
from hlm.evals.perplexity import BATCHES, grouped
from hlm.infer.api import LanguageModel

BYTES_PER_TOKEN = 4
TOKENS = 256  # of an answer whose task does not say


class HarnessModel(LM):
    """The three kinds of requests, in order."""

    def __init__(self, lm: LanguageModel):
        super().__init__()
        self.lm = lm

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        pairs = [(context.encode(), text.encode()) for context, text in args_of(requests)]
        return [(found.nats, found.greedy) for found in likelihoods(self.lm, pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        texts = [text.encode() for (text,) in args_of(requests)]
        groups = grouped(texts, BATCHES * self.lm.rows * self.lm.budget.length)
        return [
            -float(score.nats) for part in groups for score in self.lm.score(part, complete=False)
        ]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Requests with equal settings are answered together."""
        asked = args_of(requests)
        answers = [""] * len(asked)
        alike: dict[str, list[int]] = {}
        for i, (_, settings) in enumerate(asked):
            alike.setdefault(repr(sorted(settings.items())), []).append(i)
        for which in alike.values():
            made = self.written([asked[i][0].encode() for i in which], asked[which[0]][1])
            for i, text in zip(which, made, strict=True):
                answers[i] = text
        return answers

    def written(self, prompts: list[bytes], settings: dict[str, Any]) -> list[str]:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else [stop for stop in until if stop]
        most = BYTES_PER_TOKEN * int(settings.get("max_gen_toks", TOKENS))
        sample = settings.get("do_sample", False)
        how: dict[str, Any] = {
            "temperature": float(settings.get("temperature", 0.0)) if sample else 0.0,
            "top_p": float(settings.get("top_p", 1.0)) if sample else 1.0,
        }
        made = list(self.lm.generate(prompts, most, stop=until, **how))
        short = list(prompts)
        # A prompt without room is cut from its beginning, by half, until there is some.
        while full := [i for i, m in enumerate(made) if m.ended == "full" and not m and short[i]]:
            for i in full:
                short[i] = short[i][len(short[i]) // 2 + len(short[i]) % 2 :]
            again = self.lm.generate([short[i] for i in full], most, stop=until, **how)
            for i, text in zip(full, again, strict=True):
                made[i] = text
        return [text.decode(errors="replace") for text in made]


def args_of(requests: Sequence[Any]) -> list[tuple]:
    return [request.args for request in requests]


def run(
    lm: LanguageModel, tasks: Sequence[str], path: str | None, limit: int | None, seed: int
) -> dict[str, Any]:
    """What the harness reports, with its samples."""
    found = evaluator.simple_evaluate(
        model=HarnessModel(lm),
        tasks=list(tasks),
        task_manager=TaskManager(include_path=path),
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=None,
        fewshot_random_seed=seed,
    )
    assert found is not None
    return found
