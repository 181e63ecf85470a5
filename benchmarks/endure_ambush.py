"""A training run in which a signal waits: train.py with one function replaced by a trap.

    python benchmarks/endure_ambush.py "during a save" configs/hat.py:tiny --workdir runs/x

AMBUSHES has their names.
"""

import os
import signal
import sys
from typing import Any

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
AMBUSHES = {  # (function, how many calls later, signal, before or behind the call)
    "in mid-step": ("hlm.train.log:Log.push", 5, KILL, "behind"),
    "before step 1": ("hlm.train.log:Log.__init__", 1, TERM, "before"),
    "as a save begins": ("hlm.checkpoint:Checkpoints.save", 1, KILL, "behind"),
    "during a save": ("hlm.digests:write", 2, KILL, "before"),
    "as a save ends": ("hlm.digests:write", 4, KILL, "behind"),
    "while metrics are rewritten": ("hlm.train.metrics_file:write_whole", 1, KILL, "before"),
    "between write and rename": ("os:fsync", 2, KILL, "behind"),
    "between two lines": ("hlm.train.metrics_file:MetricsFile.append", 4, KILL, "behind"),
    "while resuming": ("hlm.checkpoint:restored", 1, KILL, "behind"),
    "while leftovers are deleted": ("hlm.checkpoint:clean", 1, KILL, "before"),
    "asked to stop": ("hlm.train.log:Log.push", 3, TERM, "behind"),
    "Ctrl-C": ("hlm.train.log:Log.push", 4, INT, "before"),
    "while the lock is taken": ("hlm.train.lock:Lock.__enter__", 1, KILL, "behind"),
    "while it is written what it is": ("hlm.train.record:Record.write", 1, KILL, "behind"),
}


def lie_in_wait(name: str) -> None:
    """Replace a function by one that sends this process a signal at one of its calls."""
    import importlib

    place, calls, number, where = AMBUSHES[name]
    module, _, path = place.partition(":")
    *owners, last = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    usual, left = getattr(owner, last), [calls]

    def trap(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and where == "before":
            os.kill(os.getpid(), number)
        result = usual(*arguments, **options)
        if left[0] == 0 and where == "behind":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, last, trap)


if __name__ == "__main__":
    name, sys.argv = sys.argv[1], ["hlm.train", *sys.argv[2:]]
    lie_in_wait(name)
    from hlm.train.__main__ import script

    script()
