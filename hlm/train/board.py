"""TensorBoard's files of a run.

tensorboardX's own writer hands events to a thread through a queue that blocks for ever once that
thread has met a full disk. Here they are written by whoever calls `flush`, and those that could not
be written are kept for the next try, in another file.
"""

import contextlib
import itertools
import os
import pathlib
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter, directory_check
from tensorboardX.summary import scalar

from hlm.train.whole_files import is_remote

Event: Any = event_pb2.Event  # type: ignore  # made by protobuf when imported
SessionLog: Any = event_pb2.SessionLog  # type: ignore
MOST = 1_000_000  # events kept while nothing can be written


class Board:
    """Event files in `folder`.

    Points of steps after `start`, which a resumed run makes again, are taken back.
    """

    def __init__(self, folder: epath.Path, start: int):
        self.folder, self.remote = folder, is_remote(folder)
        self.numbers = itertools.count()
        self.file: RecordWriter | None = None
        self.waiting: list[Any] = []
        self.back(start)

    def back(self, step: int) -> None:
        """Take back the points of steps after `step`."""
        began = SessionLog(status=SessionLog.START)
        self.waiting.append(Event(step=step + 1, wall_time=time.time(), session_log=began))

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """One point for each number; nothing is written yet."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.waiting.append(
                    Event(step=step, wall_time=time.time(), summary=scalar(name, value))
                )
        del self.waiting[1:-MOST]

    def flush(self) -> None:
        """Write what waits.

        After an OSError it still waits, and the next flush begins another file.
        """
        if self.remote and not self.waiting:
            return
        try:
            if self.file is None:
                self.file = self._opened()
            for event in self.waiting:
                self.file.write(event.SerializeToString())
            self.file.flush()
            if self.remote:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = pathlib.Path(self.file.path)
                (self.folder / path.name).write_bytes(path.read_bytes())
                self._drop()
        except BaseException:
            self._drop()
            raise
        self.waiting.clear()

    def _opened(self) -> RecordWriter:
        """A file of its own for each start and each try, whose name sorts behind those before."""
        folder = tempfile.mkdtemp() if self.remote else os.fspath(self.folder)
        directory_check(folder)
        now = time.time()
        one = f"{socket.gethostname()}.{os.getpid()}.{time.time_ns()}.{next(self.numbers)}"
        name = f"events.out.tfevents.{int(now):010d}.{one}"
        file = RecordWriter(os.path.join(folder, name))
        file.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        return file

    def _drop(self) -> None:
        file, self.file = self.file, None
        if file is None:
            return
        # it is closed by this in any case, and why it failed is known
        with contextlib.suppress(Exception):
            file.close()
        with contextlib.suppress(OSError):
            if self.remote:
                shutil.rmtree(os.path.dirname(file.path))
            elif not os.path.getsize(file.path):
                os.unlink(file.path)

    def close(self) -> None:
        self.flush()
        self._drop()
