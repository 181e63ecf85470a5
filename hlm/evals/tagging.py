"""Parts of speech from chunk vectors: what `lm.embed` knows of words, for models that look both
ways (HLM, Byte2Word) and, to compare, for causal ones.

Protocol: the model is frozen. A token's vector is the mean of those of the chunks that it overlaps;
a linear head, ridge regression onto the 17 tags of Universal Dependencies, learns from dev
sentences, its strength chosen on the last tenth of them, and is judged on test sentences. Causal
models have seen nothing behind the chunk. `majority` gives each word the tag it had most often in
the dev sentences (words that were not there: the most frequent tag): a head must beat it. Fine
tuning, as in the papers of masked models (Cao et al. 2023 and others), gives higher numbers.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hlm.evals.boundaries import aligned
from hlm.evals.measure import mean
from hlm.evals.shelf import Missing, Shelf, some
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel

USUAL = 400  # sentences to learn from and to judge on
FOLDER = "ud-mono"
STRENGTHS = (1e-2, 1.0, 1e2, 1e4)


class Tokens(NamedTuple):
    vectors_NE: np.ndarray  # float64
    tags: list[str]
    words: list[str]


class Tagging(Suite):
    """For models with chunks."""

    def fits(self, lm: LanguageModel) -> bool:
        return bool(lm.budget.chunks)

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        grid: Grid = {}
        for name in setting.shelf.names(f"{FOLDER}/*.test.jsonl"):
            language = name.removeprefix(f"{FOLDER}/").removesuffix(".test.jsonl")
            most, seed = setting.most(USUAL), setting.seed
            known, asked = (
                tokens(lm, setting.shelf, f"{FOLDER}/{language}.{part}.jsonl", most, seed)
                for part in ("dev", "test")
            )
            guessed = tagged(known, asked.vectors_NE)
            usual = most_often(known, asked.words)
            grid[language] = {
                "accuracy": mean([a == b for a, b in zip(guessed, asked.tags, strict=True)]),
                "majority": mean([a == b for a, b in zip(usual, asked.tags, strict=True)]),
            }
        if not grid:
            raise Missing(f"no {FOLDER}/*.test.jsonl")
        return Found({"tagging: parts of speech": grid})


def tokens(lm: LanguageModel, shelf: Shelf, name: str, most: int | None, seed: int) -> Tokens:
    """All tokens of sentences whose tokens stand in their text."""
    rows = some(shelf.rows(name), most, seed)
    pairs = [(aligned(row["text"], row["tokens"]), row["upos"]) for row in rows]
    pairs = [(sentence, tags) for sentence, tags in pairs if sentence.tokens]
    vectors, every, words = [], [], []
    cut = lm.cut([sentence.text for sentence, _ in pairs])
    for (sentence, tags), (stops, vectors_SE) in zip(pairs, cut, strict=True):
        begins = np.array([0, *stops[:-1]])
        for (start, stop), tag in zip(sentence.tokens, tags, strict=True):
            mine = (begins < stop) & (np.array(stops) > start)
            vectors.append(vectors_SE[mine].mean(axis=0))
            every.append(tag)
            words.append(sentence.text[start:stop].decode())
    return Tokens(np.array(vectors, np.float64), every, words)


def tagged(known: Tokens, asked_NE: np.ndarray) -> list[str]:
    """Tags of vectors by the head that learned from `known`."""
    tags = sorted(set(known.tags))
    target_NT = np.array([[tag == t for t in tags] for tag in known.tags], np.float64)
    middle, spread = known.vectors_NE.mean(axis=0), known.vectors_NE.std(axis=0) + 1e-6
    own_NE, other_NE = (
        np.hstack([(v - middle) / spread, np.ones((len(v), 1))])
        for v in (known.vectors_NE, asked_NE)
    )
    cut = max(len(own_NE) - max(len(own_NE) // 10, 1), 1)

    def head(strength: float, count: int) -> np.ndarray:
        a_NE = own_NE[:count]
        gram_EE = a_NE.T @ a_NE + strength * np.eye(a_NE.shape[1])
        return np.linalg.solve(gram_EE, a_NE.T @ target_NT[:count])

    def right(strength: float) -> float:
        guess = np.argmax(own_NE[cut:] @ head(strength, cut), axis=1)
        return float(np.mean(guess == np.argmax(target_NT[cut:], axis=1)))

    best = max(STRENGTHS, key=right)
    return [tags[i] for i in np.argmax(other_NE @ head(best, len(own_NE)), axis=1)]


def most_often(known: Tokens, words: Sequence[str]) -> list[str]:
    """The tag that each word had most often; of unknown ones, the most frequent tag."""
    by_word: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for word, tag in zip(known.words, known.tags, strict=True):
        by_word[word][tag] += 1
    usual = collections.Counter(known.tags).most_common(1)[0][0]
    return [by_word[w].most_common(1)[0][0] if w in by_word else usual for w in words]
