"""Import and export: files in, files out, and errors that name the weight."""

import collections
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

import hlm
from hlm import registry
from hlm.port import FORMATS, read, torch_file

SIZES = dict(
    vocab_size=256,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=12,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    shapes = {
        "self_attn.q_proj": (8, 8),
        "self_attn.k_proj": (4, 8),
        "self_attn.v_proj": (4, 8),
        "self_attn.o_proj": (8, 8),
    }
    shapes |= {"mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
    shapes |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    every = {f"model.layers.{i}.{k}.weight": s for i in range(2) for k, s in shapes.items()}
    every |= {
        "model.embed_tokens.weight": (256, 8),
        "lm_head.weight": (256, 8),
        "model.norm.weight": (8,),
    }
    return {k: rng.standard_normal(s, dtype=np.float32) for k, s in every.items()}


def assert_equal_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_an_imported_model_works(weights):
    lm = hlm.from_foreign("llama", weights, SIZES)
    assert lm.score("Call me")[0].nbytes == 7
    assert len(lm.generate("Call", 5)[0]) <= 5


def test_export_reads_back_the_same_bits(weights, tmp_path):
    lm = hlm.from_foreign("llama", weights, SIZES)
    hlm.export(lm, str(tmp_path / "out"))
    again = hlm.load(str(tmp_path / "out"))
    assert_equal_bits(again.params, lm.params)
    assert registry.to_json(again.experiment) == registry.to_json(lm.experiment)
    assert again.score("Call me")[0].nats == lm.score("Call me")[0].nats
    with pytest.raises(FileExistsError, match="give a new folder"):
        hlm.export(lm, str(tmp_path / "out"))
    with pytest.raises(ValueError, match="exported model"):
        hlm.load(str(tmp_path / "out"), step=3)


def test_an_export_with_other_weights_is_refused(weights, tmp_path):
    from safetensors.numpy import load_file, save_file

    hlm.export(hlm.from_foreign("llama", weights, SIZES), str(tmp_path))
    arrays = load_file(tmp_path / "model.safetensors")
    arrays["extra"] = arrays.pop("out_scale")
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"(?s)extra: .*no weight of this model.*out_scale: is missing"
    ):
        hlm.load(str(tmp_path))


def test_the_command_writes_a_checkpoint(weights, tmp_path):
    torch_save(tmp_path / "model.pt", {"model": weights})
    (tmp_path / "config.json").write_text(json.dumps({"sizes": SIZES}))
    command = [
        sys.executable,
        "-m",
        "hlm.port",
        "llama",
        str(tmp_path / "model.pt"),
        str(tmp_path / "run"),
        "--section",
        "sizes",
    ]
    subprocess.run(command, check=True)
    assert_equal_bits(
        hlm.load(str(tmp_path / "run")).params, hlm.from_foreign("llama", weights, SIZES).params
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"model.extra": np.zeros(3)}, "unknown weight model.extra"),
        (
            lambda w: {k: a for k, a in w.items() if k != "model.norm.weight"},
            "missing weight model.norm.weight for out_scale",
        ),
        (
            lambda w: w | {"model.norm.weight": np.ones(9)},
            r"model.norm.weight has shape \(9,\) at out_scale",
        ),
        (
            lambda w: {k: a for k, a in w.items() if "layers.1.mlp.up" not in k},
            r"mlp/up, the config asks for \(2, 8, 12\)",
        ),
        (
            lambda w: {k.replace("layers.1.mlp.up", "layers.7.mlp.up"): a for k, a in w.items()},
            r"layers \[0, 7\] are not 0, 1, 2",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(weights, change, message):
    with pytest.raises(ValueError, match=message):
        hlm.from_foreign("llama", change(weights), SIZES)


def test_other_formats_and_options_are_refused(weights):
    with pytest.raises(ValueError, match="no 'lama'; there are aunet"):
        hlm.from_foreign("lama", weights, SIZES)
    with pytest.raises(ValueError, match=r"attention_bias True \(only False\)"):
        hlm.from_foreign("llama", weights, SIZES | {"attention_bias": True})
    assert list(FORMATS) == sorted(FORMATS)


class Global:
    """Stands for a name in a pickle."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Storage:
    def __init__(self, key, kind, size):
        self.pid = ("storage", Global("torch", kind), key, "cpu", size)


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Pickler(pickle._Pickler):  # pyright: ignore  (the one in Python can be told to write any name)
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.arguments))
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)


KINDS = {"float32": "FloatStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


def torch_save(path, tree, byteorder=b"little"):
    """What torch.save writes."""
    storages = {}

    def tensor(a):
        key = str(len(storages))
        storages[key] = np.ascontiguousarray(a).tobytes()
        stride = tuple(s // a.itemsize for s in np.ascontiguousarray(a).strides)
        storage = Storage(key, KINDS[str(a.dtype)], a.size)
        return Call(
            Global("torch._utils", "_rebuild_tensor_v2"),
            storage,
            0,
            a.shape,
            stride,
            False,
            collections.OrderedDict(),
        )

    def walk(node):
        if isinstance(node, dict):
            return collections.OrderedDict((k, walk(v)) for k, v in node.items())
        return tensor(node) if isinstance(node, np.ndarray) else node

    out = io.BytesIO()
    Pickler(out, protocol=2).dump(walk(tree))
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", out.getvalue())
        z.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            z.writestr(f"archive/data/{key}", data)


def test_torch_files_are_read(tmp_path):
    import ml_dtypes

    tree = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5], ml_dtypes.bfloat16),
        "c": np.int64([7]),
    }
    torch_save(tmp_path / "x.pt", tree)
    found = read(str(tmp_path / "x.pt"))
    assert found.keys() == tree.keys()
    for key, array in tree.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == array.dtype


def test_views_share_a_storage(tmp_path):
    storage = Storage("0", "FloatStorage", 6)
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    transposed = Call(rebuild, storage, 0, (3, 2), (1, 3), False, collections.OrderedDict())
    tail = Call(
        Global("torch._utils", "_rebuild_parameter"),
        Call(rebuild, storage, 4, (2,), (1,)),
        True,
        collections.OrderedDict(),
    )
    out = io.BytesIO()
    Pickler(out, protocol=2).dump({"transposed": transposed, "tail": tail})
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
        z.writestr("m/data.pkl", out.getvalue())
        z.writestr("m/data/0", np.arange(6, dtype=np.float32).tobytes())
    found = torch_file.read(str(tmp_path / "x.pt"))
    np.testing.assert_array_equal(
        found["transposed"], np.arange(6, dtype=np.float32).reshape(2, 3).T
    )
    np.testing.assert_array_equal(found["tail"], [4, 5])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": Call(Global("os", "system"), "touch OWNED")}, r"names os\.system"),
        ({"a": Call(Global("builtins", "eval"), "1")}, r"names builtins\.eval"),
        (
            {"a": Call(Global("torch._utils", "_rebuild_tensor_v3"), 1)},
            r"names torch\._utils\._rebuild_tensor_v3",
        ),
        (
            {"a": Call(Global("torch._utils", "_rebuild_tensor_v2"), "text", 0, (1,), (1,))},
            "no storage",
        ),
        ({"args": {"lr": 0.1}, "step": 3}, "holds args, step: no weights"),
        ([1, 2], "not a dictionary"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, tree, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch_save(tmp_path / "x.pt", tree)
    with pytest.raises(ValueError, match=message):
        torch_file.read(str(tmp_path / "x.pt"))
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)),
        (5, (2,), (1,)),
        (0, (3, 2), (1, 4)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, offset, shape, stride):
    call = Call(
        Global("torch._utils", "_rebuild_tensor_v2"),
        Storage("0", "FloatStorage", 6),
        offset,
        shape,
        stride,
    )
    out = io.BytesIO()
    Pickler(out, protocol=2).dump({"a": call})
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
        z.writestr("m/data.pkl", out.getvalue())
        z.writestr("m/data/0", bytes(24))
    with pytest.raises(ValueError, match="a tensor of shape"):
        torch_file.read(str(tmp_path / "x.pt"))


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"not a file of torch\.save"):
        read(str(tmp_path / "old.pt"))
    torch_save(tmp_path / "big.pt", {"a": np.zeros(1, np.float32)}, byteorder=b"big")
    with pytest.raises(ValueError, match="big-endian"):
        read(str(tmp_path / "big.pt"))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read(str(tmp_path / "none.pt"))
    with pytest.raises(FileNotFoundError, match=r"no .safetensors files"):
        read(str(tmp_path))


def test_a_folder_of_safetensors_is_read_with_bfloat16(tmp_path):
    import ml_dtypes

    for name, array in {
        "a": np.array([1, 2.5], ml_dtypes.bfloat16),
        "b": np.array([3, 4], ml_dtypes.bfloat16),
    }.items():
        header = json.dumps(
            {name: {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
        ).encode()
        (tmp_path / f"{name}.safetensors").write_bytes(
            struct.pack("<Q", len(header)) + header + array.tobytes()
        )
    found = {k: a.astype(np.float32).tolist() for k, a in read(str(tmp_path)).items()}
    assert found == {"a": [1, 2.5], "b": [3, 4]}
