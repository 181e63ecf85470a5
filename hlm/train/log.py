"""What a run says: a progress bar, metrics.jsonl, TensorBoard files and, at the end, the loss curve
as a picture.

Nothing here can stop or delay training: files are written by a thread, and whatever cannot be
written is one line of warning.
"""

import io
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hlm.metrics import Metrics, merge, to_floats
from hlm.seq import Batch
from hlm.train.aside import Aside, Optional, Retry
from hlm.train.board import Board
from hlm.train.goodput import SECONDS, SHARES, TIME, Goodput
from hlm.train.metrics_file import MetricsFile
from hlm.train.stop import CannotGoOn, brief
from hlm.train.whole_files import is_remote, write_whole

# metrics that are of the machine and its hour: a run that is repeated has others
OF_THE_MACHINE = frozenset(
    {"bytes_per_second", "device_memory_mib", "waiting", SECONDS, TIME, *SHARES}
)


def device_memory() -> dict[str, float]:
    """The most MiB that arrays took on this process's first device so far, where it keeps count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    most = stats.get("peak_bytes_in_use")
    return {} if most is None else {"device_memory_mib": most / 2**20}


class NonFinite(CannotGoOn):
    """The loss is NaN or infinite."""


class Log:
    """Collects the metrics of steps and reports every `every` of them. Only process 0 writes.

    Metrics are fetched one step late, so that the device never waits for the host. `bits` and
    `accuracy` are the model's names for what is shown of them (LM.bits).
    """

    def __init__(
        self,
        workdir: str,
        steps: int,
        start: int,
        every: int,
        bits: str,
        accuracy: str,
        goodput: Goodput | None = None,
        on_spike: Callable[[int, float, float], None] | None = None,
        beside: Any = None,
    ):
        """`on_spike` hears of each spike (hlm/train/guard.py): step, gradient norm and loss.
        `beside`: another board for the same curves (hlm/train/wandb_board.py).
        """
        self.beside = beside
        self.on_spike = on_spike
        self.sound = True  # the loss before was a number
        self.goodput = goodput or Goodput()
        self.folder = epath.Path(workdir)
        self.bits, self.accuracy = bits, accuracy
        self.remote = is_remote(workdir)
        self.every, self.start = max(every, 1), start
        self.pending: tuple[int, Metrics, Batch] | None = None
        self.window: Metrics | None = None
        self.since = time.perf_counter()
        self.lead = jax.process_index() == 0
        self.before: dict[str, Any] = {}  # the newest line of the starts before this one
        self.closed = False
        if self.lead:
            self.metrics = MetricsFile(self.folder / "metrics.jsonl", start)
            self.before = self.metrics.newest
            self.board = Board(self.folder / "tensorboard", start)
            self.files, self.retry = Aside(), Retry()
            self.save()
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[line]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, refresh_per_second=2)
            self.screen = Optional()
            self.task = self.bar.add_task("train", total=steps, completed=start, line="")
            self.show(self.bar.start)

    def push(self, step: int, metrics: Metrics, batch: Batch) -> None:
        """Metrics of `step` (still on their way) and its batch (numpy); those of the step before
        are examined now.
        """
        self.flush()
        self.pending = (step, metrics, batch)

    def flush(self) -> None:
        """Examine the last pushed step. Raises NonFinite, after keeping its batch."""
        if self.pending is None:
            return
        step, metrics, batch = self.pending
        self.pending = None
        metrics = jax.device_get(metrics)
        self.goodput.stepping()
        loss = metrics["loss"].value()
        spike = "spikes" in metrics and metrics["spikes"].value() > 0
        if spike and self.on_spike is not None:
            self.on_spike(step, metrics["grad_norm"].value(), loss)
        if not math.isfinite(loss):
            # an update that was left out does no harm; two in a row are not the text's doing
            if not (spike and self.sound):
                raise NonFinite(f"the loss of step {step} is {loss}; {self.kept(batch)}")
            metrics = without_infinite(metrics)
        self.sound = math.isfinite(loss)
        self.window = window = metrics if self.window is None else merge(self.window, metrics)
        if (step + 1) % self.every == 0:
            now = time.perf_counter()
            nbytes = float(window["bytes_per_row"].total)
            values = to_floats(window) | {"bytes_per_second": nbytes / (now - self.since)}
            values |= device_memory() | self.goodput.report()
            self.since, self.window = now, None
            self.write(step + 1, "train", values)
        if self.lead:
            self.show(lambda: self.bar.update(self.task, completed=step + 1))

    def back(self, step: int) -> None:
        """The run goes on from an earlier step: what was reported of later ones is taken back."""
        self.pending = self.window = None
        self.since, self.sound = time.perf_counter(), True
        if self.lead:
            self.files.put("metrics.jsonl", lambda: self.metrics.back(step))
            self.files.put("TensorBoard's files", lambda: self.board.back(step))
            self.files.put("W&B", lambda: self.tell(lambda board: board.back(step)))
            self.show(lambda: self.bar.update(self.task, completed=step))

    def kept(self, batch: Batch) -> str:
        """Keep a batch for a closer look; where it is, or why it is nowhere."""
        path = self.folder / f"bad_batch_{jax.process_index()}.npz"
        try:
            with path.open("wb") as file:
                np.savez(file, **vars(batch))
        except Exception as error:  # the loss is what the user must hear of
            return f"its batch could not be kept in {path} ({brief(error)})"
        return f"its batch is in {path}"

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, one point per TensorBoard curve, and the headline beside the
        progress bar.
        """
        if not self.lead:
            return
        values = {name: value for name, value in values.items() if value is not None}
        line = {"step": step, "kind": kind} | values | self.goodput.sign()

        def to_files() -> None:
            self.files.attempt("metrics.jsonl", lambda: self.metrics.append(line))
            points = {f"{kind}/{name}": value for name, value in values.items()}
            self.board.add(step, points)
            self.files.attempt("W&B", lambda: self.tell(lambda board: board.add(step, points)))
            if self.retry.due() and not self.remote:
                self.flush_board()

        self.files.put("TensorBoard's files", to_files)
        self.show(lambda: self.headline(step, kind, values))

    def headline(self, step: int, kind: str, values: dict[str, Any]) -> None:
        if kind != "train":
            found = (
                f"{words(self.bits)} {values[self.bits]:.4f}",
                f"{words(self.accuracy)} {values[self.accuracy]:.3f}",
            )
            parts = [
                f"{name.removesuffix(f'/{self.bits}')} {value:.4f}"
                for name, value in values.items()
                if name.endswith(f"/{self.bits}")
            ]
            apart = f" ({', '.join(parts)})" if parts else ""
            self.bar.console.print(f"step {step}: {kind} {', '.join(found)}{apart}")
            return
        found = (f"loss {values['loss']:.3f}", f"{words(self.bits)} {values[self.bits]:.3f}")
        line = f"{'  '.join(found)}  {values['bytes_per_second'] / 1000:,.1f} kB/s"
        if values.get("waiting", 0) >= 0.05:
            line += f"  waiting for data {values['waiting']:.0%}"
        line += f"  goodput {values['goodput']:.0%}"
        self.bar.update(self.task, line=line)
        if not self.bar.console.is_terminal:  # a file or a pipe has no bar
            self.bar.console.print(f"step {step}  {line}")

    def show(self, job: Callable[[], None]) -> None:
        """Show something; a terminal that is gone, or a full disk behind it, is asked once."""
        if not self.screen.failed:
            self.screen.attempt("the progress", job)

    def pause(self) -> None:
        """Time until the next step is not training time.

        What failed before is tried again, and a bucket is written to.
        """
        self.since = time.perf_counter()
        if self.lead:
            self.save()

    def save(self) -> None:
        self.files.put("metrics.jsonl", self.metrics.save)
        self.files.put("TensorBoard's files", self.flush_board)
        self.files.put("W&B", lambda: self.tell(lambda board: board.flush()))

    def tell(self, job: Callable[[Any], None]) -> None:
        """The board beside TensorBoard, if there is one."""
        if self.beside is not None:
            job(self.beside)

    def flush_board(self) -> None:
        if not self.files.attempt("TensorBoard's files", self.board.flush):
            self.retry.failed()

    def close(self) -> None:
        """Write what is left, and the picture. Once is enough."""
        if not self.lead or self.closed:
            return
        self.closed = True
        self.show(self.bar.stop)
        self.save()
        self.files.put("loss.png", self.draw)
        self.files.put("TensorBoard's files", self.board.close)
        self.files.put("W&B", lambda: self.tell(lambda board: board.close()))
        self.files.close()

    def draw(self) -> None:
        figure = curves(self.metrics.records(), self.folder.name, self.bits)
        if figure is not None:
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=120)
            write_whole(self.folder / "loss.png", drawn.getvalue())


