"""Compile the train step of a config for a TPU topology, on a machine without one: does it fit,
what does it compute and send?

    python tpu/aot.py configs/hat.py:1b --topology v5e:16x16
    python tpu/aot.py configs/hat.py:tiny --topology v5e:2x2 --json

The program is the one that train.py runs. This needs libtpu from PyPI (the one that jax pins), no
TPU and no network. FLOPs are of matrix products, counted in the traced program: every scan body
times its length, recomputation included; needed ones as in hlm/flops.py. Collectives are counted in
the compiled program, loop bodies times their trip counts, if jaxlib can read what libtpu made (it
can with the libtpu that jax pins). The bound on MFU and what would raise it: tpu/bound.py. The exit
status is 0 if it fits, 3 if not, 2 if the request is wrong.
"""

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
import time
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # configs import configs.common

from hlm import Stack, config, flops, sharding, slots  # noqa: E402
from hlm.checkpoint import abstract_on  # noqa: E402
from hlm.hlo import collectives  # noqa: E402
from hlm.traced import products  # noqa: E402
from hlm.train import step  # noqa: E402
from tpu import bound  # noqa: E402
from tpu.chips import EXAMPLES, Chip, topology  # noqa: E402

GIB = 2**30
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hlm" / "aot"


def compile_step(lowered: Any) -> tuple[dict[str, Any], str]:
    """What the compiler says: memory in bytes per device, or the reason why the program does not
    fit; and the program's text, empty where jaxlib cannot write it down.
    """
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {
            "compile_seconds": time.perf_counter() - start,
            "reason": str(error).split("\n\n")[0],
        }, ""
    m = compiled.memory_analysis()
    memory = {
        "arguments": m.argument_size_in_bytes,
        "outputs": m.output_size_in_bytes,
        "outputs in place of arguments": -m.alias_size_in_bytes,
        "temporaries": m.temp_size_in_bytes,
        "program": m.generated_code_size_in_bytes,
    }
    text, unread = "", None
    try:
        text = compiled.as_text()
    # jaxlib cannot write down every program of a libtpu that its jax does not pin
    except jax.errors.JaxRuntimeError as error:
        unread = str(error).splitlines()[0]
    return {
        "compile_seconds": time.perf_counter() - start,
        "memory": memory | {"total": sum(memory.values())},
        "collectives_unread": unread,
    }, text


def remembered(lowered: Any, name: str, folder: pathlib.Path) -> tuple[dict[str, Any], str]:
    """`compile_step`, kept on disk with the program's text, so that this file may change."""
    versions = [importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu")]
    flags = [os.environ.get(flag, "") for flag in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    key = json.dumps([name, *versions, *flags, lowered.as_text()])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json.gz"
    if path.exists():
        kept = json.loads(gzip.decompress(path.read_bytes()))
        return kept["result"] | {"from_cache": True}, kept["text"]
    result, text = compile_step(lowered)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(gzip.compress(json.dumps({"result": result, "text": text}).encode()))
    scratch.replace(path)
    return result | {"from_cache": False}, text


def report(
    exp: config.Experiment, name: str, chip: Chip, mesh: jax.sharding.Mesh, cache: pathlib.Path
) -> dict[str, Any]:
    """Everything that is printed."""
    abstract, shardings, _ = step.init_state(exp, mesh)
    rows = sharding.rows(mesh)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows),
        step.abstract_batch(exp.rows, exp.data.length),
    )
    with jax.set_mesh(mesh):
        traced = step.compiled_train_step(exp, mesh, shardings).trace(
            abstract_on(abstract, shardings), batch
        )
        lowered = traced.lower()
    counted, hidden = products(traced.jaxpr.jaxpr)
    rows = slots.measure(on_moby(exp), run=False)
    cost = flops.costs(exp, rows)
    executed, nbytes = counted.total(), exp.rows * rows.nbytes
    found, text = remembered(lowered, name, cache)
    sends, unknown = collectives(text)
    limit = chip.hbm_gib * GIB
    result = {
        "topology": name,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "accumulate": exp.accumulate,
        "fits": "memory" in found and found["memory"]["total"] <= limit,
        "hbm_bytes": int(limit),
        "parameters": sum(a.size for a in jax.tree.leaves(abstract.params)),
        "needed_flops_per_step_per_device": cost["training"] * nbytes / mesh.size,
        "flops_per_step_per_device": executed / mesh.size,
        "flops_per_byte": executed / nbytes,
        "flops_not_counted_in": sorted(hidden),
        "slots_used": [level["used"] for level in cost["levels"]],
        "recomputed": cost["recomputed"],
        "better_room": cost["better_room"],
        "remat": remat_fields(exp.model),
        "unsplit": sharding.unsplit(abstract.params, mesh),
        "bytes_per_step": nbytes,
        "collectives": bound.with_seconds(sends, chip, list(mesh.devices.flat)),
        "loops_of_unknown_length": unknown,
    }
    result |= found
    result["bound"] = bound.bound(result, chip)
    return result | {"advice": bound.advice(result)}


