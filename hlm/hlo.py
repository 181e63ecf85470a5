"""What a compiled program sends: collectives of an HLO text by kind and element type, loop bodies
times their trip counts.
"""

import collections
import dataclasses
import math
import re
from typing import Any

import numpy as np

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
    """How often a loop made by scan or by the compiler runs: as the compiler notes it, or as its
    condition says, which compares a counter from 0 with a constant, itself or in a fusion.
    """
    if (noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)) is not None:
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.-]+)", loop.rest)
    lines = list(program[condition[1]]) if condition else []
    for i in lines:
        lines += [j for called in re.findall(r"calls=%?([\w.-]+)", i.rest) for j in program[called]]
    limits = [
        re.match(r"\d+", i.rest)
        for i in lines
        if i.op == "constant" and re.match(r"[su]32\[\]", i.shape)
    ]
    compares = [i for i in lines if i.op == "compare"]
    if len(compares) != 1 or len(limits) != 1 or not limits[0]:
        return None
    direction = re.search(r"direction=(\w+)", compares[0].rest)
    more = {"LT": 0, "LE": 1}.get(direction[1] if direction else "")
    by = stride(loop, program)
    if more is None or by is None:
        return None
    return -(-(int(limits[0][0]) + more) // by)


def stride(loop: Instruction, program: dict[str, list[Instruction]]) -> int | None:
    """What a loop's counter grows by: 1, or 2 where the compiler has unrolled it. The counter is
    the element of the carry that the condition reads.
    """

    def named(attribute: str) -> list[Instruction]:
        found = re.search(rf"{attribute}=%?([\w.-]+)", loop.rest)
        return program[found[1]] if found else []

    body = {i.name: i for i in named("body")}
    read = [re.search(r"index=(\d+)", i.rest) for i in named("condition")]
    places = [int(found[1]) for found in read if found]
    if len(places) != 1 or not body:
        return None
    *_, carry = body.values()
    if places[0] >= len(operands(carry)):
        return None
    counter = body.get(operands(carry)[places[0]])
    while counter is not None and counter.op == "copy":
        counter = body.get(operands(counter)[0])
    if counter is None or counter.op != "add":
        return None
    added = [body[name] for name in operands(counter) if name in body]
    by = [re.match(r"\d+", i.rest) for i in added if i.op == "constant"]
    return int(by[0][0]) if len(by) == 1 and by[0] else None


def operands(i: Instruction) -> list[str]:
    """Names of what an instruction is applied to."""
    return re.findall(r"%([\w.-]+)", i.rest.split(")")[0])


def group_of(rest: str) -> tuple[int, ...]:
    """The first group of devices of a collective, by their places in the mesh; () is all of them.

    Groups are listed, `{{0,1},{2,3}}`, or are the lines of a reshaped and transposed range,
    `[2,2]<=[2,2]T(1,0)`, or the axes of a mesh, `mesh['a'=2,'b'=2] {'b'}`.
    """
    if (pair := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest)) is not None:
        return tuple(map(int, pair.groups()))
    if (listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest)) is not None:
        return tuple(map(int, listed[1].split(",")))
    form = r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if (lines := re.search(form, rest)) is not None:
        sizes = [int(n) for n in lines[3].split(",")]
        order = [int(n) for n in lines[4].split(",")] if lines[4] else range(len(sizes))
        ids = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
        return tuple(ids.reshape(int(lines[1]), int(lines[2]))[0].tolist())
    if (mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest)) is not None:
        sizes = [int(n) for n in re.findall(r"=(\d+)", mesh[1])]
        names, chosen = (re.findall(r"'([^']+)'", text) for text in mesh.groups())
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        first = tuple(slice(None) if name in chosen else 0 for name in names)
        return tuple(ids[first].ravel().tolist())
    return ()


def sent(kind: str, nbytes: float, devices: int) -> float:
    """Bytes that a device sends in a ring of `devices`: (n-1)/n of the array, twice for an
    all-reduce, which is a reduce-scatter and an all-gather; all of it in a permutation.
    """
    if kind == "collective-permute":
        return nbytes
    return nbytes * (devices - 1) / devices * (2 if kind == "all-reduce" else 1)


def collectives(hlo: str) -> tuple[list[dict[str, Any]], int]:
    """Collectives of one step on one device by kind, element type and group of devices, and the
    number of loops of unknown length (counted once).

    bytes: the whole array that a device holds after an all-gather or all-to-all, or before a
    reduction; `sent` says how much of it goes out. group: the first one's devices, () for all. An
    empty text, of a program that nobody could write down, has none.
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

    if entry:
        visit(entry, 1)
    # One collective that runs beside other work is written down in each of the fusions that carry
    # it, under one channel.
    once: dict[str, tuple[str, dict[str, float], int, tuple[int, ...]]] = {}
    for name, n in times.items():
        sizes = {i.name: i.shape for i in program[name]}
        for i in program[name]:
            kind = i.op.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            given = " ".join(sizes.get(name, "") for name in operands(i))
            size = shape_bytes(given if kind == "reduce-scatter" or i.op != kind else i.shape)
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
                once[key] = (kind, size, n, group_of(i.rest))
    table: dict[tuple[str, str, tuple[int, ...]], list[float]]
    table = collections.defaultdict(lambda: [0, 0])
    for kind, size, n, group in once.values():
        for dtype, total in size.items():
            table[kind, dtype, group][0] += n
            table[kind, dtype, group][1] += n * total
    rows = [
        {"kind": k, "dtype": d, "group": group, "count": int(n), "bytes": int(size)}
        for (k, d, group), (n, size) in table.items()
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
