"""Profile of some steps: a trace of device and host for TensorBoard, XProf or Perfetto
(jax.profiler).
"""

import argparse
import contextlib
from typing import Any

import jax
from etils import epath


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

    A run that begins or ends within the steps traces those that it has.
    """

    def __init__(self, workdir: str, steps: range | None):
        self.folder, self.steps = epath.Path(workdir) / "profile", steps or range(0)
        self.open = False

    def before(self, step: int, state: Any) -> None:
        """Call it before each step, with the state that the step before gave."""
        if self.open and step not in self.steps:
            jax.block_until_ready(state)
            self.end()
        elif not self.open and step in self.steps:
            jax.block_until_ready(state)  # steps before are not in the trace
            jax.profiler.start_trace(str(self.folder))
            self.open = True

    def end(self) -> None:
        self.open = False
        jax.profiler.stop_trace()

    def __exit__(self, *_: Any) -> None:
        if self.open:
            self.end()
