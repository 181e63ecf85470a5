"""The table of docs/scaling.md: published sizes on their slices, or on others.

    python tpu/scaling.py                                      all of tpu/slices.py, as they are
    python tpu/scaling.py hat:1b hat:1b@v5e:8x16               some, and one on another slice
    python tpu/scaling.py 'aunet:2-1b@v5e:16x16 rows=256 accumulate=1'

Every line is compiled as `tpu/aot.py` does, minutes each, and kept, so that a table that was
interrupted goes on where it was.
"""

import pathlib
import sys
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

from hlm import config  # noqa: E402
from hlm.train import step  # noqa: E402
from tpu import aot  # noqa: E402
from tpu.bound import reduced_in  # noqa: E402
from tpu.chips import topology  # noqa: E402
from tpu.slices import NAMED  # noqa: E402

HEAD = (
    "| size | slice | micro-batches | GiB of | slots used | executed over needed | products, s "
    "| traffic, s | sums in | MFU at most | nothing hidden |",
    "|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|",
)


def parsed(asked: str) -> tuple[str, str, list[str]]:
    """`hat:1b@v5e:8x8 rows=64` -> (hat:1b, v5e:8x8, [rows=64])."""
    place, *overrides = asked.split()
    name, _, slice_ = place.partition("@")
    if not slice_ and name not in NAMED:
        raise ValueError(f"{name!r} is no published size: give one of {', '.join(NAMED)}")
    return name, slice_ or NAMED[name], overrides


def line(asked: str, r: dict[str, Any]) -> str:
    """A row of the table."""
    name, slice_, overrides = parsed(asked)
    memory = r["memory"]["total"] / aot.GIB if "memory" in r else None
    b = r["bound"]
    over = r["flops_per_step_per_device"] / r["needed_flops_per_step_per_device"]
    cells = [
        " ".join([name, *overrides]),
        slice_,
        str(r["accumulate"]),
        f"{'more than' if memory is None else f'{memory:.1f}'} of {r['hbm_bytes'] / aot.GIB:.1f}",
        ", ".join(f"{used:.0%}" for used in r["slots_used"]),
        f"{over:.2f}",
        *((f"{b['compute_seconds']:.3f}", f"{b['traffic_seconds']:.3f}") if b else ("", "")),
        next(iter(reduced_in(r)), ""),
        *((f"{b['mfu']:.0%}", f"{b['mfu_exposed']:.0%}") if b else ("", "")),
    ]
    return f"| {' | '.join(cells)} |"


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
    for each in asked or NAMED:
        r = measured(each, aot.CACHE)
        print(line(each, r), flush=True)
        print(f"{each}: {r['advice']}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
