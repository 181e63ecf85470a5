"""Compile the train step of a config for a TPU topology, on a machine without one: does it fit,
what does it compute and send?

    python tpu/aot.py configs/hat.py:1b --topology v5p:4x4x8 model.dtype=bfloat16
    python tpu/aot.py configs/hat.py:tiny --topology v5e:2x2 --json

The program is the one that train.py runs. This needs libtpu from PyPI (`pip install libtpu`), no
TPU and no network. FLOPs are of matrix products, counted in the traced program: every scan body
times its length, recomputation included. Collectives are counted in the compiled program, loop
bodies times their trip counts, if jaxlib can read what libtpu made. The exit status is 0 if it
fits, 3 if not, 2 if the request is wrong.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import time
from typing import Any

import jax
from jax.experimental import topologies
from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # configs import configs.common

from hlm import TextFiles, config, sharding  # noqa: E402
from hlm.checkpoint import abstract_on  # noqa: E402
from hlm.flops import bytes_per_row, packed  # noqa: E402
from hlm.hlo import collectives  # noqa: E402
from hlm.traced import products  # noqa: E402
from hlm.train import step  # noqa: E402

GIB = 2**30
# bytes of a row are measured on it: a config's own text may be far away
MOBY = TextFiles(paths=("corpus:mobydick/train.txt",))


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation, as JAX sees it."""

    axes: int  # of a topology
    hbm_gib: float  # of one device, as far as the compiler gives it to programs
    cores: int = 1  # devices of a chip
    options: tuple[tuple[str, str], ...] = ()  # for libtpu


# Nominal memory of a device: 8, 16, 32, 16, 95, 32, 96 GiB; these are what libtpu 0.0.52 says it
# has when a program is too large.
CHIPS = {
    "v2": Chip(axes=2, hbm_gib=7.48, cores=2),
    "v3": Chip(axes=2, hbm_gib=15.48, cores=2),
    # otherwise its two cores are two devices
    "v4": Chip(axes=3, hbm_gib=30.75, options=(("chip_config_name", "megacore"),)),
    "v5e": Chip(axes=2, hbm_gib=15.75),
    "v5p": Chip(axes=3, hbm_gib=95.73),
    "v6e": Chip(axes=2, hbm_gib=31.24),
    "tpu7x": Chip(axes=3, hbm_gib=94.74, cores=2),
}
EXAMPLES = "v5e:4x4, v6e:16x16, v4:2x2x4, v5p:8x8x16"


def topology(name: str) -> tuple[Chip, list[Any]]:
    """`v5e:4x4` -> (chip, compile-only devices). Raises ValueError with the names that exist."""
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"--topology: no TPU {kind!r}; give one of {', '.join(CHIPS)} and a shape, for "
            f"example {EXAMPLES}"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.axes - 1), shape):
        raise ValueError(
            f"--topology: {name!r}: the shape of a {kind} has {chip.axes} numbers, for "
            f"example {EXAMPLES}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("libtpu is not installed: pip install libtpu")
    jax.config.update("jax_platforms", "cpu")  # leave a TPU of this machine alone
    # it cannot load a program for a TPU that is not there
    jax.config.update("jax_enable_compilation_cache", False)
    # there is no TPU: do not look for one, nor for the file that gives it to one process
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    try:
        devices = topologies.get_topology_desc(name, "tpu", **dict(chip.options)).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology: libtpu refuses {name!r}: {error}") from error
    assert len(devices) == math.prod(map(int, shape.split("x"))) * chip.cores
    return chip, devices


def compile_step(lowered: Any) -> dict[str, Any]:
    """What the compiler says: memory in bytes per device, collectives; or the reason why the
    program does not fit.
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
        }
    m = compiled.memory_analysis()
    memory = {
        "arguments": m.argument_size_in_bytes,
        "outputs": m.output_size_in_bytes,
        "outputs in place of arguments": -m.alias_size_in_bytes,
        "temporaries": m.temp_size_in_bytes,
        "program": m.generated_code_size_in_bytes,
    }
    found, unknown, unread = [], 0, None
    try:
        found, unknown = collectives(compiled.as_text())
    # jaxlib cannot write down every program of a newer libtpu
    except jax.errors.JaxRuntimeError as error:
        unread = str(error).splitlines()[0]
    return {
        "compile_seconds": time.perf_counter() - start,
        "memory": memory | {"total": sum(memory.values())},
        "collectives": found,
        "collectives_unread": unread,
        "loops_of_unknown_length": unknown,
    }


def remembered(lowered: Any, name: str, folder: pathlib.Path) -> dict[str, Any]:
    """`compile_step`, kept on disk."""
    versions = [importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu")]
    flags = [os.environ.get(flag, "") for flag in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    key = json.dumps(
        [name, *versions, *flags, lowered.as_text(), pathlib.Path(__file__).read_text()]
    )
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if path.exists():
        return json.loads(path.read_text()) | {"from_cache": True}
    result = compile_step(lowered)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(result))
    scratch.replace(path)
    return result | {"from_cache": False}


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
    flops, nbytes = counted.total(), exp.rows * bytes_per_row(packed(exp, MOBY))
    found = remembered(lowered, name, cache)
    limit = chip.hbm_gib * GIB
    return {
        "topology": name,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "fits": "memory" in found and found["memory"]["total"] <= limit,
        "hbm_bytes": int(limit),
        "parameters": sum(a.size for a in jax.tree.leaves(abstract.params)),
        "flops_per_step_per_device": flops / mesh.size,
        "flops_per_byte": flops / nbytes,
        "flops_not_counted_in": sorted(hidden),
        "bytes_per_step": nbytes,
    } | found


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
        table = Table("collective", "type", "a step", "MiB a step")
        for c in r["collectives"]:
            table.add_row(c["kind"], c["dtype"], f"{c['count']:,}", f"{c['bytes'] / 2**20:,.2f}")
        if r["collectives_unread"] is None:
            console.print(table)
        else:
            console.print(
                "collectives unknown: jaxlib cannot read the compiled program: "
                f"{r['collectives_unread']}",
                markup=False,
            )
        if r["loops_of_unknown_length"]:
            console.print(
                f"{r['loops_of_unknown_length']} loops of unknown length: their collectives "
                "are counted once"
            )
    console.print(
        f"matrix products: {r['flops_per_step_per_device']:.3g} FLOPs a step and device (if "
        "all work is divided evenly), "
        f"{r['flops_per_byte']:.3g} a byte of text, {r['bytes_per_step']:,.0f} bytes a step "
        "(rows as full as with Moby-Dick)"
    )
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
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hlm" / "aot"
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        default=cache,
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
