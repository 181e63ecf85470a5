"""The tables of docs/scaling.md: published sizes on their slices, or on others.

    python tpu/scaling.py                                      all of tpu/slices.py, as they are
    python tpu/scaling.py hat:1b hat:1b@v5e:8x16               some, and one on another slice
    python tpu/scaling.py 'aunet:2-1b@v5e:16x16 rows=256'

Every line is compiled as `tpu/aot.py` does, minutes each, and kept, so that what was
interrupted goes on where it was.
"""

import pathlib
import sys
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

from hlm import config  # noqa: E402
from hlm.train import step  # noqa: E402
from tpu import aot  # noqa: E402
from tpu.chips import topology  # noqa: E402
from tpu.slices import NAMED  # noqa: E402

HEAD = (
    "| size | slice | micro-batches | GiB of | slots used | TFLOPs needed | executed | products, s "
    "| traffic, s | MFU at most | nothing hidden |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)
# kinds of collectives, a column each
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SENT = (
    f"| size | slice | {' | '.join(KINDS)} | advice |",
    "|---|---|--:|--:|--:|--:|--:|---|",
)


def parsed(asked: str) -> tuple[str, str, list[str]]:
    """`hat:1b@v5e:8x8 rows=64` -> (hat:1b, v5e:8x8, [rows=64])."""
    place, *overrides = asked.split()
    name, _, slice_ = place.partition("@")
    if not slice_ and name not in NAMED:
        raise ValueError(f"{name!r} is no published size: give one of {', '.join(NAMED)}")
    return name, slice_ or NAMED[name], overrides


def line(asked: str, r: dict[str, Any]) -> str:
    """A row of the table of memory, work and time; numbers are of one device and step."""
    memory = r["memory"]["total"] / aot.GIB if "memory" in r else None
    b = r["bound"]
    executed, needed = r["flops_per_step_per_device"], r["needed_flops_per_step_per_device"]
    cells = [
        *place(asked),
        str(r["accumulate"]),
        f"{'more than' if memory is None else f'{memory:.1f}'} of {r['hbm_bytes'] / aot.GIB:.1f}",
        ", ".join(f"{used:.0%}" for used in r["slots_used"]),
        f"{needed / 1e12:.3g}",
        f"{executed / 1e12:.3g} ({executed / needed:.2f})",
        *((f"{b['compute_seconds']:.3f}", f"{b['traffic_seconds']:.3f}") if b else ("", "")),
        *((f"{b['mfu']:.0%}", f"{b['mfu_exposed']:.0%}") if b else ("", "")),
    ]
    return f"| {' | '.join(cells)} |"


def sent(asked: str, r: dict[str, Any]) -> str:
    """A row of the table of traffic: MiB that one device gathers or reduces a step, by kind and
    type.
    """
    cells = []
    for kind in KINDS:
        moved: dict[str, int] = {}
        for c in r["collectives"]:
            # the ragged kind, too
            if c["kind"].endswith(kind):
                moved[c["dtype"]] = moved.get(c["dtype"], 0) + c["bytes"]
        most = sorted(moved.items(), key=lambda item: -item[1])
        cells.append(", ".join(f"{n / 2**20:,.0f} {t}" for t, n in most if n >= 2**19))
    return f"| {' | '.join([*place(asked), *cells, r['advice']])} |"


def place(asked: str) -> tuple[str, str]:
    """The first two cells of a row."""
    name, slice_, overrides = parsed(asked)
    return " ".join([name, *overrides]), slice_


def measured(asked: str, cache: pathlib.Path) -> dict[str, Any]:
    """What tpu/aot.py says about a size on a slice."""
    name, slice_, overrides = parsed(asked)
    family, _, size = name.partition(":")
    exp = config.load(f"{aot.ROOT}/configs/{family}.py:{size}", overrides)
    chip, devices = topology(slice_)
    mesh = exp.mesh.make(devices)
    step.check(exp, mesh, step.init_state(exp, mesh)[0])
    return aot.report(exp, slice_, chip, mesh, cache)


def main(asked: list[str]) -> int:
    try:
        for each in asked:
            parsed(each)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(HEAD), flush=True)
    traffic = []
    for each in asked or NAMED:
        r = measured(each, aot.CACHE)
        print(line(each, r), flush=True)
        traffic.append(sent(each, r))
    print("", *SENT, *traffic, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
