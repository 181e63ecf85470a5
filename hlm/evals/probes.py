"""Cheap questions that tell architectures apart, of the text that is given, without training.

- Letter cipher (after Lexinvariant LM, Huang et al. 2023): in each piece of text the 26 letters
  change places, which a model can only find out from the piece itself. Bits per byte of its first
  and last quarter: how much was found out. Once letters alone, once letters and the space, which
  breaks rules that look for spaces and not learned chunks.
- How far ahead a chunk's vector can be read: a linear head (that of `tagging`) on `lm.embed` tells
  the first byte of the next chunk, of the one behind it, and so on; learned on the first half of
  the pieces, judged on the second. `majority`: always the most frequent byte.
- Anisotropy: the mean cosine between chunk vectors of two different pieces; near 1, all of them
  point one way. 0 is even.

- Frequency bias: minimal pairs of BLiMP that differ in one word, by how often both words stood in
  the training text. Bias is the accuracy among the third of pairs with the most frequent words,
  less that among the third with the rarest: a model that knows grammar has none.

Pieces are three quarters of a row at most, so all of a piece is in sight. A unit is a piece for the
cipher, a chunk for the head, and a pair of vectors or sentences for the rest.
"""

import collections
import string
from collections.abc import Sequence

import numpy as np

from hlm.evals import choice, frequency, tagging
from hlm.evals.measure import Measure, change, mean, ratio
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.evals.tagging import Tokens
from hlm.infer.api import LanguageModel

AHEAD = 4  # chunks
PAIRS = 1000  # of vectors


class Probes(Suite):
    """Vectors only of models with chunks, ciphers of all."""

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        size = lm.budget.length * 3 // 4
        texts = [
            text[i : i + size]
            for text in setting.excerpt
            for i in range(0, len(text), size)
            if len(text[i : i + size]) >= 4
        ]
        if len(texts) < 2:
            raise ValueError(
                f"probes: the text has {len(texts)} pieces of {size} bytes; give more with --bytes"
            )
        grids: dict[str, Grid] = {"probes: letter cipher": ciphers(lm, texts, setting.seed)}
        if lm.budget.chunks:
            found = lm.cut(texts)
            grids["probes: first byte of a later chunk"] = ahead(texts, found)
            vectors = [vectors_SE for _, vectors_SE in found if len(vectors_SE)]
            grids["probes: anisotropy"] = {"": {"mean_cosine": cosines(vectors, setting.seed)}}
        if setting.training and setting.shelf.has(choice.TASKS["blimp"].file):
            items = choice.read("blimp", setting.shelf, setting.most(choice.USUAL), setting.seed)
            bias = frequency_bias(lm, items, frequency.counts(setting.training))
            grids |= {"probes: frequency bias": bias} if bias else {}
        return Found(grids)


def ciphered(text: bytes, rng: np.random.Generator, space: bool) -> bytes:
    """The letters, and the space if asked for, in new places; capitals go with their letters."""
    old = string.ascii_lowercase.encode() + (b" " if space else b"")
    new = bytes(np.frombuffer(old, np.uint8)[rng.permutation(len(old))])
    return text.translate(bytes.maketrans(old + old.upper(), new + new.upper()))


def ciphers(lm: LanguageModel, texts: Sequence[bytes], seed: int) -> Grid:
    """Rows: plain text, and the two ciphers."""
    ways: dict[str, list[bytes]] = {"plain": list(texts)}
    for space, name in enumerate(("letters", "letters and space")):
        rng = np.random.default_rng([seed, space])
        ways[name] = [ciphered(text, rng, bool(space)) for text in texts]
    grid: Grid = {}
    for name, written in ways.items():
        bits = [score.per_byte / np.log(2) for score in lm.score(written, complete=False)]
        quarters = [np.array_split(one, 4) for one in bits]
        first, last = (
            ratio([q[k].sum() for q in quarters], [len(q[k]) for q in quarters]) for k in (0, -1)
        )
        grid[name] = {
            "bits_per_byte": ratio([one.sum() for one in bits], [len(one) for one in bits]),
            "bits_in_first_quarter": first,
            "bits_in_last_quarter": last,
            "change_from_first_to_last": change(last, first),
        }
    return grid


def ahead(texts: Sequence[bytes], found: Sequence[tuple[list[int], np.ndarray]]) -> Grid:
    """A row for each distance in chunks."""
    grid: Grid = {}
    half = len(texts) // 2
    for distance in range(1, AHEAD + 1):
        known, asked = (
            first_bytes(texts[part], found[part], distance)
            for part in (slice(half), slice(half, None))
        )
        if not known.tags or not asked.tags:
            continue
        guessed = tagging.tagged(known, asked.vectors_NE)
        usual = collections.Counter(known.tags).most_common(1)[0][0]
        grid[f"{distance} ahead"] = {
            "accuracy": mean([a == b for a, b in zip(guessed, asked.tags, strict=True)]),
            "majority": mean([tag == usual for tag in asked.tags]),
        }
    return grid


def first_bytes(
    texts: Sequence[bytes], found: Sequence[tuple[list[int], np.ndarray]], distance: int
) -> Tokens:
    """Vectors of chunks with the first byte of the chunk that comes `distance` later."""
    vectors, tags = [], []
    for text, (stops, vectors_SE) in zip(texts, found, strict=True):
        for k in range(len(stops) - distance):
            vectors.append(vectors_SE[k])
            tags.append(chr(text[stops[k + distance - 1]]))
    return Tokens(np.array(vectors, np.float64), tags, tags)


def cosines(vectors: Sequence[np.ndarray], seed: int) -> Measure:
    """Of random pairs from two different pieces each."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(PAIRS if len(vectors) > 1 else 0):
        i, j = rng.choice(len(vectors), 2, replace=False)
        a, b = (v[rng.integers(len(v))].astype(np.float64) for v in (vectors[i], vectors[j]))
        found.append(float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)))
    return mean(found)


def frequency_bias(
    lm: LanguageModel, items: Sequence[choice.Item], seen: collections.Counter[bytes]
) -> Grid:
    """Rows: thirds of the pairs by frequency, and the bias; {} where too few pairs differ in one
    word.
    """
    pairs = {i: words for i, item in enumerate(items) if (words := replaced(item)) is not None}
    if len(pairs) < 3:
        return {}
    often = [np.mean([np.log1p(seen[word]) for word in words]) for words in pairs.values()]
    by_frequency = np.array(list(pairs))[np.argsort(often, kind="stable")]
    right = choice.judge(lm, items).right[by_frequency]
    low, middle, high = np.array_split(right, 3)
    level = (low.mean() + high.mean()) / 2  # of which a difference and its error know nothing
    signed = np.concatenate([(level - low) / len(low), (high - level) / len(high)])
    thirds = {"rare words": low, "middle": middle, "frequent words": high}
    return {name: {"accuracy": mean(part, 0.5)} for name, part in thirds.items()} | {
        "frequent less rare": {"accuracy": ratio(signed, np.full(len(signed), 1 / len(signed)))}
    }


def replaced(item: choice.Item) -> tuple[bytes, bytes] | None:
    """The two words in which the sentences of a pair differ, if it is one."""
    good, bad = (frequency.WORD.findall(text.encode()) for _, text in item.options)
    differ = [(a, b) for a, b in zip(good, bad, strict=False) if a != b]
    return differ[0] if len(good) == len(bad) and len(differ) == 1 else None
