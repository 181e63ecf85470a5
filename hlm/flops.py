"""What a config costs: parameters, FLOPs per byte of text by part and by level, memory.

    python -m hlm.flops configs/hat.py:tiny configs/flat.py:tiny
    python -m hlm.flops configs/hat.py:1b data.length=8192 --json
    python -m hlm.flops configs/blt.py:tiny --init-from trunk/segmenter/frozen=runs/entropy \\
        model.trunk.segmenter.threshold=1.9

FLOPs are those of matrix products and convolutions, counted in the traced program (hlm/traced.py).
It is traced for one row that has room for just what rows of the config's own text hold
(Moby-Dick's, if it has none), so neither padding nor unused room for chunks counts; recomputation
does not count either. `as run` is the step as train.py runs it, all of these included; needed over
executed is the most that the use of the hardware (MFU) can be, and what would raise it is said.

Chunks of rules are counted in packed rows of that text. A learned segmenter's are those it is
trained towards, if it says so (`target`, `prior`, `window`, examples), otherwise what the model
cuts with its first or with the given parameters.
"""

import argparse
import json
import re
import sys
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
from rich import box
from rich.console import Console
from rich.table import Table

from hlm import config, sharding
from hlm.checkpoint import graft, load_params
from hlm.config import Experiment
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy, capacities
from hlm.model.lm import abstract_params, init_params
from hlm.slots import Room, Rows, better_room, bytes_per_row, measure, packed
from hlm.traced import RECOMPUTED, Counts, kept, products
from hlm.train import step
from hlm.train.stop import as_program

__all__ = ["Rows", "bytes_per_row", "costs", "measure", "packed"]
PAYS = 0.98  # of the FLOPs of a byte: other room is worth a word where it costs less than this
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
    executed = products(as_run)[0]
    abstract, _, _ = step.init_state(exp, sharding.Mesh().make(jax.devices()[:1]))
    leaves = jax.tree_util.tree_leaves_with_path(abstract.params)
    per_byte = {
        name: {part: n / rows.nbytes for part, n in by_part(paths).items()}
        for name, paths in (("training", trained), ("inference", products(traced_forward(just))[0]))
    }
    room = (exp.data.length, *capacities(exp.model.trunk))
    again = sum(n for path, n in executed.items() if RECOMPUTED in path) / executed.total()
    ceiling = trained.total() / executed.total()
    spent = by_level({part: float(n) for part, n in by_part(executed).items()}, len(room))
    better = better_room(exp, rows, spent)
    if better is not None and better.cost > PAYS:
        better = None
    settings, once = without_recomputation(exp)
    kept_all = {"settings": settings, "ceiling": trained.total() / once} if settings else None
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
            {"elements": n, "room": most, "used": n / most, "known": how}
            | {name: by_level(parts, len(room))[level] for name, parts in per_byte.items()}
            for level, (n, most, how) in enumerate(
                zip(rows.elements, room, rows.known, strict=True)
            )
        ],
        "by_part": per_byte,
        "training": sum(per_byte["training"].values()),
        "inference": sum(per_byte["inference"].values()),
        "training_as_run": executed.total() / rows.nbytes,
        "ceiling": ceiling,
        "recomputed": again,
        "kept_all": kept_all,
        "better_room": better
        and {
            "settings": better.settings,
            "ceiling": trained.total() / rows.nbytes * better.nbytes / executed_with(exp, better),
        },
        "not_counted_in": sorted(hidden),
        "memory": {
            "parameters": nbytes(abstract.params),
            "optimizer": nbytes(abstract.optim),
            "gradients": nbytes(abstract.params),
            "activations kept for the backward pass": kept(as_run) * exp.rows // exp.accumulate,
        },
    }


def executed_with(exp: Experiment, room: Room) -> int:
    """FLOPs of a row as run, with other room for chunks."""
    for name, n in room.settings.items():
        exp = config.override(exp, name, str(n))
    return products(traced_step(exp))[0].total()


def without_recomputation(exp: Experiment) -> tuple[list[str], int]:
    """(fields of the stacks that compute their blocks again, FLOPs of a row where none does)."""
    found = [f"{at}.remat" for at, m in step.modules(exp.model, "model") if vars(m).get("remat")]
    for name in found:
        exp = config.override(exp, name, "False")
    return found, products(traced_step(exp))[0].total() if found else 0


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
            "used",
            "bytes an\nelement",
            "training\nFLOPs/byte",
            "inference\nFLOPs/byte",
            "known by",
        )
        for i, level in enumerate(r["levels"]):
            cells = (
                f"{level['elements']:,.1f}",
                f"{level['room']:,}",
                f"{level['used']:.1%}",
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
            f"memory of all devices: {memory}"
        )
        console.print(f"{mfu(r)}\n", highlight=False)
        if r["not_counted_in"]:
            console.print(f"not counted: matrix products in {', '.join(r['not_counted_in'])}")
    if len(results) > 1:
        console.print(summary(results))


def mfu(r: dict[str, Any]) -> str:
    """What slots and recomputation leave of the peak, and the setting that would raise it."""
    said = (
        f"needed over executed FLOPs: {r['ceiling']:.1%}, the ceiling of MFU; "
        f"{r['recomputed']:.1%} of those executed are computed again in the backward pass"
    )
    if r["better_room"] is None:
        said += "; slots are as full as other room would make them"
    else:
        settings = " ".join(f"{name}={n}" for name, n in r["better_room"]["settings"].items())
        said += f"; {settings} would raise it to about {r['better_room']['ceiling']:.1%}"
    if r["kept_all"] is not None:
        settings = " ".join(f"{name}=False" for name in r["kept_all"]["settings"])
        said += f"; {settings}, where memory allows, to {r['kept_all']['ceiling']:.1%}"
    return said


def summary(results: dict[str, dict[str, Any]]) -> Table:
    table = columns(
        None,
        "config",
        "M\nparams",
        "without\nlooked up",
        "training\nMFLOPs/byte",
        "by level",
        "as\nrun",
        "MFU\nat most",
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
            f"{r['ceiling']:.1%}",
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
