"""What benchmarks/gpu.py measures, section by section; each is run in a process of its own.

A section is a function (Sizes, folder) -> results, one dict after the other, so that what has been
measured counts also where the rest fails or runs out of time.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
import jax
import numpy as np
from sized import FAMILIES, ROOT, sized

from hlm import LanguageModel, config, flops, sharding
from hlm.config import Experiment
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.evals import perplexity
from hlm.model.hierarchy import capacities
from hlm.model.lm import init_params
from hlm.seq import Batch
from hlm.train import step
from hlm.train.loss import loss_and_metrics

Result = dict[str, Any]
TRAINED = ("flat:1b", "hat:1b", "aunet:2-1b")
MADE = 256  # bytes that each row generates


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured; `small`: sizes for a CPU, in seconds."""

    small: bool
    seconds: float  # that are left for a section at its start

    @property
    def timing(self) -> float:
        """Seconds of steps that are timed."""
        return 0.1 if self.small else 10.0

    def trained(self, name: str) -> Experiment:
        """A published size in bfloat16, on the shipped text."""
        family = name.partition(":")[0]
        if self.small:
            return sized(family, 64, 1, 128, 2, dtype="bfloat16", remat=True)
        exp = config.load(f"{ROOT / 'configs' / family}.py:{name.partition(':')[2]}")
        source = sized(family, 64, 1, 128, 1).data.source
        exp = config.replace(exp, data=config.replace(exp.data, source=source), accumulate=1)
        return config.replace(exp, model=config.replace(exp.model, dtype="bfloat16"))

    @property
    def elements(self) -> tuple[int, ...]:
        """In a step: the first that fits into memory."""
        return (256,) if self.small else (32768, 16384, 8192)

    def middle(self, family: str, rows: int = 8) -> Experiment:
        """About 100M parameters."""
        shape: dict[str, Any] = dict(width=768, depth=12, length=4096, byte_width=384, head=64)
        shape |= dict(byte_depth=3 if family == "aunet" else 2, remat=True, peak=6e-4)
        if family == "flat":
            shape |= dict(depth=14)
        if self.small:
            shape = dict(width=64, depth=1, length=128)
        return sized(family, rows=rows, dtype="bfloat16", **shape)


def report(seconds: float) -> Result:
    """What is in use, for a result: peak memory is the device's if it knows, else the process's,
    and of all that the process has done so far.
    """
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return {"device": device.device_kind, "seconds": seconds, "peak_gib": peak / 2**30}


def at(stage: str) -> None:
    """Say what a section is at, for when it runs out of time."""
    print(f"STAGE {stage}", flush=True)


# --- answers that must be equal on all devices


