"""What a config costs: parameters, FLOPs per byte of text by part and by level, memory.

    python -m hlm.flops configs/hat.py:tiny configs/flat.py:tiny
    python -m hlm.flops configs/hat.py:1b data.length=8192 --json
    python -m hlm.flops configs/blt.py:tiny --init-from trunk/segmenter/frozen=runs/entropy \\
        model.trunk.segmenter.threshold=1.9

FLOPs are those of matrix products and convolutions, counted in the traced program (hlm/traced.py).
It is traced for one row that has room for just what rows of the config's own text hold
(Moby-Dick's, if it has none), so neither padding nor unused room for chunks counts; recomputation
does not count either. `as run` is the step as train.py runs it, all of these included.

Chunks of rules are counted in packed rows of that text. A learned segmenter's are those it is
trained towards, if it says so (`target`, `prior`, `window`, examples), otherwise what the model
cuts with its first or with the given parameters.
"""

import argparse
import dataclasses
import json
import re
import sys
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hlm import config, sharding
from hlm.checkpoint import graft, load_params
from hlm.config import Experiment
from hlm.data.pack import Budget, Packer, Row, stack
from hlm.data.pipeline import documents
from hlm.data.source import TextFiles
from hlm.data.unchosen import Unchosen
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy, capacities, levels_of
from hlm.model.lm import abstract_params, init_params
from hlm.seq import Batch, seq_of
from hlm.traced import RECOMPUTED, Counts, kept, products
from hlm.train import step
from hlm.train.stop import as_program

TEXT = 1_000_000  # bytes of text that rows are packed from, or as much as a row holds
MOBY = TextFiles(paths=("corpus:mobydick/train.txt",))  # for sizes that have no text of their own
TABLES = ("embedding", "position")  # parameters that are looked up
PART = re.compile(rf"trunk(/backbone)*(/({'|'.join(config.fields(Hierarchy))})(?=/|$))?|[^/]*")


def part_of(path: str) -> str:
    """The part of the model that an equation belongs to:
    `/transpose(jvp(LM))/LM.hidden/LM.read/trunk/encoder/...` -> trunk/encoder.
    """
    names: list[str] = []
    # fields such as `trunk`; classes and methods such as `LM.read` and `trunk.cut`; transformations
    for name in path.split("/"):
        field, _, method = name.partition(".")
        if (
            re.fullmatch(r"[a-z]\w*", field)
            and field != RECOMPUTED
            and not (method and names[-1:] == [field])
        ):
            names.append(field)
    found = PART.match("/".join(names))
    return (found and found[0]) or "other"


def level_of(part: str) -> int:
    """0 for parts that run over bytes, their pools and unpools included; 1 for those over chunks,
    and so on.
    """
    return part.split("/").count("backbone")


@dataclasses.dataclass(frozen=True)
class Rows:
    """What packed rows hold, means over rows: bytes of text, and elements at each level, level 0
    first.
    """

    nbytes: float
    elements: tuple[float, ...]
    known: tuple[str, ...]  # how, for each level


def packed(exp: Experiment, source: Any) -> list[Row]:
    """Full rows of the first `TEXT` bytes of a source.

    Raises ValueError if it does not fill one.
    """
    packer, rows, nbytes = Packer(Budget(exp.data.length, capacities(exp.model.trunk))), [], 0
    for _, text in documents(source):
        rows += packer.add(exp.model.codec.encode(text))
        nbytes += len(text)
        if rows and nbytes >= TEXT:
            break
    if not rows:
        raise ValueError(
            f"data.length: {exp.data.length} is longer than the text that rows are measured on"
        )
    return rows


def bytes_per_row(rows: list[Row]) -> float:
    return float(np.mean([np.sum(row["nbytes"] * (row["weight"] > 0)) for row in rows]))


def measure(exp: Experiment, params: Any = None) -> Rows:
    """Rows of the config's own text.

    `params`: of the model, to cut the text with; None: see the module's docstring.
    """
    source, text = exp.data.source, "packed text"
    if isinstance(source, Unchosen):
        source, text = MOBY, "packed Moby-Dick"
    rows = packed(exp, source)
    batch = Batch(**stack(rows))
    elements, known = [float(np.sum(batch.doc > 0)) / len(rows)], [text]
    cut: list[float] | None = None
    given = next(
        (ends for o in exp.model.objectives if (ends := o.given_ends(batch)) is not None), None
    )
    for level, hierarchy in enumerate(levels_of(exp.model.trunk), 1):
        if hierarchy.segmenter.from_levels:
            found: Any = hierarchy.segmenter.apply({}, None, seq_of(batch))
            ends_BL, _, _ = found
            count, how = np.sum(ends_BL & (batch.doc > 0)) / len(rows), text
        elif params is None and given is not None:
            firsts = np.sum(batch.doc.max(axis=1))
            count, how = (
                (np.sum(given & (batch.doc > 0)) + firsts) / len(rows),
                f"examples in {text}",
            )
        elif params is None and (size := aim(exp, hierarchy)) is not None:
            count, how = elements[-1] / size, f"aim: {size:g} elements a chunk"
        else:
            cut = cut or chunks(exp, params, rows)
            count, how = cut[level - 1], "untrained model" if params is None else "given parameters"
        elements.append(float(min(count, hierarchy.capacity)))
        known.append(how)
    return Rows(bytes_per_row(rows), tuple(elements), tuple(known))


