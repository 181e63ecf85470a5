"""Validation while training: of one set of texts, or of several by name, each reported apart."""

from collections.abc import Mapping
from typing import Any

from hlm.config import Experiment
from hlm.data.pipeline import documents
from hlm.evals import masked, perplexity
from hlm.infer.api import LanguageModel


class Validation:
    """The texts of `exp.valid`, in memory: limit large sets with `Beginning`.

        valid={"english": Beginning(Parquet(...), 1_000_000), "code": Beginning(..., 1_000_000)}

    gives `english/bits_per_byte`, `code/bits_per_byte` and so on, and `bits_per_byte` and accuracy
    of all text together.
    """

    def __init__(self, exp: Experiment):
        self.model = exp.model
        self.measure = perplexity.evaluate if exp.model.causal else masked.glance
        self.named = isinstance(exp.valid, Mapping)
        sets = exp.valid if self.named else {"": exp.valid}
        if not sets or (self.named and any(not name or "/" in name for name in sets)):
            raise ValueError(
                f"valid: the sets are named {list(sets)}; give at least one, and names without /"
            )
        self.texts = {name: [text for _, text in documents(x)] for name, x in sets.items()}

    def run(self, scorer: LanguageModel) -> dict[str, Any]:
        """Values by name."""
        found = {name: self.measure(scorer, texts) for name, texts in self.texts.items()}
        if not self.named:
            return found[""]
        # both are sums over what is predicted, which are bytes or hidden letters
        weights = {name: x["bytes" if "bytes" in x else "letters"] for name, x in found.items()}
        total = max(sum(weights.values()), 1)
        whole = {
            key: sum((x[key] or 0) * weights[name] for name, x in found.items()) / total
            for key in (self.model.bits, self.model.accuracy)
        }
        return whole | {
            f"{name}/{key}": value for name, x in found.items() for key, value in x.items()
        }
