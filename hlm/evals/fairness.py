"""What the same content costs in different languages, against English.

Protocol: NTREX-128 (Federmann et al. 2022), the same sentences in every language, each a document
of its own. A premium is a sum over sentences divided by that of English (Petrov et al. 2023, arXiv
2305.15425), in bytes, in chunks (steps of the backbone; symbols for flat models), in inference
FLOPs, and in bits: the information that the model sees in the same content (1 is even; languages it
does not know cost more). FLOPs are those of bytes and of measured chunks, at the price of each that
`hlm.flops` states for the model's rows. `cut share` is the share of words between white space that
the splitter cuts because they are longer than it takes; whole sentences are such words where a
script has no spaces. Byte premiums of published languages lie between 0.87 and 3.94.
"""

import math
from collections.abc import Sequence

import numpy as np

from hlm.evals.cost import Price, price
from hlm.evals.measure import Measure, ratio
from hlm.evals.perplexity import scored, words
from hlm.evals.shelf import Missing, some
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel

USUAL = 20  # sentences of each language
ENGLISH = "eng"
FOLDER = "ntrex-128"


class Fairness(Suite):
    """Every language that is there."""

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        shelf = setting.shelf
        names = shelf.names(f"{FOLDER}/*.txt")
        if f"{FOLDER}/{ENGLISH}.txt" not in names:
            raise Missing(f"no {FOLDER}/{ENGLISH}.txt")
        most, seed = setting.most(USUAL), setting.seed
        paid = price(lm)
        english = costs(lm, sentences(shelf.lines(f"{FOLDER}/{ENGLISH}.txt"), most, seed), paid)
        grid: Grid = {}
        for name in names:
            lines = sentences(shelf.lines(name), most, seed)
            if len(lines) != len(english["bytes"]):
                raise ValueError(f"{name}: not as many sentences as {ENGLISH}.txt has")
            found = english if name == f"{FOLDER}/{ENGLISH}.txt" else costs(lm, lines, paid)
            row: dict[str, Measure] = {
                f"premium in {unit}": ratio(found[unit], english[unit])
                for unit in ("bytes", "chunks", "FLOPs", "bits")
            }
            cut, every = cuts(lm, lines)
            row["share of words cut"] = ratio(cut, every)
            row["bits_per_byte"] = ratio(found["bits"], found["bytes"])
            grid[name.removeprefix(f"{FOLDER}/").removesuffix(".txt")] = row
        return Found({"fairness against English": grid})


def sentences(lines: list[str], most: int | None, seed: int) -> list[bytes]:
    """The same ones of every language: chosen by their numbers."""
    return [lines[i].encode() for i in some(list(range(len(lines))), most, seed)]


def costs(lm: LanguageModel, texts: Sequence[bytes], price: Price) -> dict[str, np.ndarray]:
    """Of each sentence, float64 [sentences]; `price`: FLOPs of a byte and of a chunk."""
    found = [score for _, score in scored(lm, texts, "fairness")]
    nbytes = np.array([score.nbytes for score in found], np.float64)
    chunks = np.array([score.chunks for score in found], np.float64)
    symbols = np.array([score.symbols for score in found], np.float64)
    return {
        "bytes": nbytes,
        "chunks": chunks,
        "FLOPs": price[0] * symbols + price[1] * chunks,
        "bits": np.array([score.nats for score in found]) / math.log(2),
    }


def cuts(lm: LanguageModel, texts: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Of each sentence, words that are longer than its splitter takes, and all words."""
    longest = getattr(getattr(lm.codec, "split", None), "longest", None)
    cut, every = [], []
    for text in texts:
        start, stop = words(text)
        size = stop - start + 1  # with the blank behind it
        cut.append(int(np.sum(size > longest)) if longest else 0)
        every.append(len(start))
    return cut, every