def without_infinite(metrics: Metrics) -> Metrics:
    """Metrics of a step that add up: those that are no numbers count nothing."""
    return {
        name: m if math.isfinite(m.value()) else jax.tree.map(np.zeros_like, m)
        for name, m in metrics.items()
    }


def words(name: str) -> str:
    return name.replace("_", " ")


def curves(lines: list[dict[str, Any]], title: str, bits: str) -> Any:
    """A figure of the metric `bits` over steps, training and validation; None where it was never
    reported.
    """
    from matplotlib.figure import Figure  # half a second, when the run is over

    points = {kind: of(lines, kind, bits) for kind in ("train", "valid")}
    values = sorted(y for found in points.values() for _, y in found)
    if not values:
        return None
    figure = Figure(figsize=(7, 4), layout="tight")
    axes = figure.subplots()
    for kind, style in (("train", "-"), ("valid", "o-")):
        if points[kind]:
            axes.plot(
                *zip(*points[kind], strict=True), style, label=kind, linewidth=1, markersize=4
            )
    axes.set(xlabel="step", ylabel=words(bits), title=title)
    top = values[int(0.98 * (len(values) - 1))]
    axes.set_ylim(top=top * 1.05)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def of(lines: list[dict[str, Any]], kind: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of the lines of one kind that have a finite number of that name."""
    found = [(line["step"], line.get(name)) for line in lines if line["kind"] == kind]
    return [
        (step, value)
        for step, value in found
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
