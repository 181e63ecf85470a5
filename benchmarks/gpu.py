"""One GPU in eight minutes: are its results the CPU's, how fast and how large is training, how fast
is generation, and what does a run of 100M parameters reach?

    python benchmarks/gpu.py runs/gpu                   # gpu.json and gpu.md, written as it goes
    python benchmarks/gpu.py runs/gpu --only check "train hat:1b" --minutes 3
    python benchmarks/gpu.py runs/gpu --small           # the same at small sizes, on a CPU too

Needs what hlm needs, and nothing of the network; where pip reaches none, bring what is missing as
wheels (`pip download -d wheels -r requirements.txt` elsewhere, then `pip install --no-index
--find-links wheels ...`). With torch, a flat PyTorch model of the same shape is measured beside.

Every section is a process of its own with a time limit: one that fails or hangs is one line in the
table, which says what it was at, and the others go on. What was found is also written where this
program is told to stop. `MFU`: FLOPs of the matrix products that training needs (hlm/flops.py;
nothing that is computed again) over the peak of the device.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
# Dense bfloat16 products, FLOP/s: NVIDIA's data sheets of H100 (SXM, NVL, PCIe), H200, A100.
# The first name that the device's holds.
PEAK = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
# Largest relative difference of losses and of gradients (norms) to float32 on the CPU.
CLOSE = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 1e-1)}
# Seconds that a section may take, and the least that is left when it is begun.
LIMITS = {
    "check": (75, 20),
    "train flat:1b": (100, 40),
    "train hat:1b": (100, 40),
    "train aunet:2-1b": (100, 40),
    "generate": (90, 30),
    "pytorch": (60, 20),
    "real hat": (120, 45),
    "real aunet": (120, 45),
    "real flat": (120, 45),
}
SLOWER = 4  # programs are compiled on few cores where sizes are small
# Published, for one H100: Videau et al. 2025 (arXiv 2506.14761), 1B models.
PUBLISHED = {"aunet:2-1b": 225_000, "flat:1b": 47_000}


class Section:
    """A process that measures; its results come as lines behind "RESULT ", and what it is at behind
    "STAGE ". `log`: files for what it prints.
    """

    def __init__(self, command: list[str], limit: float, log: pathlib.Path, **environment: str):
        self.begun, self.limit = time.monotonic(), limit
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                env=os.environ | environment,
                start_new_session=True,
            )

    def end(self) -> dict[str, Any]:
        """What it found, when it is over; and what went wrong in one line (or "")."""
        why = ""
        try:
            code = self.process.wait(max(self.limit - (time.monotonic() - self.begun), 0.1))
            if code:
                why = f"exit status {code}"
        except subprocess.TimeoutExpired:
            why = f"more than {self.limit:.0f} s"
            at = self.said("STAGE ")
            why += f", while {at[-1]}" if at else ""
        finally:  # also where this program is told to stop meanwhile
            self.kill()
        lines = [line.strip() for line in self.err.read_text().splitlines() if line.strip()]
        if why and lines:
            why += f": {lines[-1][:300]}"
        found = self.found()
        return found | {"failed": why or found["failed"]}

    def found(self) -> dict[str, Any]:
        """What it has found so far."""
        results = [json.loads(line) for line in self.said("RESULT ") if line.endswith("}")]
        for result in results:
            loss = result.get("loss", 0.0)
            if not math.isfinite(loss):
                return {"results": results, "failed": f"the loss is {loss}", "seconds": self.age}
        return {"results": results, "failed": "", "seconds": self.age}

    def kill(self) -> None:
        """It, and whatever it has left running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def said(self, kind: str) -> list[str]:
        lines = self.out.read_text().splitlines()
        return [line.removeprefix(kind) for line in lines if line.startswith(kind)]

    @property
    def age(self) -> float:
        return round(time.monotonic() - self.begun, 1)


