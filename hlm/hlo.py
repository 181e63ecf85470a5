"""What a compiled program sends: collectives of an HLO text by kind and element type, loop bodies
times their trip counts.
"""

import collections
import dataclasses
import math
import re
from typing import Any

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    op: str
    rest: str  # operands and attributes


LINE = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)")
CALLS = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.-]+)"
)


def computations(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a compiled program by name, and the name of the entry."""
    found: dict[str, list[Instruction]] = {}
    entry = ""
    for line in hlo.splitlines():
        if (head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)) is not None:
            body = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif (match := LINE.match(line)) is not None:
            body.append(Instruction(*match.groups()))
    return found, entry


def trips(loop: Instruction, program: dict[str, list[Instruction]]) -> int | None:
    """How often a loop made by scan runs: its condition compares a counter from 0 with a
    constant.
    """
    condition = re.search(r"condition=%?([\w.-]+)", loop.rest)
    lines = program[condition[1]] if condition else []
    limits = [
        re.match(r"\d+", i.rest)
        for i in lines
        if i.op == "constant" and i.shape.startswith("s32[]")
    ]
    if (
        [i.op for i in lines].count("compare") == 1
        and len(limits) == 1
        and limits[0]
        and "direction=LT" in lines[-1].rest
    ):
        return int(limits[0][0])
    return None


def collectives(hlo: str) -> tuple[list[dict[str, Any]], int]:
    """Collectives of one step on one device by kind and element type, and the number of loops of
    unknown length (counted once).

    bytes: the whole array that a device holds after an all-gather or all-to-all, or before a
    reduction; a ring sends (n-1)/n of it, twice for an all-reduce.
    """
    program, entry = computations(hlo)
    times: dict[str, int] = collections.defaultdict(int)
    unknown = 0

    def visit(name: str, n: int) -> None:
        nonlocal unknown
        times[name] += n
        for i in program[name]:
            length = trips(i, program) if i.op == "while" else 1
            unknown += length is None
            for callees in CALLS.findall(i.rest):
                for callee in re.findall(r"[\w.-]+", callees):
                    visit(callee, n * (length or 1))

    visit(entry, 1)
    # One collective that runs beside other work is written down in each of the fusions that carry
    # it, under one channel.
    once: dict[str, tuple[str, dict[str, float], int]] = {}
    for name, n in times.items():
        sizes = {i.name: i.shape for i in program[name]}
        for i in program[name]:
            kind = i.op.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            operands = " ".join(
                sizes.get(o, "") for o in re.findall(r"%([\w.-]+)", i.rest.split(")")[0])
            )
            size = shape_bytes(operands if kind == "reduce-scatter" or i.op != kind else i.shape)
            if i.op == "all-gather-start":
                size = {
                    dtype: total - size.get(dtype, 0)
                    for dtype, total in shape_bytes(i.shape).items()
                }
            # TPU: fused with the slice that follows
            kind = "reduce-scatter" if "all-reduce-scatter" in name else kind
            channel = re.search(r"channel_id=(\d+)", i.rest)
            key = channel[1] if channel else f"{name}/{i.name}"
            if key not in once or once[key][2] < n:
                once[key] = (kind, size, n)
    table: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0, 0])
    for kind, size, n in once.values():
        for dtype, total in size.items():
            table[kind, dtype][0] += n
            table[kind, dtype][1] += n * total
    rows = [
        {"kind": k, "dtype": d, "count": int(n), "bytes": int(size)}
        for (k, d), (n, size) in table.items()
        if size
    ]
    return sorted(rows, key=lambda row: -row["bytes"]), unknown


def shape_bytes(text: str) -> dict[str, float]:
    """Bytes of every array named in the text of a shape, by element type: `(f32[2,3]{1,0},
    bf16[8])` -> {f32: 24, bf16: 16}.
    """
    out: dict[str, float] = collections.defaultdict(float)
    for dtype, shape in re.findall(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]", text):
        bits = re.search(r"\d+", dtype)
        out[dtype] += (
            math.prod(int(n) for n in shape.split(",") if n) * (int(bits[0]) if bits else 8) / 8
        )
    return dict(out)