def answers(sizes: Sizes, folder: pathlib.Path, name: str) -> Iterator[Result]:
    """Losses and gradients of small models in float32 and bfloat16, into folder/NAME.npz."""
    found = {}
    for family, dtype in itertools.product(FAMILIES, ("float32", "bfloat16")):
        at(f"asking {family} in {dtype}")
        width = 64 if sizes.small else 128
        exp = sized(family, width, 1, width * 4, 2, head=width // 2, dtype=dtype)
        params = initial(exp)
        batch = next(texts(exp))

        def loss(params: Any, exp: Experiment = exp, batch: Batch = batch) -> jax.Array:
            return loss_and_metrics(exp.model, params, batch, None, 1.0, None)[0]

        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            value, grads = jax.jit(jax.value_and_grad(loss))(params)
        flat = np.concatenate([np.ravel(np.asarray(g, np.float32)) for g in jax.tree.leaves(grads)])
        found[f"{family}/{dtype}/loss"], found[f"{family}/{dtype}/gradient"] = value, flat
    np.savez(folder / f"{name}.npz", **found)
    yield {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}


def reference(sizes: Sizes, folder: pathlib.Path) -> Iterator[Result]:
    """On the CPU, beside the device: the answers, and what a byte costs (FLOPs of training)."""
    yield from answers(sizes, folder, "reference")
    for name in TRAINED:
        at(f"counting the FLOPs of {name}")
        exp = sizes.trained(name)
        cost = flops.costs(exp, flops.measure(exp))
        yield {"model": name, "flops_per_byte": cost["training"], "parameters": cost["parameters"]}


def check(sizes: Sizes, folder: pathlib.Path) -> Iterator[Result]:
    yield from answers(sizes, folder, "device")


# --- a training step


def train(name: str) -> Callable[[Sizes, pathlib.Path], Iterator[Result]]:
    def section(sizes: Sizes, folder: pathlib.Path) -> Iterator[Result]:
        exp, crowded = sizes.trained(name), False
        for elements in sizes.elements:
            rows = max(elements // exp.data.length, 1)
            try:
                result = stepped(config.replace(exp, rows=rows), sizes.timing)
                if crowded:  # the peak was that of the rows that did not fit
                    result["peak_gib"] = result["planned_gib"]
                yield {"model": name} | result
                return
            except Exception as error:
                crowded = True
                if "RESOURCE_EXHAUSTED" not in str(error) and "memory" not in str(error).lower():
                    raise
                print(f"{name}: {rows} rows do not fit", flush=True)
        raise MemoryError(f"{name}: no batch fits")

    return section


def stepped(exp: Experiment, seconds: float) -> Result:
    """Bytes a second of training, after two steps."""
    mesh = sharding.Mesh().make(jax.devices()[:1])
    _, shardings, make_state = step.init_state(exp, mesh)
    at(f"compiling the step of {exp.rows} rows")
    state, source = make_state(), texts(exp)
    batches = [next(source) for _ in range(4)]
    on_device = [sharding.put(batch, mesh) for batch in batches]
    nbytes = [int(batch.nbytes.sum()) for batch in batches]
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        compiled = step.compiled_train_step(exp, mesh, shardings)
        compiled = compiled.lower(state, on_device[0]).compile()
        compiling = time.perf_counter() - start
        at("timing steps")
        for i in range(2):
            state, metrics = jax.block_until_ready(compiled(state, on_device[i]))
        done, read, start = 0, 0, time.perf_counter()
        while done < 3 or time.perf_counter() - start < seconds:
            state, metrics = compiled(state, on_device[done % 4])
            read += nbytes[done % 4]
            done += 1
            if done % 2 == 0:  # no more than two steps ahead of the device
                jax.block_until_ready(metrics)
        jax.block_until_ready(state)
        took = time.perf_counter() - start
    memory = compiled.memory_analysis()
    planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    loss = float(metrics["loss"].value()) if "loss" in metrics else math.nan
    return report(took / done) | {
        "bytes_per_second": read / took,
        "rows": exp.rows,
        "length": exp.data.length,
        "planned_gib": planned / 2**30,
        "compile_seconds": compiling,
        "loss": loss,
    }


# --- generation


def generate(sizes: Sizes, folder: pathlib.Path) -> Iterator[Result]:
    for family, rows in itertools.product(("hat", "flat"), (1, 8, 64)):
        exp = sizes.middle(family, rows=1)
        mesh = sharding.Mesh().make(jax.devices()[:1])
        lm = LanguageModel(exp, initial(exp), mesh)
        made = 8 if sizes.small else MADE
        at(f"compiling generation, {family}, {rows} rows")
        # as much as is timed: programs are compiled for the room that a text needs
        lm.generate(["Call me "] * rows, made, temperature=1.0)
        at(f"generating, {family}, {rows} rows")
        start = time.perf_counter()
        out = lm.generate(["Call me "] * rows, made, temperature=1.0, seed=1)
        took = time.perf_counter() - start
        yield report(took) | {
            "model": f"{family}, {parameters(lm.params) / 1e6:.0f}M",
            "rows": rows,
            "bytes": sum(map(len, out)),
            "bytes_per_second": sum(map(len, out)) / took,
        }


# --- a run


def real(family: str) -> Callable[[Sizes, pathlib.Path], Iterator[Result]]:
    """Train for as long as there is time, then read the validation chapter."""

    def section(sizes: Sizes, folder: pathlib.Path) -> Iterator[Result]:
        begun, exp = time.perf_counter(), sizes.middle(family)
        mesh = sharding.Mesh().make(jax.devices()[:1])
        at("compiling the step")
        _, shardings, make_state = step.init_state(exp, mesh)
        state, source = make_state(), texts(exp)
        first = next(source)
        with jax.set_mesh(mesh):
            compiled = step.compiled_train_step(exp, mesh, shardings)
            compiled = compiled.lower(state, sharding.put(first, mesh)).compile()
        read = done = 0
        seconds = 0.0
        # half of what is left once programs are compiled, twice, is for the steps
        lasting = 0.3 if sizes.small else max(sizes.seconds - 2 * (time.perf_counter() - begun), 10)
        for share in (0.25, 0.5, 1.0):
            at(f"training, {done} steps done")
            start = time.perf_counter()
            with jax.set_mesh(mesh):
                while done < 2 or seconds + time.perf_counter() - start < 0.8 * share * lasting:
                    batch = next(source)
                    state, metrics = compiled(state, sharding.put(batch, mesh))
                    read, done = read + int(batch.nbytes.sum()), done + 1
                    if done % 2 == 0:
                        jax.block_until_ready(metrics)
                jax.block_until_ready(state)
            seconds += time.perf_counter() - start
            at(f"reading the validation text after {done} steps")
            lm = LanguageModel(exp, state.params, mesh, done)
            valid = [text for _, text in pipeline.documents(exp.valid)]
            valid = valid[:1] if sizes.small else valid
            yield report(seconds) | {
                "model": f"{family}, {parameters(state.params) / 1e6:.0f}M",
                "steps": done,
                "bytes": read,
                "bytes_per_second": read / seconds,
                "valid_bits_per_byte": perplexity.evaluate(lm, valid)["bits_per_byte"],
            }

    return section


# --- beside them: a flat model of PyTorch


def pytorch(sizes: Sizes, folder: pathlib.Path) -> Iterator[Result]:
    from torch_flat import stepped as torch_stepped  # only where torch is

    at("training in PyTorch")
    exp = sizes.trained("flat:1b")
    block = exp.model.trunk.block
    yield {"model": "flat:1b in PyTorch"} | torch_stepped(
        width=exp.model.embed.width,
        depth=exp.model.trunk.depth,
        heads=block.mixer.heads,
        feed_forward=block.mlp.width,
        length=exp.data.length,
        elements=sizes.elements,
        seconds=sizes.timing,
    )


SECTIONS: dict[str, Callable[[Sizes, pathlib.Path], Iterator[Result]]] = {
    "reference": reference,
    "check": check,
    **{f"train {name}": train(name) for name in TRAINED},
    "generate": generate,
    "pytorch": pytorch,
    **{f"real {family}": real(family) for family in ("hat", "aunet", "flat")},
}


def texts(exp: Experiment) -> Iterator[Batch]:
    """Batches of the shipped text, endless."""
    budget = Budget(exp.data.length, capacities(exp.model.trunk))
    source = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, exp.seed)
    with contextlib.closing(source):
        for batch in source:
            yield Batch(**batch)


def initial(exp: Experiment) -> Any:
    return jax.jit(lambda: init_params(exp.model, exp.data.length, exp.seed))()


def parameters(params: Any) -> int:
    return sum(a.size for a in jax.tree.leaves(params))


def run(name: str, sizes: Sizes, folder: pathlib.Path) -> None:
    """One section; results are lines of JSON behind "RESULT "."""
    for result in SECTIONS[name](sizes, folder):
        print("RESULT " + json.dumps(result), flush=True)
