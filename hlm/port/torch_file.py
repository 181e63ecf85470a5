"""Files of `torch.save` without torch and without unpickling: nothing that a file names is called.

Such a file is a zip of one pickle, which says how tensors are cut from storages, and of the
storages as raw bytes. The pickle's opcodes are followed here on values of our own (`_Machine`).
What a file can make us hold is bounded by its own size.
"""

import collections
import contextlib
import io
import math
import pickletools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hlm.files import said
from hlm.port.keys import plain, shown

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
# keys under which trainers keep the weights
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
DEEPEST = 8  # wrappers inside each other
PICKLE = 1 << 25  # bytes of the pickle, which has some hundred for each tensor
OPCODES = 4_000_000
AXES = 16
# times that tensors may view the storages all in all; more than once, where weights are tied
SHARED = 4
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
    OverflowError,
)


def read(path: str) -> dict[str, np.ndarray]:
    """The weights of a checkpoint, read-only: its level of names, or the one under "model" or the
    like.

    Raises ValueError for a file that is no zip of torch's, that is damaged, and for a pickle that
    names anything but tensors.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(
                f"{path} is not a file of torch.save (a zip), or is cut off; get it again, or "
                "save it again with torch 1.6 or later"
            )
        with _readable(path):
            archive = zipfile.ZipFile(file)
        entries = _entries(archive, path, file.seek(0, io.SEEK_END))
        names = [name for name in entries if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"{path} is a zip without one data.pkl: not a file of torch.save")
        root = names[0].removesuffix("data.pkl")

        def entry(name: str) -> bytes:
            with _readable(path):
                return archive.read(entries[name])

        if f"{root}byteorder" in entries and entry(f"{root}byteorder") != b"little":
            raise ValueError(
                f"{path} was written on a big-endian machine; save it again as safetensors"
            )
        if entries[names[0]].file_size > PICKLE:
            raise ValueError(
                f"{path}: data.pkl has {entries[names[0]].file_size} bytes, {PICKLE} are "
                "allowed; save the state_dict alone"
            )
        storages = {
            name.removeprefix(f"{root}data/"): name
            for name in entries
            if name.startswith(f"{root}data/")
        }
        tree = _Machine(path, lambda key: entry(storages[key]), storages).run(entry(names[0]))
    return weights(tree, path)


def weights(tree: Any, path: str) -> dict[str, np.ndarray]:
    """The one mapping of names to arrays in what a trainer saved."""
    for _ in range(DEEPEST):
        if not isinstance(tree, Mapping):
            raise ValueError(f"{path} holds {type(tree).__name__}, not a dictionary of weights")
        arrays = {name: value for name, value in tree.items() if isinstance(value, np.ndarray)}
        if odd := [name for name in arrays if not isinstance(name, str)]:
            raise ValueError(f"{path} holds a tensor under {shown(odd[0])}, which is no name")
        if arrays:
            return arrays
        inside = [key for key in WRAPPERS if isinstance(tree.get(key), Mapping)]
        if len(inside) != 1:
            held = ", ".join(plain(key) for key in list(tree)[:20]) or "nothing"
            raise ValueError(
                f"{path} holds {held}: no weights, and not one of {', '.join(WRAPPERS)} that "
                "could hold them"
            )
        tree = tree[inside[0]]
    raise ValueError(f"{path} holds no weights in {DEEPEST} dictionaries inside each other")


def _entries(archive: zipfile.ZipFile, path: str, size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by name. Raises ValueError for what torch never writes."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in entries:
            raise ValueError(
                f"{path} has two entries {plain(info.filename)}; torch.save writes each once"
            )
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(
                f"{path}: entry {plain(info.filename)} is compressed, and torch.save "
                "compresses nothing; save it again"
            )
        if ".." in info.filename.split("/") or info.filename.startswith("/"):
            raise ValueError(
                f"{path}: entry {plain(info.filename)} points out of the file; torch.save "
                "writes no such name"
            )
        entries[info.filename] = info
    if sum(info.file_size for info in entries.values()) > size:
        raise ValueError(
            f"{path} has {size} bytes, and its entries claim more: it is damaged, or they overlap"
        )
    return entries


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged: {said(error)}; get it again") from None


class _Name(NamedTuple):
    """What a pickle calls by module and name: a word to us."""

    module: str
    name: str


class _Storage(NamedTuple):
    numbers: np.ndarray


class _Mark:
    """Where a list of arguments begins on the stack."""


MARK = _Mark()
REBUILD = [_Name("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")]
PARAMETER = _Name("torch._utils", "_rebuild_parameter")
ORDERED = _Name("collections", "OrderedDict")
KEYS = (str, int, float, bytes, bool, type(None))  # of dictionaries: hashed without asking further
PLAIN = {  # opcodes that put their own argument on the stack
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *(
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
    ),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
NOTHING = ("PROTO", "FRAME", "STOP")
NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # no set: what stands in it need not have a hash
    "MARK": lambda: MARK,
}


class _Machine:
    """Follows a pickle's opcodes. Values are Python's plain ones, `_Name`, `_Storage`, arrays."""

    def __init__(self, path: str, read_storage: Callable[[str], bytes], keys: Mapping[str, Any]):
        self._path, self._read, self._keys = path, read_storage, keys
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, tuple[str, _Storage]] = {}
        self._held, self._stored = 0, 0  # bytes in tensors and in storages

    def run(self, data: bytes) -> Any:
        end = ""
        with warnings.catch_warnings():
            # of text that is escaped in odd ways
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (name, argument) in enumerate(self._opcodes(data)):
                if count >= OPCODES:
                    raise self._wrong(f"has more than {OPCODES} opcodes; save the state_dict alone")
                self._step(name, argument)
                end = name
        if end != "STOP" or len(self._stack) != 1 or self._stack[0] is MARK:
            raise self._wrong("is damaged: it does not end with one value")
        return self._stack[0]

    def _opcodes(self, data: bytes) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, argument, _ in pickletools.genops(data):
                yield opcode.name, argument
        except (ValueError, struct.error, OverflowError) as error:
            raise self._wrong(f"is damaged: {said(error)}") from None

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self._path}: the pickle {what}")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in NOTHING:
            return
        if name in PLAIN:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise self._wrong(f"holds {shown(argument)}, longer than any number of a tensor")
            stack.append(argument)
        elif name in NEW:
            stack.append(NEW[name]())
        elif name == "GLOBAL":
            stack.append(self._name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            module, word = self._pop(2)
            stack.append(self._name(module, word))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(self._pop_mark()))
        elif name in ("LIST", "FROZENSET"):
            stack.append(self._pop_mark())
        elif name == "DICT":
            self._set({}, self._pop_mark(), push=True)
        elif name == "APPEND":
            (entry,) = self._pop(1)
            self._top(list).append(entry)
        elif name in ("APPENDS", "ADDITEMS"):
            entries = self._pop_mark()
            self._top(list).extend(entries)
        elif name == "SETITEM":
            entries = self._pop(2)
            self._set(self._top(dict), entries)
        elif name == "SETITEMS":
            entries = self._pop_mark()
            self._set(self._top(dict), entries)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._top(object)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise self._wrong(
                    f"is damaged: it asks for value {argument}, which it has not kept"
                )
            stack.append(self._memo[argument])
        elif name == "POP":
            self._pop(1)
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "BINPERSID":
            (pid,) = self._pop(1)
            stack.append(self._storage(pid))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(self._call(function, arguments))
        # attributes, such as the versions that a state_dict keeps: nothing that weights need
        elif name == "BUILD":
            self._pop(1)
            self._top(dict)
        else:
            raise self._wrong(
                f"has the opcode {name}, which no tensor needs; save the state_dict alone"
            )

    def _pop(self, count: int) -> list[Any]:
        values = self._stack[-count:]
        if len(values) < count or any(value is MARK for value in values):
            raise self._wrong("is damaged: it takes more values than it has made")
        del self._stack[-count:]
        return values

    def _pop_mark(self) -> list[Any]:
        values = []
        while self._stack:
            value = self._stack.pop()
            if value is MARK:
                return values[::-1]
            values.append(value)
        raise self._wrong("is damaged: it ends a list that it has not begun")

    def _top(self, kind: type) -> Any:
        if not self._stack or self._stack[-1] is MARK or not isinstance(self._stack[-1], kind):
            raise self._wrong(f"is damaged: it needs a {kind.__name__} where there is none")
        return self._stack[-1]

    def _set(self, into: dict, entries: list[Any], push: bool = False) -> None:
        if len(entries) % 2:
            raise self._wrong("is damaged: it has a name without a value")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            if not isinstance(key, KEYS):
                raise self._wrong(
                    f"has a dictionary with {type(key).__name__} as a name; save the "
                    "state_dict alone"
                )
            into[key] = value
        if push:
            self._stack.append(into)

    def _name(self, module: Any, word: Any) -> _Name:
        name = _Name(module, word)
        if name in (*REBUILD, PARAMETER, ORDERED) or (
            module == "torch" and isinstance(word, str) and word in DTYPES
        ):
            return name
        raise self._wrong(
            f"names {plain(module)}.{plain(word)}; only plain tensors are read, save the "
            "state_dict alone"
        )

    def _storage(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise self._wrong("asks for something that is not the storage of a tensor")
        _, kind, key, _, size = pid
        if (
            not isinstance(kind, _Name)
            or kind.name not in DTYPES
            or not isinstance(key, str)
            or not isinstance(size, int)
        ):
            raise self._wrong("asks for something that is not the storage of a tensor")
        if key not in self._keys:
            raise self._wrong(f"asks for storage {plain(key)}, which the file has not")
        known = self._storages.get(key)
        if known is None:
            data, dtype = self._read(key), np.dtype(DTYPES[kind.name])
            if len(data) % dtype.itemsize:
                raise self._wrong(
                    f"takes storage {plain(key)} of {len(data)} bytes for numbers of "
                    f"{dtype.itemsize}"
                )
            known = self._storages[key] = (kind.name, _Storage(np.frombuffer(data, dtype)))
            self._stored += len(data)
        if known[0] != kind.name:
            raise self._wrong(f"takes storage {plain(key)} for {known[0]} and for {kind.name}")
        if len(known[1].numbers) < size:
            raise self._wrong(
                f"is damaged: storage {plain(key)} has {len(known[1].numbers)} numbers and "
                f"should have {size}"
            )
        return known[1]

    def _call(self, function: Any, arguments: Any) -> Any:
        """Ours in place of what torch would call."""
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise self._wrong("is damaged: it calls what is no function")
        if function == ORDERED and len(arguments) <= 1:
            made: dict[Any, Any] = collections.OrderedDict()
            pairs = arguments[0] if arguments else []
            if not isinstance(pairs, list) or not all(
                isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
            ):
                raise self._wrong("is damaged: an OrderedDict of something that is no pairs")
            self._set(made, [part for pair in pairs for part in pair])
            return made
        if function in REBUILD and len(arguments) >= 4:
            try:
                tensor = _tensor(*arguments[:4])
            except ValueError as error:
                raise self._wrong(f"has {error}") from None
            self._held += tensor.nbytes
            if self._held > SHARED * self._stored:
                raise self._wrong(
                    f"makes tensors of {self._held} bytes from storages of {self._stored}; "
                    "save copies of them"
                )
            return tensor
        if function == PARAMETER and arguments and isinstance(arguments[0], np.ndarray):
            return arguments[0]
        raise self._wrong(
            f"calls {plain(function.name)} with arguments that torch.save does not write"
        )


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> np.ndarray:
    """The part of a storage that a tensor views, no number twice."""
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor of {type(storage).__name__}, which is no storage")
    numbers = storage.numbers
    sizes = [shape, stride, (offset,)]
    whole = all(isinstance(part, tuple) and all(type(n) is int for n in part) for part in sizes)
    said = f"a tensor of shape {shown(shape)} with strides {shown(stride)} from {shown(offset)}"
    if (
        not whole
        or len(shape) != len(stride)
        or len(shape) > AXES
        or min((offset, *shape, *stride)) < 0
    ):
        raise ValueError(said)
    if not math.prod(shape):
        if math.prod(n for n in shape if n) > 1 << 31:
            raise ValueError(said)
        return numbers[:0].reshape(shape)
    axes = sorted((s, n) for s, n in zip(stride, shape, strict=True) if n > 1)
    reach = 0  # from the first number to the last of the axes so far
    for s, n in axes:
        if s <= reach:
            raise ValueError(
                f"{said}: it holds numbers of its storage twice; save a copy (tensor.contiguous())"
            )
        reach += (n - 1) * s
    if offset + reach >= len(numbers):
        raise ValueError(f"{said} reaches beyond its storage of {len(numbers)}")
    steps = [
        s * numbers.itemsize if n > 1 else numbers.itemsize
        for s, n in zip(stride, shape, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
