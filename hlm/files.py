"""Files of JSON and of safetensors that others wrote: damage is an error of one line with
the name.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

LFS = b"version https://git-lfs"  # how a file of git-LFS begins that stands for another


def json_object(path: Any) -> dict[str, Any]:
    """A file's JSON object. Raises FileNotFoundError, or ValueError for a file without one."""
    data = content(path)
    refuse_pointer(path, data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {said(error)}") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} holds JSON, but no object of names and values: {type(value).__name__}"
        )
    return value


def content(path: Any) -> bytes:
    """All bytes of a file. Raises FileNotFoundError, or ValueError for a folder."""
    file = epath.Path(path)
    if file.is_dir():
        raise ValueError(f"{path} is a folder, not a file")
    if not file.exists():
        raise FileNotFoundError(f"there is no file {path}")
    return file.read_bytes()


def refuse_pointer(path: Any, data: bytes) -> None:
    if data.startswith(LFS):
        raise ValueError(
            f"{path} is a pointer of git-LFS, not the file itself: run `git lfs pull` where "
            "it came from"
        )


def tensors(path: Any) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
    """(arrays by name, metadata) of a safetensors file.

    Raises ValueError for one that is damaged.
    """
    data = content(path)
    refuse_pointer(path, data)
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:  # the package has errors of its own, and some of numpy's
        raise damaged(path, error) from None
    length = int.from_bytes(data[:8], "little")
    return arrays, json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def local_tensors(path: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of a safetensors file on a disk, one by one. Raises ValueError as `tensors`."""
    with open(path, "rb") as file:
        refuse_pointer(path, file.read(len(LFS)))
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no dictionary)
                yield name, opened.get_tensor(name)
    except Exception as error:  # the package has errors of its own, and some of numpy's
        raise damaged(path, error) from None


def damaged(path: Any, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is no safetensors file, or is damaged or cut off: {said(error)}; get it again"
    )


def said(error: Exception) -> str:
    """An error of another library, in one line."""
    text = " ".join(str(error).split())
    return (text if text.isprintable() else repr(text))[:300] or type(error).__name__
