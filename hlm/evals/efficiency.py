"""What it costs to read and to write: FLOPs, bytes per second, memory; and what a FLOP buys.

Protocol: FLOPs are inference FLOPs of a byte at the chunks that the model makes of the text that is
given (hlm/evals/cost.py), so a learned segmenter is charged for what it does and not for what it
was asked to. Speeds are medians of REPEATS after one that compiles, at 1 and at 8 rows, on this
machine; compare them within one results.json only. Writing is greedy, as the model writes: its
speed is over all rows. Memory is the parameters', and the peak of the device, or of the process
where the device does not say (CPU; models before it in the same command count).

`information_capacity` (arXiv 2511.08066) with a chunk as the unit, (8 bytes - bits of a chunk - 24)
/ log2(FLOPs of a chunk): the published constant was chosen for tokens of 3 to 5 bytes, so it orders
models whose chunks are about as large, and nothing else; with 1 byte a chunk it is negative.
`saved_bits_per_log_flop`, (8 - bits per byte) / log2(FLOPs per byte), has no such unit.
"""

import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import jax

from hlm import config
from hlm.evals.cost import price
from hlm.evals.measure import Measure, ratio, single
from hlm.evals.perplexity import scored
from hlm.evals.suite import Found, Setting, Suite
from hlm.infer.api import LanguageModel

ROWS, REPEATS, WRITTEN = (1, 8), 3, 64
OFFSET = -24.0  # bits, of mixed text: section 3 of the paper


class Efficiency(Suite):
    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        row = costs(lm, setting.excerpt)
        size = lm.budget.length // 2
        whole = b"".join(setting.excerpt)
        texts = [whole[i : i + size] for i in range(0, max(len(whole) - size, 1), size)]
        for rows in ROWS:
            exp = config.replace(lm.experiment, rows=rows, accumulate=1)
            alone = LanguageModel(exp, lm.params, lm.mesh, lm.step)
            batch = [texts[i % len(texts)] for i in range(2 * rows)]
            row[f"bytes_per_second_reading_{rows}"] = single(speed(lambda: read(alone, batch)))  # noqa: B023
            prompts = [text[: size // 4] for text in batch[:rows]]
            row[f"bytes_per_second_writing_{rows}"] = single(speed(lambda: write(alone, prompts)))  # noqa: B023
        row["parameters_MiB"] = single(sum(x.nbytes for x in jax.tree.leaves(lm.params)) / 2**20)
        row["peak_memory_MiB"] = single(peak() / 2**20)
        return Found({"efficiency": {"": row}})


def costs(lm: LanguageModel, texts: Sequence[bytes]) -> dict[str, Measure]:
    """FLOPs and what they buy, of measured chunks."""
    of_symbol, of_chunk = price(lm)
    found = [score for _, score in scored(lm, texts, "efficiency")]
    nbytes, chunks = sum(s.nbytes for s in found), sum(s.chunks for s in found)
    bits = sum(score.nats for score in found) / math.log(2)
    flops = [of_symbol * score.symbols + of_chunk * score.chunks for score in found]
    per_chunk = (8 * nbytes - bits) / chunks + OFFSET
    return {
        "FLOPs_per_byte": ratio(flops, [score.nbytes for score in found]),
        "bytes_per_chunk": ratio([s.nbytes for s in found], [s.chunks for s in found]),
        "information_capacity": single(per_chunk / math.log2(sum(flops) / chunks)),
        "saved_bits_per_log_flop": single((8 - bits / nbytes) / math.log2(sum(flops) / nbytes)),
    }


def read(lm: LanguageModel, texts: list[bytes]) -> int:
    return sum(score.nbytes for score in lm.score(texts, complete=False))


def write(lm: LanguageModel, prompts: list[bytes]) -> int:
    return sum(len(made) for made in lm.generate(prompts, WRITTEN))


def speed(call: Callable[[], int]) -> float | None:
    """Bytes per second; None if there were none."""
    call()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        count = call()
        found.append(count / (time.perf_counter() - start))
    return statistics.median(found) or None


def peak() -> float:
    """Bytes, of the device or of the process."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # KiB on Linux
