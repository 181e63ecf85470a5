"""A setting and models for the tests of suites, and what minute models were found to be."""

import functools
import math
import types

import numpy as np

from hlm.evals import robustness
from hlm.evals.shelf import SAMPLES, Shelf
from hlm.evals.suite import Document, Found, Setting, named
from hlm.infer.api import Score
from tests.unit.minute_models import language_model

DOCUMENTS = (
    Document(b"The water was cold because of some years. " * 4, "eng"),
    Document("Das Wasser war kalt, über 3,14 Grad. ".encode(), "deu"),
)


def setting(folder=SAMPLES, **changes):
    given = dict(
        documents=DOCUMENTS,
        excerpt=[document.text[:60] for document in DOCUMENTS],
        shelf=Shelf(folder),
        training=[b"the water was cold and the water " * 60],
        items=3,
        severities=robustness.usual(("upper", "drop", "misspell")),
        seeds=2,
    )
    return Setting(**(given | changes))


@functools.cache
def found(suite, model) -> Found:
    return named(suite).evaluate(language_model(model), setting())


class Oracle:
    """A model that is sure of the texts it is given: a bit for each byte of theirs, eight for
    others; greedy where it is sure.
    """

    rows, budget = 4, types.SimpleNamespace(length=64)

    def __init__(self, *texts):
        self.texts, self.read = {t.encode() for t in texts}, []

    def score(self, texts, complete=True):
        self.read += texts
        return [self.one(text, complete) for text in texts]

    def one(self, text, complete):
        sure = text in self.texts
        per_byte = np.full(len(text), math.log(2) * (1 if sure else 8))
        return Score(
            float(per_byte.sum()), len(text), per_byte, np.full(len(text), sure), len(text), 1
        )
