"""Bytes a second of `LanguageModel.score`, as a share of the bare forward pass.

    python benchmarks/score_speed.py runs/score_speed.json
    python benchmarks/score_speed.py --only hat:tiny --bytes 100000

The bare forward pass reads full rows of packed text, as training does, that lie ready on the
device, and computes likelihoods. `score` reads the same chapters as texts of 100 bytes, of 500, of
mixed lengths (20 to 4,000), and as one long document; encoding, packing and what comes back are
part of its time. Each kind takes turns with the forward pass, and medians of the pairs' ratios are
printed: of the wall clock, and in brackets of the processor's time. Parameters are random.
`compiled`: programs that were compiled after the first call of each; there must be none.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from sized import ROOT

from hlm import LanguageModel, config, sharding
from hlm.data.pack import Packer, stack
from hlm.data.pipeline import documents
from hlm.model.lm import init_params
from hlm.seq import Batch

MODELS = ("flat:peer", "hat:tiny", "aunet:peer", "megabyte:peer")
KINDS = ("100 bytes", "500 bytes", "mixed", "one long document")
SHORTEST, LONGEST = 20, 4000  # of mixed lengths


@dataclasses.dataclass
class Turn:
    """Seconds by the clock and of the processor, for so many bytes."""

    nbytes: int
    wall: float
    processor: float


@dataclasses.dataclass
class Case:
    """One model and its texts."""

    lm: LanguageModel
    texts: dict[str, list[bytes]]
    packed: list[Batch]  # full rows, on the device
    nbytes: int  # of text in them
    pairs: list[tuple[str, Turn, Turn]] = dataclasses.field(default_factory=list)

    def round(self) -> None:
        for kind, texts in self.texts.items():
            bare = timed(self.forward, self.nbytes)
            whole = timed(lambda texts=texts: self.lm.score(texts), sum(map(len, texts)))
            self.pairs.append((kind, bare, whole))

    def forward(self) -> None:
        with jax.set_mesh(self.lm.mesh):
            jax.block_until_ready([forward(self.lm)(self.lm.params, b) for b in self.packed])

    def share(self, kind: str, clock: str) -> float:
        """Bytes a second of `score` over those of the forward pass, by the field of `Turn`."""
        return statistics.median(
            (whole.nbytes / getattr(whole, clock)) / (bare.nbytes / getattr(bare, clock))
            for of, bare, whole in self.pairs
            if of == kind
        )

    @property
    def bytes_per_second(self) -> float:
        """Of the forward pass."""
        return statistics.median(bare.nbytes / bare.wall for _, bare, _ in self.pairs)


def timed(run: Callable[[], Any], nbytes: int) -> Turn:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Turn(nbytes, time.perf_counter() - wall, time.process_time() - processor)


FORWARD: dict[int, Any] = {}


def forward(lm: LanguageModel) -> Any:
    """(parameters, batch) -> likelihoods and hits, compiled."""

    def run(params: Any, batch: Batch) -> Any:
        out: Any = lm.model.apply({"params": params}, batch)
        return out.nll_BLN[:, :, 0], out.hit_BL

    return FORWARD.setdefault(id(lm), jax.jit(run))


def case(name: str, nbytes: int) -> Case:
    stem, _, size = name.partition(":")
    exp = config.load(f"{ROOT / 'configs' / stem}.py:{size}")
    mesh = sharding.Mesh().make(jax.devices()[:1])
    params = jax.jit(lambda: init_params(exp.model, exp.data.length, exp.seed))()
    lm = LanguageModel(exp, params, mesh)
    text = b"".join(t for _, t in documents(exp.data.source))[:nbytes]
    packer = Packer(lm.budget)
    rows = packer.add(lm.codec.encode(text, complete=False))
    rows = rows[: len(rows) // lm.rows * lm.rows]
    if not rows:
        raise ValueError(f"--bytes: {nbytes} do not fill a batch of {name}; give more")
    packed = [Batch(**stack(rows[i : i + lm.rows])) for i in range(0, len(rows), lm.rows)]
    amount = sum(int(b.nbytes.sum()) for b in packed)
    return Case(
        lm,
        kinds(text),
        [sharding.spread(b, mesh) for b in packed],
        amount,
    )


def kinds(text: bytes) -> dict[str, list[bytes]]:
    rng = np.random.default_rng(0)
    mixed, at = [], 0
    while at < len(text):
        size = int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST))))
        mixed.append(text[at : at + size])
        at += size

    def cut(size: int) -> list[bytes]:
        return [text[i : i + size] for i in range(0, len(text), size)]

    return dict(zip(KINDS, (cut(100), cut(500), mixed, [text]), strict=True))


def show(results: dict[str, dict[str, Any]]) -> None:
    title = (
        f"score, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, JAX {jax.__version__}: "
        "share of the forward pass"
    )
    table = Table("model", title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("forward, bytes/s", *KINDS, "compiled"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, r in results.items():
        table.add_row(
            name,
            f"{r['forward_bytes_per_second']:,.0f}",
            *(f"{r['share'][kind]:.2f} ({r['share_of_processor'][kind]:.2f})" for kind in KINDS),
            str(r["compiled"]),
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", help="JSON file to write")
    parser.add_argument("--only", nargs="+", metavar="NAME:SIZE", default=MODELS)
    parser.add_argument("--bytes", type=int, default=60_000, help="of text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (%(default)s)")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    compiled: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    cases, late = {}, dict.fromkeys(args.only, 0)
    for name in args.only:
        cases[name] = case(name, args.bytes)
        cases[name].forward()
        cases[name].lm.score("a")
        print(f"{name} is ready", file=sys.stderr)
    for _ in range(args.rounds):
        for name, one in cases.items():
            before = len(compiled)
            one.round()
            late[name] += len(compiled) - before
    results = {}
    for name, one in cases.items():
        results[name] = {
            "forward_bytes_per_second": one.bytes_per_second,
            "share": {kind: one.share(kind, "wall") for kind in KINDS},
            "share_of_processor": {kind: one.share(kind, "processor") for kind in KINDS},
            "pairs": [(k, *map(dataclasses.asdict, pair)) for k, *pair in one.pairs],
            "rows": one.lm.rows,
            "length": one.lm.budget.length,
            "context": one.lm.context,
            "compiled": late[name],
        }
    show(results)
    if args.out:
        about = {
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "bytes": args.bytes,
            "models": results,
        }
        path = pathlib.Path(args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
