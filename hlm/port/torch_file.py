"""Files of `torch.save` without torch and without running what a pickle asks for.

Such a file is a zip of one pickle, which says how tensors are cut from storages, and of the storages as raw bytes. Here the pickle may
name tensor constructors, storages and OrderedDict only; any other name is refused before anything is called.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # keys under which trainers keep the weights


def read(path: str) -> dict[str, np.ndarray]:
    """The weights of a checkpoint: its only level of names, or the one under "model", "state_dict" or the like.

    Raises ValueError for a file that is no zip of torch's, and for a pickle that names anything but tensors.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"{path} is not a file of torch.save (a zip); save it again with torch 1.6 or later, or as safetensors"
        ) from None
    with archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"{path} is a zip without one data.pkl: not a file of torch.save")
        root = names[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError(f"{path} was written on a big-endian machine; save it again as safetensors")
        tree = _Unpickler(archive, root, path).load()
    return weights(tree, path)


def weights(tree: Any, path: str) -> dict[str, np.ndarray]:
    """The one mapping of names to arrays in what a trainer saved."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path} holds {type(tree).__name__}, not a dictionary of weights")
    arrays = {name: value for name, value in tree.items() if isinstance(value, np.ndarray)}
    if arrays:
        return arrays
    inside = [key for key in WRAPPERS if isinstance(tree.get(key), Mapping)]
    if len(inside) != 1:
        raise ValueError(
            f"{path} holds {', '.join(map(str, tree))}: no weights, and not one of {', '.join(WRAPPERS)} that could hold them"
        )
    return weights(tree[inside[0]], path)


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, path: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root, self._path = archive, root, path
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        if module == "torch" and name in DTYPES:
            return name  # a string: nothing that the pickle could call or change
        raise ValueError(f"{self._path}: the pickle names {module}.{name}; only plain tensors are read, save the state_dict alone")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size = pid
        if kind != "storage" or dtype not in DTYPES or not isinstance(key, str):
            raise ValueError(f"{self._path}: the pickle asks for {kind!r}, not for the storage of a tensor")
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._archive.read(f"{self._root}data/{key}"), DTYPES[dtype])
        if len(self._storages[key]) < size:
            raise ValueError(f"{self._path}: storage {key} has {len(self._storages[key])} numbers and should have {size}")
        return self._storages[key]


def _tensor(storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """A copy of the part of a storage that a tensor views."""
    if not isinstance(storage, np.ndarray):
        raise ValueError(f"a tensor of {type(storage).__name__}, which is no storage")
    if len(shape) != len(stride) or min((offset, *shape, *stride), default=0) < 0:
        raise ValueError(f"a tensor of shape {shape} with strides {stride} from {offset}")
    if math.prod(shape) and offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) >= len(storage):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {len(storage)}")
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * storage.itemsize for s in stride], writeable=False)
    return view.copy()


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data
