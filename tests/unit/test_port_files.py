"""Files that are damaged, of another kind or made to harm: one line, and nothing is called."""

import collections
import io
import json
import pickle
import random
import resource
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

import hlm
from hlm.port import from_foreign, read, torch_file
from tests.unit.port_shapes import llama_shapes, made
from tests.unit.test_port import SIZES, Call, Global, Pickler, Storage, torch_save

REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
TREE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, 2], ml_dtypes.bfloat16),
    "c": np.int64([7]),
}
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
)


def pickled(path, data, storages=(), names=("m/data.pkl",), compression=zipfile.ZIP_STORED):
    """A file of a pickle (bytes, or what is pickled) and storages of bytes."""
    if not isinstance(data, bytes):
        out = io.BytesIO()
        Pickler(out, protocol=2).dump(data)
        data = out.getvalue()
    with zipfile.ZipFile(path, "w", compression) as z:
        for name in names:
            z.writestr(name, data)
        for i, storage in enumerate(storages):
            z.writestr(f"m/data/{i}", storage)
    return str(path)


def tensor(shape, stride, offset=0, size=6, key="0", kind="FloatStorage"):
    return Call(
        REBUILD, Storage(key, kind, size), offset, shape, stride, False, collections.OrderedDict()
    )


def refused(path, match):
    with pytest.raises(ValueError, match=match) as caught:
        read(str(path))
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)


# --- tensors that are more than their storage


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((1 << 28,), (0,)),
        ((1 << 14, 1 << 14), (0, 0)),
        ((3,), (0,)),
        ((2, 3), (0, 1)),
        ((2, 2), (1, 1)),
        ((3, 2), (1, 2)),
        ((2, 2, 2), (2, 1, 2)),
        ((2,), (-1,)),
        ((1 << 62, 1 << 62), (1, 1)),
        ((2,), (1 << 62,)),
        ((0, 1 << 40), (1, 1)),
        ((0, 1 << 20, 1 << 20, 1 << 20), (1, 1, 1, 1)),
        ((1,) * 70, (1,) * 70),
        ((2, 3), (3,)),
        ((2.0,), (1,)),
        ((True,), (1,)),
        ("ab", (1, 1)),
        (None, None),
        ([2], [1]),
    ],
)
def test_tensors_of_more_than_their_storage_are_refused(tmp_path, shape, stride):
    refused(
        pickled(tmp_path / "x.pt", {"a": tensor(shape, stride)}, [bytes(24)]), "a tensor of shape"
    )


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((2, 3), (3, 1), 0),
        ((3, 2), (1, 3), 0),
        ((2, 2), (3, 1), 1),
        ((1, 6), (0, 1), 0),
        ((1, 1), (99, 5), 5),
        ((), (), 3),
        ((0, 5), (5, 1), 6),
    ],
)
def test_views_of_one_storage_are_read(tmp_path, shape, stride, offset):
    numbers = np.arange(6, dtype=np.float32)
    found = read(
        pickled(tmp_path / "x.pt", {"a": tensor(shape, stride, offset)}, [numbers.tobytes()])
    )["a"]
    assert found.shape == shape
    at = (
        np.add.reduce(
            np.meshgrid(
                *(np.arange(n) * s for n, s in zip(shape, stride, strict=True)), indexing="ij"
            ),
            axis=0,
        )
        if shape
        else 0
    )
    np.testing.assert_array_equal(found, numbers[offset + at] if found.size else np.zeros(shape))


def test_storages_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    refused(
        pickled(path, {"a": tensor((6,), (1,), size=7)}, [bytes(24)]),
        "storage 0 has 6 numbers and should have 7",
    )
    refused(
        pickled(path, {"a": tensor((6,), (1,))}, [bytes(23)]),
        "storage 0 of 23 bytes for numbers of 4",
    )
    refused(
        pickled(path, {"a": tensor((6,), (1,), key="9")}, [bytes(24)]),
        "storage 9, which the file has not",
    )
    refused(
        pickled(path, {"a": tensor((6,), (1,), key="../0")}, [bytes(24)]), "storage ../0, which"
    )
    both = {"a": tensor((6,), (1,)), "b": tensor((3,), (1,), size=3, kind="DoubleStorage")}
    refused(pickled(path, both, [bytes(24)]), "storage 0 for FloatStorage and for DoubleStorage")
    many = {str(i): tensor((6,), (1,)) for i in range(5)}
    refused(pickled(path, many, [bytes(24)]), "tensors of 120 bytes from storages of 24")
    assert len(read(pickled(path, {k: many[k] for k in "01"}, [bytes(24)]))) == 2


# --- archives