def on_moby(exp: config.Experiment) -> config.Experiment:
    """The experiment on Moby-Dick: a config's own text may be far away."""
    return config.replace(exp, data=config.replace(exp.data, source=slots.MOBY))


def remat_fields(model: Any) -> list[str]:
    """The fields that would keep products with weights in stacks that compute all again."""
    return [
        f"{place}.keep_projections"
        for place, part in step.modules(model, "model")
        if isinstance(part, Stack) and part.depth and part.remat and not part.keep_projections
    ]


def show(r: dict[str, Any], reference: str) -> None:
    """The report as tables."""
    console = Console()
    mesh = ", ".join(f"{axis} {n}" for axis, n in r["mesh"].items())
    console.print(
        f"[bold]{reference}[/] on {r['topology']}: {r['devices']} devices ({mesh}), "
        f"{r['parameters'] / 1e6:,.1f} M parameters"
    )
    if "memory" in r:
        table = Table("memory of a device", "MiB", "of its HBM")
        for part, size in r["memory"].items():
            table.add_row(
                part,
                f"{size / 2**20:,.1f}",
                f"{size / r['hbm_bytes']:.1%}",
                style="bold" if part == "total" else "",
            )
        console.print(table)
        table = Table("collective", "type", "devices", "a step", "MiB a step", "ms")
        for c in r["collectives"]:
            size = f"{c['bytes'] / 2**20:,.2f}"
            ms = "" if c["seconds"] is None else f"{1000 * c['seconds']:,.2f}"
            table.add_row(c["kind"], c["dtype"], str(c["devices"]), f"{c['count']:,}", size, ms)
        if r["collectives_unread"] is None:
            console.print(table)
        else:
            console.print(
                "collectives unknown: jaxlib cannot read the compiled program; install the libtpu "
                f"that jax pins (pip install 'jax[tpu]'): {r['collectives_unread']}",
                markup=False,
            )
        if r["loops_of_unknown_length"]:
            console.print(
                f"{r['loops_of_unknown_length']} loops of unknown length: their collectives "
                "are counted once"
            )
    console.print(
        f"matrix products: {r['flops_per_step_per_device']:.3g} FLOPs a step and device (if "
        "all work is divided evenly), of which "
        f"{r['needed_flops_per_step_per_device']:.3g} are needed; "
        f"{r['flops_per_byte']:.3g} a byte of text, {r['bytes_per_step']:,.0f} bytes a step "
        "(rows as full as with Moby-Dick); slots used: "
        + ", ".join(f"{used:.0%}" for used in r["slots_used"])
    )
    console.print(bound.said(r), style="bold")
    console.print(f"advice: {r['advice']}", markup=False)
    if r["flops_not_counted_in"]:
        console.print(f"not counted: matrix products in {', '.join(r['flops_not_counted_in'])}")
    console.print(
        f"compiled in {r['compile_seconds']:.1f} "
        f"s{' (kept from before)' if r['from_cache'] else ''}"
    )
    verdict = (
        f"of {r['hbm_bytes'] / GIB:.2f} GiB that a program may use on a "
        f"{r['topology'].partition(':')[0]} device"
    )
    if "memory" in r:
        console.print(
            f"{'fits' if r['fits'] else 'DOES NOT FIT'}: {r['memory']['total'] / GIB:.2f} GiB "
            f"{verdict}",
            style="bold",
        )
    else:
        console.print(f"DOES NOT FIT: {r['reason']}", style="bold", markup=False)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="FILE.py:SIZE")
    parser.add_argument("--topology", required=True, help=f"for example {EXAMPLES}")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        default=CACHE,
        help="folder where results are kept (%(default)s)",
    )
    parser.add_argument("overrides", nargs="*", help="for example rows=256 mesh.model=4")
    args = parser.parse_intermixed_args(arguments)
    try:
        exp = config.load(args.config, args.overrides)
        chip, devices = topology(args.topology)
        mesh = exp.mesh.make(devices)
        step.check(exp, mesh, step.init_state(exp, mesh)[0])
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    result = {"config": args.config, "overrides": args.overrides}
    result |= report(exp, args.topology, chip, mesh, args.cache.expanduser())
    if args.json:
        print(json.dumps(result))
    else:
        show(result, " ".join([args.config, *args.overrides]))
    return 0 if result["fits"] else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
