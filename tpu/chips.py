"""TPU generations: what a chip has, and compile-only devices of a slice.

Peaks are the vendor's published ones (docs.cloud.google.com/tpu/docs/v5e, v5p, v6e; "bidirectional
inter-chip interconnect bandwidth" is what goes out plus what comes in).
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation, as JAX sees it."""

    axes: int  # of a topology
    hbm_gib: float  # of one device, as far as the compiler gives it to programs
    cores: int = 1  # devices of a chip
    options: tuple[tuple[str, str], ...] = ()  # for libtpu
    flops: float | None = None  # of a chip a second, bfloat16
    ici: float | None = None  # bytes a second that leave a chip, by all of its links


# Nominal memory of a device: 8, 16, 32, 16, 95, 32, 96 GiB; these are what libtpu says it
# has when a program is too large.
CHIPS = {
    "v2": Chip(axes=2, hbm_gib=7.48, cores=2),
    "v3": Chip(axes=2, hbm_gib=15.48, cores=2),
    # otherwise its two cores are two devices
    "v4": Chip(axes=3, hbm_gib=30.75, options=(("chip_config_name", "megacore"),)),
    "v5e": Chip(axes=2, hbm_gib=15.75, flops=197e12, ici=200e9),
    "v5p": Chip(axes=3, hbm_gib=95.73, flops=459e12, ici=600e9),
    "v6e": Chip(axes=2, hbm_gib=31.24, flops=918e12, ici=400e9),
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
    sides = [int(n) for n in shape.split("x")]
    options: dict[str, Any] = dict(chip.options)
    if 1 in sides[:2]:  # less than the 2x2 chips of a host that libtpu expects
        options["chips_per_host_bounds"] = (min(sides[0], 2), min(sides[1], 2), 1)
    try:
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology: libtpu refuses {name!r}: {error}") from error
    assert len(devices) == math.prod(sides) * chip.cores
    return chip, devices
