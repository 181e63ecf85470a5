"""Whole files of a run folder: a reader, and a kill, find the old content or the new, never half of
it.
"""

import contextlib
import os
import pathlib

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in a bucket, such as gs://..., where a file appears whole or not at all and
    cannot grow.
    """
    return "://" in str(path)


def write_whole(path: epath.Path, data: bytes) -> None:
    """Write beside and rename.

    A link stays a link, and what is no file (a device, a pipe) is written to as it is.
    """
    target = pathlib.Path(os.path.realpath(path))
    if is_remote(path) or (target.exists() and not target.is_file()):
        path.write_bytes(data)
        return
    beside = target.with_name(f".{target.name}.new")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