def test_archives_that_torch_never_writes_are_refused(tmp_path):
    path, data = tmp_path / "x.pt", {"a": tensor((6,), (1,))}
    refused(pickled(path, data, [bytes(24)], compression=zipfile.ZIP_DEFLATED), "is compressed")
    refused(
        pickled(path, data, [bytes(24)], names=("m/data.pkl", "n/data.pkl")),
        r"without one data\.pkl",
    )
    refused(
        pickled(path, data, [bytes(24)], names=("m/data.pkl", "../../data")),
        "points out of the file",
    )
    refused(
        pickled(path, data, [bytes(24)], names=("m/data.pkl", "/etc/data")),
        "points out of the file",
    )
    with pytest.warns(UserWarning, match="Duplicate"):
        pickled(path, data, [bytes(24)], names=("m/data.pkl", "m/data.pkl"))
    refused(path, r"two entries m/data\.pkl")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    (tmp_path / "x.npz").rename(path)
    refused(path, r"without one data\.pkl")


def test_a_bomb_is_not_unpacked(tmp_path):
    """A gigabyte of zeros in a megabyte."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("m/data.pkl", pickle.dumps({}, protocol=2))
        with z.open("m/data/0", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "m/data.pkl is compressed")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


def test_entries_that_overlap_are_refused(tmp_path):
    """Many names of one entry's bytes: its record in the directory, again under other names."""
    path = tmp_path / "x.pt"
    pickled(path, {"a": tensor((6,), (1,))}, [bytes(1 << 16)])
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    last = whole[whole.rindex(b"PK\x01\x02") : end]
    records = b"".join(last.replace(b"data/0", b"data/%c" % (ord("a") + i)) for i in range(20))
    fields = list(struct.unpack("<4s4H2LH", whole[end : end + 22]))
    fields[3] = fields[4] = fields[3] + 20
    fields[5] += len(records)
    path.write_bytes(whole[:end] + records + struct.pack("<4s4H2LH", *fields))
    assert len(zipfile.ZipFile(path).namelist()) == 22
    assert directory < end
    refused(path, "entries claim more")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "is empty"),
        (POINTER, "run `git lfs pull`"),
        (pickle.dumps({"a": 1}), r"not a file of torch\.save"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"not a file of torch\.save"),
        (b"PK\x03\x04" + bytes(100), r"not a file of torch\.save"),
        (b"PK\x05\x06" + bytes(18), r"without one data\.pkl"),
        (b"GGUF" + bytes(100), r"not a file of torch\.save"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, data, named):
    (tmp_path / "x.pt").write_bytes(data)
    refused(tmp_path / "x.pt", named)
    (tmp_path / "x.safetensors").write_bytes(data)
    refused(
        tmp_path / "x.safetensors", named if b"lfs" in data or not data else "no safetensors file"
    )


# --- pickles


def test_a_pickle_cannot_change_the_readers_functions(tmp_path):
    """BUILD sets attributes: of a function of ours, its defaults."""
    path = tmp_path / "x.pt"
    before = {
        name: (f.__defaults__, f.__kwdefaults__, dict(f.__dict__))
        for name, f in vars(torch_file).items()
        if callable(f) and hasattr(f, "__defaults__")
    }
    for name in (
        b"torch._utils\n_rebuild_tensor_v2",
        b"torch._utils\n_rebuild_parameter",
        b"collections\nOrderedDict",
        b"torch\nFloatStorage",
    ):
        for state in (
            {"__defaults__": (1,)},
            {"x": 1},
            (None, {"__kwdefaults__": {"a": 1}, "__code__": 1}),
        ):
            inside = pickle.dumps(state, protocol=2)[2:-1]
            refused(
                pickled(path, b"\x80\x02c" + name + b"\n" + inside + b"b."),
                "needs a dict where there is none",
            )
    after = {
        name: (f.__defaults__, f.__kwdefaults__, dict(f.__dict__))
        for name, f in vars(torch_file).items()
        if callable(f) and hasattr(f, "__defaults__")
    }
    assert before == after
    assert not hasattr(collections.OrderedDict, "x")


