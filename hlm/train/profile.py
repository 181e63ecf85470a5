"""Profile of some steps: a trace of device and host for TensorBoard, XProf or Perfetto
(jax.profiler).
"""

import argparse
import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from hlm.train.stop import brief, say
from hlm.train.whole_files import is_remote


def untraced(steps: range | None, start: int, end: int) -> str:
    """What to say about steps to trace of which a start that does `start` to `end` has none."""
    if not steps or (steps.start < end and start < steps.stop):
        return ""
    return (
        f"note: --profile {steps.start}:{steps.stop}: there is nothing to trace, as this start "
        f"goes from step {start} to {end}"
    )


def steps(text: str) -> range:
    """`100:105` -> the steps 100 to 104."""
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FIRST:END with FIRST below END, such as 100:105"
        )
    return range(int(first), int(end))


class Profile(contextlib.AbstractContextManager):
    """Traces `steps` into WORKDIR/profile, in every process; leaving it ends a trace that is open.

    A run that begins or ends within the steps traces those that it has. A trace that fails is a
    line of warning, and there is no other. The profiler writes to disks only: for a bucket it is
    copied when it has ended.
    """

    def __init__(self, workdir: str, steps: range | None):
        self.folder, self.steps = epath.Path(workdir) / "profile", steps or range(0)
        self.near: str | None = None  # where an open trace is written
        self.remote = is_remote(workdir)

    def before(self, step: int, state: Any) -> None:
        """Call it before each step, with the state that the step before gave."""
        if self.near is not None and step not in self.steps:
            jax.block_until_ready(state)
            self.end()
        elif self.near is None and step in self.steps:
            jax.block_until_ready(state)  # steps before are not in the trace
            with self.optional():
                self.near = tempfile.mkdtemp() if self.remote else str(self.folder)
                jax.profiler.start_trace(self.near)

    def end(self) -> None:
        near, self.near = self.near, None
        with self.optional():
            jax.profiler.stop_trace()
            if self.remote and near is not None:
                for file in (path for path in pathlib.Path(near).rglob("*") if path.is_file()):
                    far = self.folder / file.relative_to(near).as_posix()
                    far.parent.mkdir(parents=True, exist_ok=True)
                    far.write_bytes(file.read_bytes())
                shutil.rmtree(near)

    @contextlib.contextmanager
    def optional(self) -> Iterator[None]:
        """What fails in here is said, and nothing is traced any more."""
        try:
            yield
        except Exception as error:  # the profiler's, a file system's: it must not end a run
            self.near, self.steps = None, range(0)
            say(f"warning: --profile: {brief(error)}; training goes on without a trace")

    def __exit__(self, *_: Any) -> None:
        if self.near is not None:
            self.end()
