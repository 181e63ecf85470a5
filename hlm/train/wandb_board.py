"""Weights & Biases beside TensorBoard: `--wandb PROJECT` or ENTITY/PROJECT, an extra (hlm[wandb]).

A run folder is one run there over all its starts: its name is kept in WORKDIR/wandb.json. Points
stand over the metric `step`, so steps that are done again stand twice, the newer ones last.
"""

import contextlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from etils import epath

from hlm.train.stop import CannotGoOn
from hlm.train.whole_files import is_remote, write_whole

NAME = "wandb.json"


class WandbBoard:
    """The curves of a run at Weights & Biases; its thread and process wait for the network.

    Nothing is asked of it before the first `flush`, which is called in the thread of the logs.
    """

    def __init__(self, workdir: str, project: str, config: Any):
        """`config`: of the experiment, as JSON."""
        try:
            import wandb  # type: ignore
        except ImportError as error:
            raise CannotGoOn(
                "--wandb: the package is not installed; pip install 'hlm[wandb]'"
            ) from error
        self.wandb, self.folder, self.config = wandb, epath.Path(workdir), config
        entity, _, self.project = project.rpartition("/")
        self.entity = entity or None
        self.run: Any = None
        self.waiting: list[dict[str, Any]] = []

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """One point for each number; nothing is sent yet."""
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        self.waiting.append({"step": step} | numbers)

    def back(self, step: int) -> None:
        """Later points that were not sent are taken back."""
        self.waiting = [point for point in self.waiting if point["step"] <= step]

    def flush(self) -> None:
        """Send what waits; after an error it still waits."""
        if self.run is None:
            self.run = self._begun()
        while self.waiting:
            self.run.log(self.waiting[0])
            del self.waiting[0]

    def _begun(self) -> Any:
        run = self.wandb.init(
            project=self.project,
            entity=self.entity,
            id=self._id(),
            name=self.folder.name,
            dir=None if is_remote(self.folder) else str(self.folder),
            config=self.config,
            resume="allow",
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _id(self) -> str:
        path = self.folder / NAME
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(path.read_bytes())["id"])
        new = uuid.uuid4().hex[:12]
        write_whole(path, json.dumps({"id": new}).encode() + b"\n")
        return new

    def close(self) -> None:
        self.flush()
        self.run.finish()