def test_what_a_state_dict_remembers_of_versions_is_left_out(tmp_path):
    tree = collections.OrderedDict(a=tensor((6,), (1,)))
    out = io.BytesIO()
    pickler = Pickler(out, protocol=2)
    pickler.dump(tree)
    meta = pickle.dumps({"_metadata": collections.OrderedDict({"": {"version": 1}})}, protocol=2)
    data = out.getvalue()[:-1] + meta[2:-1] + b"b."
    assert list(read(pickled(tmp_path / "x.pt", data, [bytes(24)]))) == ["a"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_plain_data_is_read(tmp_path, protocol):
    """A trainer's file: numbers, text and lists beside the weights."""
    beside = {"step": 3, "lr": 1e-3, "name": "é", "both": (None, True, False, [1 << 40, -5]), 7: ()}
    if protocol >= 4:  # before, these are calls of functions by name
        beside |= {"raw": b"x", "seen": {1, 2}}

    class Numbered(Pickler):
        def save(self, obj, save_persistent_id=True):
            if isinstance(obj, Global) and protocol >= 4:
                super().save(obj.module)
                super().save(obj.name)
                self.write(b"\x93")
            else:
                super().save(obj, save_persistent_id)

    out = io.BytesIO()
    Numbered(out, protocol=protocol).dump(beside | {"model": {"a": tensor((6,), (1,))}})
    assert list(read(pickled(tmp_path / "x.pt", out.getvalue(), [bytes(24)]))) == ["a"]


def deep(n):
    return b"\x80\x02" + b"(" * n + b"t" * n + b"."


@pytest.mark.parametrize(
    ("data", "named"),
    [
        # a dictionary that holds itself
        (b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.", "no weights in 8"),
        (b"\x80\x02]q\x00h\x00a.", "holds list"),
        (deep(100_000), "holds tuple"),
        (b"\x80\x02}" + deep(100_000)[2:-1] + b"K\x01s.", "tuple as a name"),
        (b"\x80\x02}]K\x01s.", "list as a name"),
        (b"\x80\x02" + b"]" * 5_000_000 + b".", "more than 4000000 opcodes"),
        # a memo of four billion places
        (b"\x80\x02N" + b"r\xff\xff\xff\xff" + b".", "holds NoneType"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "is damaged"),
        (b"\x80\x02\x8b\xe8\x03\x00\x00" + b"\x7f" * 1000 + b".", "a number of 7999 bits"),
        (b"\x80\x02I" + b"9" * 10_000 + b"\n.", "is damaged"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "is damaged"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02c__builtin__\neval\n)R.", r"names __builtin__\.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", r"names os\.system"),
        (b"\x80\x04]\x8c\x06system\x93.", r"names \[\]\.system"),
        (b"(S'true'\nios\nsystem\n.", "the opcode INST"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "the opcode NEWOBJ"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "no pairs"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls FloatStorage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "calls _rebuild_tensor_v2"),
        (b"\x80\x02X\x01\x00\x00\x00xQ.", "not the storage"),
        (b"\x80\x02h\x05.", "value 5, which it has not kept"),
        (b"\x80\x02a.", "takes more values"),
        (b"\x80\x02e.", "ends a list"),
        (b"\x80\x02(.", "one value"),
        (b"\x80\x02NN.", "one value"),
        (b"\x80\x02", "is damaged"),
        (b"", "is damaged"),
        (b"\x80\x02c\xff\xfe\n\xff\n.", "is damaged"),
        (b"\x80\x02}X\x03\x00\x00\x00a\nbK\x01s.", r"holds 'a\\nb': no weights"),
    ],
    ids=range(30),
)
def test_pickles_made_to_harm_are_refused(tmp_path, data, named, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(pickled(tmp_path / "x.pt", data), named)


def test_a_large_pickle_is_refused(tmp_path):
    refused(
        pickled(tmp_path / "x.pt", bytes(torch_file.PICKLE + 1)), r"data\.pkl has 33554433 bytes"
    )


# --- bytes flipped, cut out, put in


def spoiled(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, n = rng.randrange(len(data)), rng.choice([1, 2, 4, 16, 100])
        match rng.choice(["flip", "flip", "set", "cut", "insert", "truncate", "copy"]):
            case "flip":
                data[at] ^= 1 << rng.randrange(8)
            case "set":
                data[at : at + n] = bytes([rng.choice([0, 255, 1, rng.randrange(256)])]) * len(
                    data[at : at + n]
                )
            case "cut":
                del data[at : at + n]
            case "insert":
                data[at:at] = rng.randbytes(n)
            case "truncate":
                del data[at:]
            case "copy":
                data[at : at + n] = data[rng.randrange(len(data)) :][:n]
        if not data:
            return b""
    return bytes(data)


def read_or_refused(path, done):
    """Arrays, or None where a ValueError of one line says why not; anything else fails."""
    try:
        return read(str(path))
    except ValueError as error:
        text = str(error)
    except Exception as error:
        pytest.fail(f"{done} ended in {type(error).__name__}: {error}")
    if not text.isprintable() or len(text) > 2000 or str(path) not in text:
        pytest.fail(f"{done}: {text}")
    return None


def test_spoiled_torch_files_are_refused_in_one_line(tmp_path):
    rng, path = random.Random(0), tmp_path / "x.pt"
    torch_save(path, {"model": TREE, "step": 3})
    whole = path.read_bytes()
    outcomes = collections.Counter()
    for i in range(600):
        path.write_bytes(spoiled(whole, rng))
        outcomes[read_or_refused(path, i) is None] += 1
    assert outcomes[True] > 300


def test_spoiled_pickles_are_refused_in_one_line(tmp_path):
    """The archive is sound, so that every byte reaches the machine."""
    rng, path = random.Random(1), tmp_path / "x.pt"
    torch_save(path, {"model": TREE, "step": 3})
    with zipfile.ZipFile(path) as z:
        files = {name: z.read(name) for name in z.namelist()}
    sizes = []
    for i in range(1000):
        data = spoiled(files["archive/data.pkl"], rng)
        with zipfile.ZipFile(path, "w") as z:
            for name, content in files.items():
                z.writestr(name, data if name.endswith(".pkl") else content)
        found = read_or_refused(path, i)
        sizes.append(sum(array.nbytes for array in (found or {}).values()))
    assert max(sizes) <= torch_file.SHARED * sum(len(content) for content in files.values())
    assert 0 < sizes.count(0) < 1000


def test_spoiled_safetensors_are_refused_in_one_line(tmp_path):
    rng, path = random.Random(2), tmp_path / "x.safetensors"
    whole = save({name: np.asarray(array) for name, array in TREE.items()}, {"format": "pt"})
    outcomes = collections.Counter()
    for i in range(600):
        path.write_bytes(spoiled(whole, rng))
        outcomes[read_or_refused(path, i) is None] += 1
    assert outcomes[True] > 100


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "U16", "C64", "X", "BOOL", 3])
def test_safetensors_of_other_numbers_are_read_or_refused(tmp_path, dtype):
    header = json.dumps({"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    read_or_refused(tmp_path / "x.safetensors", dtype)


def test_one_name_in_two_files_of_a_folder_is_refused(tmp_path):
    save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors")
    save_file({"a": np.ones(2), "b": np.ones(2)}, tmp_path / "model-1.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.safetensors and another file beside it both hold a"
    ):
        read(str(tmp_path))


def test_a_safetensors_file_of_another_name_is_read(tmp_path):
    (tmp_path / "x.bin").write_bytes(save({"a": np.arange(3.0)}))
    np.testing.assert_array_equal(read(tmp_path / "x.bin")["a"], [0, 1, 2])


# --- exports


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    hlm.export(from_foreign("llama", made(llama_shapes()), SIZES), str(folder))
    return folder


def copied(exported, tmp_path, **files):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(files.get(name.split(".")[0], (exported / name).read_bytes()))
    return str(tmp_path)


def load_refused(path, named):
    with pytest.raises(ValueError, match=named) as caught:
        hlm.load(path)
    assert str(caught.value).isprintable()
    assert path in str(caught.value)


def test_every_flipped_bit_of_an_export_is_noticed(exported, tmp_path):
    rng, whole = random.Random(0), (exported / "model.safetensors").read_bytes()
    for _ in range(20):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        load_refused(copied(exported, tmp_path, model=bytes(data)), "model.safetensors|do not fit")
    load_refused(copied(exported, tmp_path, model=whole[:-5]), "no safetensors file")
    load_refused(copied(exported, tmp_path, model=b"x"), "no safetensors file")
    load_refused(copied(exported, tmp_path, model=b""), "no safetensors file")
    load_refused(copied(exported, tmp_path, model=POINTER), "git lfs pull")


def test_weights_of_an_export_may_be_written_by_other_programs(exported, tmp_path):
    path = copied(exported, tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    save_file({name: array + 1 for name, array in arrays.items()}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(hlm.load(path).params["out_scale"], arrays["out_scale"] + 1)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (b"{", "config.json is not JSON"),
        (b"", "config.json is not JSON"),
        (b"\xff\xfe\xfd", "config.json is not JSON"),
        (b"[]", "no object"),
        (b"3", "no object"),
        (b"[" * 100_000, "config.json is not JSON"),
        (POINTER, "git lfs pull"),
        (b"{}", "no config of an exported model"),
        (b'{"step": "x", "experiment": {}}', "no config of an exported model"),
        (b'{"step": 0, "experiment": {}}', "experiment is damaged"),
        (b'{"step": 0, "experiment": {"class": 3}}', "experiment is damaged"),
        (json.dumps(SIZES).encode(), "no config of an exported model"),
    ],
)
def test_configs_of_another_kind_are_named(exported, tmp_path, config, named):
    load_refused(copied(exported, tmp_path, config=config), named)


def test_an_export_without_a_config_is_named(exported, tmp_path):
    path = copied(exported, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        hlm.load(path)
