"""How a run is stopped: by signals, which let it save first, and by errors that one line explains."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

LONGEST = 300  # characters of another library's message


class CannotGoOn(RuntimeError):
    """An error that its message explains: a script prints that line in place of a traceback."""


def say(line: str) -> None:
    """One line for the user, on standard error. A terminal that is gone stops nothing."""
    with contextlib.suppress(OSError, ValueError):
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)


def brief(error: BaseException) -> str:
    """What is at the bottom of an error, in one line."""
    seen = {id(error)}
    while (deeper := error.__cause__ or error.__context__) is not None and id(deeper) not in seen:
        seen.add(id(deeper))
        error = deeper
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


class Explained:
    """An object of another kind whose failing methods raise CannotGoOn: what was tried, what went wrong, and what to do."""

    def __init__(self, inner: Any, what: str, advice: str):
        self._inner, self._what, self._advice = inner, what, advice

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._guarded(found) if callable(found) else found

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except CannotGoOn:
                raise
            except Exception as error:  # orbax and tensorstore raise many types
                raise CannotGoOn(f"{self._what}: {brief(error)}; {self._advice}") from error

        return call


@contextlib.contextmanager
def listening(*numbers: signal.Signals) -> Iterator[list[int]]:
    """A list to which these signals, in place of ending the process, are added. Python lets only the main thread listen."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        say("note: this run is not in the main thread, so signals (Ctrl-C, SIGTERM) do not let it save first")
        yield received
        return
    before = {number: signal.signal(number, lambda got, frame: received.append(got)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
