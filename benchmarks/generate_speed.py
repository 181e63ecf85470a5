"""Bytes a second of generation from trained runs: caches, waiting at chunk ends, and drafts,
against reading the whole row for each byte.

    python benchmarks/generate_speed.py runs/hat8 runs/aunet8 --json runs/generate_speed.json

Prompts are cut from the runs' own validation text. Ways take turns in each round and medians are
printed. `backbone/chunk`: calls of the backbone for each chunk of an average row; 1 is the least.
`of limit`: the time that the same calls would take if they read their weights once as fast as a
product of one row does here, or computed as fast as a large product, over the time that they took.
Every way must make the same bytes, and this is checked.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hlm import LanguageModel, load
from hlm.data.pack import empty_row, stack
from hlm.data.pipeline import documents
from hlm.infer.continued import Stats, continued
from hlm.infer.drafts import ChunkDrafts, HeadDrafts
from hlm.infer.loop import Loop
from hlm.infer.sampling import Sampling
from hlm.seq import Batch


class Together(Loop):
    """Rows that do not wait: the backbone runs whenever any row has ended a chunk."""

    def decoding(self, prefill, active_B=None, draft=False):
        return super().decoding(prefill, None, draft)


@dataclasses.dataclass
class Way:
    """One way to generate: `run(prompts)` -> the bytes made."""

    label: str
    run: Callable[[list[bytes]], list[bytes]]
    seconds: list[float] = dataclasses.field(default_factory=list)
    stats: Stats = dataclasses.field(default_factory=Stats)
    made: list[bytes] = dataclasses.field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="workdirs of training runs")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="default: 1 8")
    parser.add_argument(
        "--prompt", type=int, default=120, help="bytes of a prompt; default: %(default)s"
    )
    parser.add_argument(
        "--bytes", type=int, default=200, help="bytes made of each; default: %(default)s"
    )
    parser.add_argument(
        "--drafts",
        nargs="+",
        type=int,
        default=[1, 3, 7],
        help="as many as the heads allow; default: 1 3 7",
    )
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="also write the numbers here")
    args = parser.parse_args()
    console, results = Console(), []
    if not console.is_terminal:
        console.width = 140
    for run in args.runs:
        lm = load(run)
        table = Table(
            "run",
            "rows",
            "way",
            "bytes/s",
            "x whole row",
            "bytes/step",
            "backbone/chunk",
            "bytes/backbone",
            "of limit",
            box=box.SIMPLE,
        )
        for rows in args.rows:
            ways = measured(lm, prompts_of(lm, rows, args.prompt), args)
            for way in ways:
                line = described(lm, way, ways[0], rows, args.prompt) | {"run": run, "rows": rows}
                results.append(line)
                numbers = (
                    "bytes_per_s",
                    "times_whole_row",
                    "bytes_per_step",
                    "backbone_per_chunk",
                    "bytes_per_backbone",
                    "of_limit",
                )
                table.add_row(
                    run,
                    str(rows),
                    way.label,
                    *("" if line[k] is None else f"{line[k]:.3g}" for k in numbers),
                )
        console.print(table)
        if places := [
            (r["rows"], r["way"], r["acceptance"])
            for r in results
            if r["run"] == run and r["acceptance"]
        ]:
            console.print(
                "drafts kept, by their place in the word (1 is its first byte, the last: and "
                "behind)"
            )
            for rows, label, acceptance in places:
                console.print(
                    f"  {rows} {label}: "
                    + " ".join("-" if a is None else f"{a:.0%}" for a in acceptance)
                )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1))


def prompts_of(lm: LanguageModel, rows: int, size: int) -> list[bytes]:
    text = b"".join(text for _, text in documents(lm.experiment.valid))
    starts = np.random.default_rng(0).integers(0, len(text) - size, rows)
    return [text[s : s + size] for s in starts]


def measured(lm: LanguageModel, prompts: list[bytes], args: argparse.Namespace) -> list[Way]:
    capacity, how = (lm.budget.length, *lm.budget.chunks), Sampling(args.temperature)

    def looped(label: str, loop: Loop) -> Way:
        return Way(label, functools.partial(with_loop, lm, loop, args.bytes, how))

    ways = (
        [Way("whole row for each byte", functools.partial(whole_row, lm, max_bytes=args.bytes))]
        if not args.temperature
        else []
    )
    if lm.budget.chunks:
        ways.append(looped("caches, together", Together(lm.model, capacity)))
    ways.append(looped("caches", Loop(lm.model, capacity)))
    ways += [
        looped(f"{k} drafts", Loop(lm.model, capacity, drafter=HeadDrafts(k)))
        for k in args.drafts
        if k < lm.model.heads.ahead
    ]
    if getattr(lm.model.trunk, "can_draft", False):
        ways += [
            looped(
                f"{k} drafts past the backbone", Loop(lm.model, capacity, drafter=ChunkDrafts(k))
            )
            for k in args.drafts
        ]
    for way in ways:
        way.made = way.run(prompts)  # compiles
    for _ in range(args.rounds):
        for way in ways:
            lm.stats = Stats()
            started = time.perf_counter()
            made = way.run(prompts)
            way.seconds.append(time.perf_counter() - started)
            way.stats = lm.stats
            assert made == ways[0].made, f"{way.label} makes other bytes than {ways[0].label}"
    return ways


def with_loop(
    lm: LanguageModel, loop: Loop, max_bytes: int, how: Sampling, prompts: list[bytes]
) -> list[bytes]:
    encoded = [lm.codec.encode(p, complete=False) for p in prompts]
    *_, rows = continued(
        loop, lm.params, encoded, 0, max_bytes, how, [0] * len(prompts), (), lm.stats
    )
    return [row.text for row in rows]


def whole_row(lm: LanguageModel, prompts: list[bytes], max_bytes: int) -> list[bytes]:
    """Greedy, without caches: one compiled reading of the whole rows for each symbol."""
    tokens = [lm.codec.encode(p, complete=False).token for p in prompts]
    starts = [len(t) for t in tokens]
    for _ in range(max_bytes):
        rows = []
        for token in tokens:
            row = empty_row(lm.budget)
            row["token"][: len(token)], row["doc"][: len(token)], row["level"][: len(token)] = (
                token,
                1,
                lm.codec.levels(token),
            )
            rows.append(row)
        best_B = best(lm)(lm.params, Batch(**stack(rows)), np.array([len(t) - 1 for t in tokens]))
        tokens = [
            np.append(t, b).astype(np.int32)
            for t, b in zip(tokens, np.asarray(best_B), strict=True)
        ]
    made = [list(t[s:]) for t, s in zip(tokens, starts, strict=True)]
    made = [m[: m.index(lm.codec.eos)] if lm.codec.eos in m else m for m in made]
    return [lm.codec.decode(m)[:max_bytes] for m in made]


@functools.cache
def best(lm: LanguageModel) -> Callable:
    def run(params, batch, last_B):
        logits_BLNV: Any = lm.model.apply({"params": params}, batch, method="logits")
        return jnp.argmax(
            jnp.take_along_axis(logits_BLNV[:, :, 0], last_B[:, None, None], axis=1)[:, 0], axis=-1
        )

    return jax.jit(run)


def described(lm: LanguageModel, way: Way, first: Way, rows: int, prompt: int) -> dict:
    nbytes, seconds = sum(map(len, way.made)), statistics.median(way.seconds)
    texts = zip(prompts_of(lm, rows, prompt), way.made, strict=True)
    chunks = (
        sum(len(lm.chunks(p + m)) - len(lm.chunks(p)) for p, m in texts) / rows
        if lm.budget.chunks
        else None
    )
    counted = bool(way.stats.steps)
    backbone = way.stats.backbone_steps[0] if counted and chunks else None
    acceptance = [None if np.isnan(a) else float(a) for a in way.stats.acceptance]
    return {
        "way": way.label,
        "bytes_per_s": nbytes / seconds,
        "times_whole_row": statistics.median(first.seconds) / seconds
        if first.label.startswith("whole")
        else None,
        "bytes_per_step": way.stats.bytes_per_step / rows if counted else None,
        "backbone_per_chunk": backbone / chunks if backbone and chunks else None,
        "bytes_per_backbone": nbytes / rows / backbone if backbone else None,
        "of_limit": least(lm, way.stats, rows) / seconds if way.label == "caches" else None,
        "acceptance": acceptance if any(a is not None for a in acceptance) else None,
    }


def least(lm: LanguageModel, stats: Stats, rows: int) -> float:
    """Seconds that the products of all calls take at the least."""
    calls = (stats.steps, *stats.backbone_steps)
    return sum(n * seconds_of(size, rows) for n, size in zip(calls, weights(lm), strict=True))


def weights(lm: LanguageModel) -> list[int]:
    """Weights that a call reads: those outside of all backbones, and those of each, outermost
    first. Tables are left out: a call reads a row of them for each symbol.
    """
    parts = [{name: part for name, part in lm.params.items() if name != "embed"}]
    inner = lm.params["trunk"]
    while "backbone" in inner and len(parts) <= len(lm.budget.chunks):
        inner = inner["backbone"]
        parts.append(inner)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts]
    return [size - within for size, within in zip(sizes, [*sizes[1:], 0], strict=True)]


@functools.cache
def seconds_of(size: int, rows: int) -> float:
    """The least time that so many float32 weights take in a product of so many rows."""
    reading = fastest(jnp.ones((1, 256)), jnp.ones((256, max(size // 256, 1))))
    n = 1024
    computing = fastest(jnp.ones((n, n)), jnp.ones((n, n))) * rows * size / n**3
    return max(reading, computing)


def fastest(x: jax.Array, w: jax.Array) -> float:
    """Seconds of a product: the least of twenty."""
    product, found = jax.jit(jnp.matmul), []
    for _ in range(21):
        started = time.perf_counter()
        jax.block_until_ready(product(x, w))
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    main()