@dataclasses.dataclass
class Report:
    """Everything found, written anew after each section."""

    folder: pathlib.Path
    small: bool = False
    sections: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    differences: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(self, name: str, section: dict[str, Any]) -> None:
        self.sections[name] = section
        line = section["failed"] or f"{len(section['results'])} results"
        print(f"{name}: {line} ({section['seconds']} s)", flush=True)
        self.write()

    def write(self) -> None:
        text = json.dumps(
            {"sections": self.sections, "differences": self.differences}, indent=1, default=float
        )
        (self.folder / "gpu.json").write_text(text + "\n")
        (self.folder / "gpu.md").write_text(self.markdown())

    def of(self, *names: str) -> list[dict[str, Any]]:
        """The results of the sections that begin so."""
        found = [s["results"] for name, s in self.sections.items() if name.startswith(names)]
        return [result for results in found for result in results]

    @property
    def device(self) -> str:
        found = [r for name in self.sections if name != "reference" for r in self.of(name)]
        return next((r["device"] for r in found if "device" in r), "unknown device")

    def markdown(self) -> str:
        lines = [f"# {self.device}", "", *self.checked()]
        if self.small:
            lines += ["Sizes are small: figures say that it runs, and nothing else.", ""]
        lines += self.trained()
        rows = [
            [r["model"], str(r["rows"]), f"{r['bytes_per_second']:,.0f}", f"{r['peak_gib']:.1f}"]
            for r in self.of("generate")
        ]
        lines += table("generation, bfloat16|rows|bytes/s|GiB at most so far", rows)
        rows = [
            [
                r["model"],
                f"{r['seconds']:.0f}",
                f"{r['steps']:,}",
                f"{r['bytes'] / 1e6:.1f}",
                f"{r['bytes_per_second']:,.0f}",
                f"{r['valid_bits_per_byte']:.3f}",
            ]
            for r in self.of("real")
        ]
        lines += table(
            "run on Moby-Dick|seconds|steps|MB read|bytes/s|validation, bits per byte", rows
        )
        said = [f"- {name}: {s['failed']}" for name, s in self.sections.items() if s["failed"]]
        lines += ["Failed or left out:", "", *said, ""] if said else []
        seconds = (f"{name} {s['seconds']:.0f}" for name, s in self.sections.items())
        return "\n".join([*lines, "Seconds: " + ", ".join(seconds)]) + "\n"

    def trained(self) -> list[str]:
        costs = {r["model"]: r for r in self.of("reference") if "flops_per_byte" in r}
        peak = next((p for name, p in PEAK.items() if name in self.device), None)
        rows = []
        for r in self.of("train", "pytorch"):
            cost = costs.get(r["model"].removesuffix(" in PyTorch"))
            used = cost["flops_per_byte"] * r["bytes_per_second"] if cost else None
            published = None if self.small else PUBLISHED.get(r["model"])
            rows.append(
                [
                    r["model"],
                    f"{cost['parameters'] / 1e6:,.1f}" if cost else "-",
                    f"{r['rows']} x {r['length']}",
                    f"{r['bytes_per_second']:,.0f}",
                    f"{published:,}" if published else "",
                    f"{used / 1e12:,.3g}" if used else "-",
                    f"{used / peak:.1%}" if used and peak else "-",
                    f"{r['peak_gib']:.1f}",
                    f"{r['loss']:.2f}",
                    f"{r['compile_seconds']:.0f}" if "compile_seconds" in r else "-",
                ]
            )
        head = "training step, bfloat16|M params|row|bytes/s|paper, H100|TFLOP/s|MFU|GiB|loss"
        lines = table(f"{head}|compile, s", rows)
        if lines and peak is None and not self.small:
            lines += [f"No MFU: PEAK in {pathlib.Path(__file__).name} has no {self.device}.", ""]
        return lines

    def checked(self) -> list[str]:
        if not self.differences:
            return ["Results were not compared with those of a CPU.", ""]
        good = all(d["equal"] for d in self.differences)
        lines = [
            f"Results {'equal' if good else 'DO NOT EQUAL'} those of a CPU (relative differences):",
            "",
        ]
        rows = [
            [d["model"], d["dtype"], f"{d['loss']:.1e}", f"{d['gradient']:.1e}", str(d["equal"])]
            for d in self.differences
        ]
        return lines + table("model|dtype|loss|gradient|equal", rows)


