"""How a run is stopped: by signals, which let it save first, and by errors that one line
explains.
"""

import contextlib
import logging
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn

LIBRARY = pathlib.Path(__file__).parents[1]
LONGEST = 300  # characters of another library's message


class CannotGoOn(RuntimeError):
    """An error that its message explains: a script prints that line in place of a traceback."""


def say(line: str) -> None:
    """One line for the user, on standard error. A terminal that is gone stops nothing."""
    with contextlib.suppress(OSError, ValueError):
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)


def brief(error: BaseException) -> str:
    """What an error was made from, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 3]} ... {text[-LONGEST // 2 :]}"


class Explained:
    """An object some of whose methods, when they fail, raise CannotGoOn: what was tried, what went
    wrong, what to do.

    While another error is on its way, that is a line to read and nothing more: it must not take the
    other's place.
    """

    def __init__(
        self,
        inner: Any,
        names: Collection[str],
        what: str,
        advice: str,
        passing: type[Exception] = CannotGoOn,
    ):
        """`passing`: errors that are something else."""
        self._inner, self._names, self._passing = inner, names, passing
        self._what, self._advice = what, advice

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._guarded(found) if name in self._names else found

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            earlier = sys.exc_info()[1]
            try:
                return method(*args, **kwargs)
            except self._passing:
                raise
            except Exception as error:  # orbax and tensorstore raise many types
                line = f"{self._what}: {brief(error)}; {self._advice}"
                if earlier is None:
                    raise CannotGoOn(line) from error
                if str(earlier) != line:
                    say(line)

        return call


@contextlib.contextmanager
def listening(*numbers: signal.Signals) -> Iterator[list[int]]:
    """A list to which these signals, in place of ending the process, are added.

    Python lets only the main thread listen.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        say(
            "note: this run is not in the main thread, so signals (Ctrl-C, SIGTERM) do not "
            "let it save first"
        )
        yield received
        return
    before = {
        number: signal.signal(number, lambda got, frame: received.append(got)) for number in numbers
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def explains_itself(error: Exception) -> bool:
    """Whether hlm or a config raised this, in one line: a mistake of the user's, not a fault."""
    frames = traceback.extract_tb(error.__traceback__)
    own = bool(frames) and LIBRARY in pathlib.Path(frames[-1].filename).parents
    return isinstance(error, CannotGoOn) or (own and "\n" not in str(error))


def last_words(error: Exception) -> NoReturn:
    """Say what has happened and end the process with status 1, without what libraries would have to
    add to it.
    """
    say(str(error))
    for child in multiprocessing.active_children():
        child.terminate()
    let_go()
    os._exit(1)


def as_program(main: Callable[[], Any]) -> None:
    """Run the `main` of a program. What one line explains ends in that line and status 1.

    So does, without a line, a reader of its output that has gone, such as `head`.
    """
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        let_go()
        os._exit(1)
    except (CannotGoOn, ValueError, OSError) as error:
        if not explains_itself(error):
            raise
        last_words(error)
    finally:
        let_go()


def let_go() -> None:
    """Write what is left in the standard streams.

    One that takes nothing any more is no error of the run.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def without_echoes() -> None:
    """For a program: a failed checkpoint, which raises an error, is not told again and again by the
    libraries that write it.

    Orbax logs it in each of its threads; tensorstore shows one traceback for each array that it was
    still writing.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    usual = sys.unraisablehook

    def hook(found: Any) -> None:
        if not (found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"):
            usual(found)

    sys.unraisablehook = hook
