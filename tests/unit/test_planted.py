"""benchmarks/planted.py: its sources are what they say, and so are its numbers."""

import dataclasses
import math
import sys
import types

import numpy as np
import pytest

from hlm.infer.api import Score
from tests.laws.subjects import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import planted  # type: ignore


def score(nats):
    """Of bytes with these nats each, none of them guessed."""
    nats = np.asarray(nats, np.float64)
    return Score(float(nats.sum()), len(nats), nats, np.zeros(len(nats), bool), len(nats), 1)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_who_knows_the_order_reaches_its_entropy(order):
    task = planted.Markov(order)
    rows = task.rows(np.random.default_rng(0), 100_000)
    assert {len(row["text"]) for row in rows} == {planted.PIECE}
    assert np.mean([c == "a" for row in rows for c in row["text"]]) == pytest.approx(0.5, abs=0.02)

    def knows(k):
        def one(text):
            same = [i >= k and c == text[i - k] for i, c in enumerate(text)]
            return score([-math.log(1 - planted.SWITCH if s else planted.SWITCH) for s in same])

        return types.SimpleNamespace(score=lambda texts, complete: [one(text) for text in texts])

    def gap(lm):
        return task.measure(lm, rows)["gap left"].value

    assert gap(knows(order)) == pytest.approx(0, abs=0.03)
    for other in {1, 2, 3, 5} - {order}:
        assert gap(knows(other)) > 0.3, "another order explains it as well"
    even = types.SimpleNamespace(
        score=lambda texts, complete: [score([math.log(2)] * len(text)) for text in texts]
    )
    assert gap(even) == pytest.approx(1)


def test_the_path_of_a_star():
    task = planted.PathStar(4, 3)
    rows = task.rows(np.random.default_rng(0), 20_000)
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows[:50]:
        *edges, start, goal, equals = row["prompt"].split(" ")
        assert equals == "="
        before = {edge[1]: edge[0] for edge in edges}
        path = [goal]
        while path[-1] != start:
            path.append(before[path[-1]])
        assert row["text"] == "".join(f" {node}" for node in path[-2::-1])
        assert len(path) == 4
        assert {e[1] for e in edges if e[0] == start} == set(row["firsts"])
        assert row["firsts"][0] == path[-2]
    assert len({row["prompt"].index(row["firsts"][0]) for row in rows}) > 8, "its place tells it"

    class Seer:
        """Sure of the right path, and of nothing else."""

        rows, budget = 4, types.SimpleNamespace(length=64)

        def __init__(self, paths):
            self.paths = paths

        def score(self, texts, complete):
            return [self.one(t if isinstance(t, str) else t.decode()) for t in texts]

        def one(self, text):
            sure = any(path.startswith(text) for path in self.paths)
            found = score([math.log(2) * (1 if sure else 8)] * len(text))
            return dataclasses.replace(found, hits=np.full(len(text), sure))

    paths = [row["prompt"] + row["text"] for row in rows]
    found = task.measure(Seer(paths), rows)  # type: ignore
    assert [found[name].value for name in ("first", "later")] == [1, 1]
    found = task.measure(Seer([]), rows)  # type: ignore
    assert [found[name].value for name in ("first", "later")] == [0.25, 0]
    with pytest.raises(ValueError, match="61 nodes; there are 52"):
        planted.PathStar(10, 6)
