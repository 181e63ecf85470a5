"""What a run says: a progress bar, metrics.jsonl, TensorBoard files and, at the end, the loss curve as a picture."""

import json
import math
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from hlm.metrics import Metrics, merge, to_floats
from hlm.seq import Batch


class NonFinite(RuntimeError):
    """The loss is NaN or infinite."""


class Log:
    """Collects the metrics of steps and reports every `every` of them. Only process 0 writes.

    Metrics are fetched one step late, so that the device never waits for the host. `bits` and `accuracy` are the model's names for
    what is shown of them (LM.bits).
    """

    def __init__(self, workdir: str, steps: int, start: int, every: int, bits: str, accuracy: str):
        self.folder = epath.Path(workdir)
        self.bits, self.accuracy = bits, accuracy
        self.remote = "://" in str(workdir)
        self.every, self.start = max(every, 1), start
        self.pending: tuple[int, Metrics, Batch] | None = None
        self.window: Metrics | None = None
        self.since = time.perf_counter()
        self.lead = jax.process_index() == 0
        if self.lead:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lines = lines_until(self.folder / "metrics.jsonl", start)
            self.save()
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start)
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[line]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, refresh_per_second=2)
            self.task = self.bar.add_task("train", total=steps, completed=start, line="")
            self.bar.start()

    def push(self, step: int, metrics: Metrics, batch: Batch) -> None:
        """Metrics of `step` (still on their way) and its batch (numpy); those of the step before are examined now."""
        self.flush()
        self.pending = (step, metrics, batch)

    def flush(self) -> None:
        """Examine the last pushed step. Raises NonFinite, after keeping its batch."""
        if self.pending is None:
            return
        step, metrics, batch = self.pending
        self.pending = None
        metrics = jax.device_get(metrics)
        loss = metrics["loss"].value()
        if not math.isfinite(loss):
            path = self.folder / f"bad_batch_{jax.process_index()}.npz"
            with path.open("wb") as file:
                np.savez(file, **vars(batch))
            raise NonFinite(f"the loss of step {step} is {loss}; its batch is in {path}")
        self.window = window = metrics if self.window is None else merge(self.window, metrics)
        if (step + 1) % self.every == 0:
            now = time.perf_counter()
            nbytes = float(window["bytes_per_row"].total)
            values = to_floats(window) | {"bytes_per_second": nbytes / (now - self.since)}
            self.since, self.window = now, None
            self.write(step + 1, "train", values)
        if self.lead:
            self.bar.update(self.task, completed=step + 1)

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, one point per TensorBoard curve, and the headline beside the progress bar."""
        if not self.lead:
            return
        values = {name: value for name, value in values.items() if value is not None}
        self.lines.append(json.dumps({"step": step, "kind": kind} | values) + "\n")
        if (
            not self.remote
        ):  # objects in a bucket cannot grow: those are written at every evaluation and checkpoint
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(self.lines[-1])
        for name, value in values.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)
        if kind != "train":
            found = (
                f"{words(self.bits)} {values[self.bits]:.4f}",
                f"{words(self.accuracy)} {values[self.accuracy]:.3f}",
            )
            self.bar.console.print(f"step {step}: {kind} {', '.join(found)}")
            return
        found = (f"loss {values['loss']:.3f}", f"{words(self.bits)} {values[self.bits]:.3f}")
        line = f"{'  '.join(found)}  {values['bytes_per_second'] / 1000:,.1f} kB/s"
        self.bar.update(self.task, line=line)
        if not self.bar.console.is_terminal:  # a file or a pipe has no bar
            self.bar.console.print(f"step {step}  {line}")

    def pause(self) -> None:
        """Time until the next step is not training time."""
        self.since = time.perf_counter()
        if self.lead and self.remote:
            self.save()

    def save(self) -> None:
        (self.folder / "metrics.jsonl").write_text("".join(self.lines))

    def close(self) -> None:
        if self.lead:
            self.bar.stop()
            self.save()
            self.board.close()
            draw(self.lines, self.folder / "loss.png", self.folder.name, self.bits)


def words(name: str) -> str:
    return name.replace("_", " ")


def lines_until(path: epath.Path, step: int) -> list[str]:
    """Lines of steps up to `step`: those that a resumed run does again, and a last line cut short by a crash, are left out."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break
    return kept


def draw(metrics: list[str], picture: epath.Path, title: str, bits: str) -> None:
    """The metric `bits` over steps, training and validation."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in metrics]
    if not lines:
        return
    figure, axes = plt.subplots(figsize=(7, 4))
    for kind, style in (("train", "-"), ("valid", "o-")):
        points = [(x["step"], x[bits]) for x in lines if x["kind"] == kind]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=kind, linewidth=1, markersize=4)
    axes.set(xlabel="step", ylabel=words(bits), title=title)
    top = sorted(x[bits] for x in lines)[int(0.98 * (len(lines) - 1))]
    axes.set_ylim(top=top * 1.05)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    with picture.open("wb") as file:
        figure.savefig(file, dpi=120)
    plt.close(figure)