def aim(exp: Experiment, level: Hierarchy) -> float | None:
    """Elements in a chunk that a segmenter, or an objective that teaches it, is trained towards."""
    taught = (o.target_size for o in exp.model.objectives)
    return next((size for size in (level.segmenter.target_size, *taught) if size is not None), None)


def chunks(exp: Experiment, params: Any, rows: list[Row]) -> list[float]:
    """Chunks per row at each level, as the model cuts the first rows."""
    model, size = exp.model, exp.rows // exp.accumulate
    if params is None:
        params = jax.jit(lambda: init_params(model, exp.data.length, exp.seed))()
    run = jax.jit(lambda params, batch: step.eval_step(model, params, batch))
    found = [
        run(params, Batch(**stack(rows[i : i + size])))
        for i in range(0, min(len(rows), 64) - size + 1, size)
    ]
    names = [
        "above/" * level + "elements_per_chunk" for level in range(len(capacities(model.trunk)))
    ]
    return [
        sum(float(metrics[name].weight) for metrics in found) / size / len(found) for name in names
    ]


def with_room(exp: Experiment, elements: tuple[float, ...]) -> Experiment:
    """The experiment on rows with room for just so many elements at each level."""

    def trunk(part: Any, room: tuple[float, ...]) -> Any:
        if not room:
            return part
        return config.replace(
            part, capacity=max(round(room[0]), 1), backbone=trunk(part.backbone, room[1:])
        )

    length = max(round(elements[0]), 2)
    heads = exp.model.heads
    if isinstance(heads, Heads):
        # it must divide the length, and changes no product
        heads = config.replace(heads, block=None)
    model = config.replace(exp.model, trunk=trunk(exp.model.trunk, elements[1:]), heads=heads)
    return config.replace(exp, model=model, data=config.replace(exp.data, length=length))


def traced_step(exp: Experiment) -> Any:
    """The training step of one row."""
    one = config.replace(exp, rows=1, accumulate=1)
    abstract, _, _ = step.init_state(one, sharding.Mesh().make(jax.devices()[:1]))
    batch = step.abstract_batch(1, exp.data.length)
    return jax.make_jaxpr(lambda state, batch: step.train_step(one, state, batch))(
        abstract, batch
    ).jaxpr


def traced_forward(exp: Experiment) -> Any:
    """The logits of one row."""
    params = abstract_params(exp.model, exp.data.length)
    forward = jax.make_jaxpr(
        lambda params, batch: exp.model.apply({"params": params}, batch, method="logits")
    )
    return forward(params, step.abstract_batch(1, exp.data.length)).jaxpr


def by_part(paths: Counts) -> Counts:
    total = Counts()
    for path, flops in paths.items():
        total[part_of(path)] += flops
    return total


def by_level(parts: dict[str, float], levels: int) -> list[float]:
    return [
        sum(n for part, n in parts.items() if level_of(part) == level) for level in range(levels)
    ]


def costs(exp: Experiment, rows: Rows) -> dict[str, Any]:
    """Everything that is printed; FLOPs per byte of text, memory in bytes."""
    just = with_room(exp, rows.elements)
    trained, hidden = products(traced_step(just))
    trained = Counts({path: n for path, n in trained.items() if RECOMPUTED not in path})
    as_run = traced_step(exp)
    abstract, _, _ = step.init_state(exp, sharding.Mesh().make(jax.devices()[:1]))
    leaves = jax.tree_util.tree_leaves_with_path(abstract.params)
    per_byte = {
        name: {part: n / rows.nbytes for part, n in by_part(paths).items()}
        for name, paths in (("training", trained), ("inference", products(traced_forward(just))[0]))
    }
    room = (exp.data.length, *capacities(exp.model.trunk))
    return {
        "parameters": sum(leaf.size for _, leaf in leaves),
        "parameters_looked_up": sum(
            leaf.size for path, leaf in leaves if sharding.leaf_name(path) in TABLES
        ),
        "parameters_by_part": {
            part: sum(leaf.size for leaf in jax.tree.leaves(tree))
            for part, tree in step.parts(abstract.params).items()
        },
        "bytes_per_row": rows.nbytes,
        "bytes_per_step": rows.nbytes * exp.rows,
        "levels": [
            {"elements": n, "room": most, "known": how}
            | {name: by_level(parts, len(room))[level] for name, parts in per_byte.items()}
            for level, (n, most, how) in enumerate(
                zip(rows.elements, room, rows.known, strict=True)
            )
        ],
        "by_part": per_byte,
        "training": sum(per_byte["training"].values()),
        "inference": sum(per_byte["inference"].values()),
        "training_as_run": products(as_run)[0].total() / rows.nbytes,
        "not_counted_in": sorted(hidden),
        "memory": {
            "parameters": nbytes(abstract.params),
            "optimizer": nbytes(abstract.optim),
            "gradients": nbytes(abstract.params),
            "activations kept for the backward pass": kept(as_run) * exp.rows // exp.accumulate,
        },
    }


def nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def show(results: dict[str, dict[str, Any]]) -> None:
    """A table of parts and one of levels for each config; one of all, if there are several."""
    console = Console()
    for name, r in results.items():
        table = columns(
            f"[bold]{name}[/]",
            "part",
            "level",
            "parameters",
            "training\nFLOPs/byte",
            "inference\nFLOPs/byte",
            "share",
        )
        training, inference = r["by_part"]["training"], r["by_part"]["inference"]
        for part in dict.fromkeys([*r["parameters_by_part"], *training, *inference]):
            flops = training.get(part, 0)
            cells = (
                f"{r['parameters_by_part'].get(part, 0):,}",
                f"{flops:,.0f}",
                f"{inference.get(part, 0):,.0f}",
            )
            table.add_row(part, str(level_of(part)), *cells, f"{flops / r['training']:.1%}")
        table.add_section()
        table.add_row(
            "total",
            "",
            f"{r['parameters']:,}",
            f"{r['training']:,.0f}",
            f"{r['inference']:,.0f}",
            "",
        )
        console.print(table)
        table = columns(
            None,
            "level",
            "elements\na row",
            "room",
            "bytes an\nelement",
            "training\nFLOPs/byte",
            "inference\nFLOPs/byte",
            "known by",
        )
        for i, level in enumerate(r["levels"]):
            cells = (
                f"{level['elements']:,.1f}",
                f"{level['room']:,}",
                f"{r['bytes_per_row'] / level['elements']:.2f}",
            )
            table.add_row(
                str(i),
                *cells,
                f"{level['training']:,.0f}",
                f"{level['inference']:,.0f}",
                level["known"],
            )
        console.print(table)
        memory = ", ".join(f"{part} {size / 2**20:,.1f} MiB" for part, size in r["memory"].items())
        console.print(
            f"{r['parameters'] - r['parameters_looked_up']:,} parameters without those that "
            "are looked up; "
            f"{r['training_as_run']:,.0f} training FLOPs a byte as run; "
            f"{r['bytes_per_step']:,.0f} bytes a step\n"
            f"memory of all devices: {memory}\n"
        )
        if r["not_counted_in"]:
            console.print(f"not counted: matrix products in {', '.join(r['not_counted_in'])}")
    if len(results) > 1:
        console.print(summary(results))


def summary(results: dict[str, dict[str, Any]]) -> Table:
    table = columns(
        None,
        "config",
        "M\nparams",
        "without\nlooked up",
        "training\nMFLOPs/byte",
        "by level",
        "as\nrun",
        "inference\nMFLOPs/byte",
        "bytes a\nchunk",
        "MiB",
    )
    for name, r in results.items():
        table.add_row(
            name,
            f"{r['parameters'] / 1e6:,.2f}",
            f"{(r['parameters'] - r['parameters_looked_up']) / 1e6:,.2f}",
            f"{r['training'] / 1e6:,.2f}",
            " + ".join(f"{level['training'] / 1e6:,.2f}" for level in r["levels"]),
            f"{r['training_as_run'] / 1e6:,.2f}",
            f"{r['inference'] / 1e6:,.2f}",
            ", ".join(f"{r['bytes_per_row'] / level['elements']:.1f}" for level in r["levels"][1:])
            or "-",
            f"{sum(r['memory'].values()) / 2**20:,.0f}",
        )
    return table


def columns(title: str | None, first: str, *others: str) -> Table:
    table = Table(
        first,
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in others:
        table.add_column(name, justify="left" if name == "known by" else "right", no_wrap=True)
    return table


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", nargs="+", help="FILE.py:SIZE, several; overrides (name=value) hold for all"
    )
    parser.add_argument(
        "--init-from", metavar="[PART=]RUN", help="parameters to cut the text with, as for train.py"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in place of tables"
    )
    args = parser.parse_args(arguments)
    overrides = [name for name in args.config if "=" in name]
    results = {}
    for name in args.config:
        if name not in overrides:
            exp = config.load(name, overrides)
            results[name] = costs(exp, measure(exp, given_params(exp, args.init_from)))
    if args.json:
        print(json.dumps(results))
    else:
        show(results)


def given_params(exp: Experiment, source: str | None) -> Any:
    """The first parameters of a run, with those of `[PART=]RUN` in their place."""
    if source is None:
        return None
    part, _, run = source.rpartition("=")
    params = jax.jit(lambda: init_params(exp.model, exp.data.length, exp.seed))()
    return graft(params, part, load_params(run)[2])


if __name__ == "__main__":
    as_program(lambda: main(sys.argv[1:]))