def table(head: str, rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    names = head.split("|")
    lines = [names, ["---", *["--:"] * (len(names) - 1)], *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def differences(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The device's answers against float32 on the CPU."""
    with np.load(folder / "reference.npz") as expected, np.load(folder / "device.npz") as got:
        found = []
        for key in sorted(name for name in got.files if name.endswith("/loss")):
            model, dtype, _ = key.split("/")
            loss, gradient = (
                float(
                    np.linalg.norm(got[f"{model}/{dtype}/{what}"] - exact)
                    / max(np.linalg.norm(exact), 1e-30)
                )
                for what in ("loss", "gradient")
                for exact in [expected[f"{model}/float32/{what}"]]
            )
            most = CLOSE[dtype]
            equal = bool(loss <= most[0] and gradient <= most[1])  # not a number is not equal
            found.append(
                {"model": model, "dtype": dtype, "loss": loss, "gradient": gradient, "equal": equal}
            )
        return found


def section(name: str, limit: float, args: argparse.Namespace, **environment: str) -> Section:
    command = [sys.executable, __file__, str(args.out), "--section", name]
    command += ["--until", str(time.time() + limit)] + ["--small"] * args.small
    log = args.out / name.replace(" ", "-").replace(":", "-")
    return Section(command, limit, log, **environment)


def left_out(name: str, seconds: float) -> str:
    """Why a section is not begun with so much time left, or ""."""
    if name == "pytorch" and importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    return f"only {max(seconds, 0):.0f} s were left" if seconds < LIMITS[name][1] else ""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=pathlib.Path, help="folder for gpu.json and gpu.md")
    add("--small", action="store_true", help="small sizes, for a CPU")
    add("--minutes", type=float, default=7.7, help="for everything (%(default)s)")
    add("--only", nargs="+", choices=tuple(LIMITS), default=tuple(LIMITS), help="these sections")
    add("--section", help=argparse.SUPPRESS)
    add("--until", type=float, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.section:
        import gpu_sections

        sizes = gpu_sections.Sizes(args.small, args.until - time.time())
        gpu_sections.run(args.section, sizes, args.out)
        return
    for name in ("reference", "device"):  # of an earlier run
        (args.out / f"{name}.npz").unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # as Slurm does
    found, end = Report(args.out, args.small), time.monotonic() + 60 * args.minutes
    # On the CPU's cores while the device works; awaited when its answers are asked for.
    reference = section("reference", 60 * args.minutes, args, JAX_PLATFORMS="cpu")
    try:
        for name in args.only:
            most, left = LIMITS[name][0] * (SLOWER if args.small else 1), end - time.monotonic()
            if why := left_out(name, left):
                found.add(name, {"results": [], "failed": why, "seconds": 0})
            else:
                found.add(name, section(name, min(most, left), args).end())
            found.sections["reference"] = reference.found()
            compare(found)
        # What a byte costs and what is right came from the CPU meanwhile.
        reference.limit = reference.age + max(end - time.monotonic(), 5) + 20
        found.add("reference", reference.end())
    except BaseException:  # told to stop: what the CPU has said until now
        found.sections["reference"] = reference.found()
        raise
    finally:
        reference.kill()
        compare(found)
    print((args.out / "gpu.md").read_text())


def compare(found: Report) -> None:
    """The device's answers with those of the CPU, as soon as there are both."""
    if all((found.folder / f"{name}.npz").exists() for name in ("reference", "device")):
        found.differences = differences(found.folder)
    found.write()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
