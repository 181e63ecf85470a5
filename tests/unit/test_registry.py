"""The registry of classes: configs as JSON and back, also those with a class of one's own and those
that older versions wrote.
"""

import dataclasses
import importlib
import importlib.machinery
import json
import lzma
import sys
import types

import pytest

from hlm import Bytes, Embed, config, objective
from hlm.papers import chunk_mtp, dynamic_pooling, mutor, toucan
from hlm.registry import CLASSES, from_json, to_json
from hlm.split import Unsplit, Words
from hlm.train.schedule import Linear
from hlm.vocab import Characters, Renumbered, bytes258, utf8, utf8_mark
from tests.laws.subjects import ALL, ROOT

OWN = """
import dataclasses
from typing import Any
import pathlib

pathlib.Path(__file__).with_suffix(".imported").touch()

@dataclasses.dataclass(frozen=True)
class Own:
    width: int = 1
    part: Any = None
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported and has not been; it leaves a file where it was."""
    name = "hlm_own_module"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_class_of_ones_own(module):
    own = importlib.import_module(module)
    node = own.Own(3, (Words(), own.Own(part=Linear(0.5))))
    found = json.loads(json.dumps(to_json(node)))
    assert found["_"] == found["part"][1]["_"] == f"{module}:Own"
    again = from_json(found)
    assert again == node
    assert type(again) is own.Own


def test_a_module_of_ones_own_must_have_been_imported(module, tmp_path):
    """By whoever wants it: a checkpoint imports nothing."""
    written = to_json(importlib.import_module(module).Own())
    del sys.modules[module]
    (tmp_path / f"{module}.imported").unlink()
    with pytest.raises(ValueError, match=f"'Own' of the module '{module}': import {module} first"):
        from_json(written)
    assert module not in sys.modules
    assert not (tmp_path / f"{module}.imported").exists()
    importlib.import_module(module)
    assert (tmp_path / f"{module}.imported").exists()
    assert from_json(written).width == 1


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "pathlib:Path",
        "hlm.config:override",
        "hlm.registry:CLASSES",
        "nowhere:Own",
        ":Own",
    ],
)
def test_what_is_no_class_of_a_config_is_refused(name):
    with pytest.raises(ValueError, match=r"config names the class .* of the module .*: import "):
        from_json({"_": name})


def refused(cls):
    with pytest.raises(ValueError, match="a checkpoint could not be loaded again") as error:
        to_json((1, {"part": cls()}))
    message = str(error.value)
    assert cls.__qualname__ in message
    assert cls.__module__ in message
    assert (
        "define it at the top of a module that can be imported, and import it in the config"
        in message
    )


def test_a_class_of_a_function_is_refused():
    @dataclasses.dataclass
    class Inside:
        width: int = 1

    refused(Inside)


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_class_of_the_program_itself_is_refused(how, monkeypatch):
    """`python own.py`, or `python -m own`, which alone gives __main__ a spec."""
    main = types.ModuleType("__main__")
    main.__spec__ = importlib.machinery.ModuleSpec("own", None) if how == "module" else None
    cls = dataclasses.make_dataclass("Own", [("width", int, 1)])
    cls.__module__, cls.__qualname__, main.Own = "__main__", "Own", cls
    monkeypatch.setitem(sys.modules, "__main__", main)
    refused(cls)


def test_a_class_of_a_config_file_is_refused(tmp_path):
    path = tmp_path / "own_config.py"
    path.write_text(f"{OWN}\nSIZES = ('tiny',)\n\ndef config(size):\n    return Own()\n")
    refused(type(config.load(f"{path}:tiny")))


def test_a_class_that_is_found_under_another_name_only_is_refused(module):
    own = importlib.import_module(module)
    gone = own.Own
    own.Own = dataclasses.make_dataclass("Own", [("width", int, 1)])
    refused(gone)


def test_objectives_are_kept():
    given = (
        objective.Ahead(loss_weight=0.4, schedule=Linear(0.1)),
        dynamic_pooling.Spikes(3),
        dynamic_pooling.GivenEnds(loss_weight=0.5),
        mutor.Registers(farthest=2),
        toucan.ChunkEnds(),
        chunk_mtp.ChunkMTPLoss(schedule=Linear()),
    )
    assert from_json(json.loads(json.dumps(to_json(given)))) == given


def test_every_known_class_has_its_own_name():
    for name, cls in CLASSES.items():
        assert (cls.__name__, dataclasses.is_dataclass(cls)) == (name, True)
        assert cls.__module__.startswith("hlm.")


def before_rooms():
    """{config: its model as JSON, as the version before wrote it}."""
    return json.loads(
        lzma.decompress((ROOT / "tests/fixtures/before_rooms/models.json.xz").read_bytes())
    )


# sizes that have other widths than they had then
RESIZED = {
    "configs/aunet.py:peer",
    "configs/aunet.py:peer3",
    "configs/hlm.py:base",  # as many positions as there is room for words
    "configs/hnet.py:peer",
    "configs/hnet.py:peer_ssm",
}


def without_room(node):
    """JSON of a model without what changes no parameter: dtype, room for chunks, what is kept."""
    free = ("dtype", "capacity", "keep_projections")
    if isinstance(node, dict):
        return {key: without_room(value) for key, value in node.items() if key not in free}
    return [without_room(v) for v in node] if isinstance(node, list) else node


@pytest.mark.parametrize("name", before_rooms())
def test_models_of_the_version_before(name):
    assert name in ALL
    now = config.load(str(ROOT / name)).model
    same = without_room(to_json(from_json(before_rooms()[name]))) == without_room(to_json(now))
    assert same == (name not in RESIZED)
    assert from_json(json.loads(json.dumps(to_json(now)))) == now


@pytest.mark.parametrize(
    ("name", "size", "now"),
    [
        ("Utf8", 256, utf8),
        ("Utf8Mark", 256, utf8_mark),
        ("Bytes258", 258, bytes258),
        ("Bytes", 260, Bytes),
        ("Renumbered", 260, lambda split: Renumbered(split, size=260)),
        ("Characters", 257, Characters),
    ],
)
def test_codecs_of_the_version_before(name, size, now):
    """Models that were imported have some that no config has."""
    old = {"_": name, "split": {"_": "Words", "longest": 8, "eow": False}, "size": size}
    assert from_json(old | {"examples": None}) == now(Words(longest=8))
    with_labels = from_json(old | {"examples": {"_": "Words", "longest": 7, "eow": False}})
    assert with_labels.labels == Words(longest=7)


OLD_STACK = {"_": "Stack", "depth": 1, "block": None, "unroll": 1, "lone_start": False}


def old_lm(**changes):
    """As the version before wrote an LM."""
    heads = {"_": "Heads", "ahead": 1, "extra": 0.2}
    lm = dict(
        codec=to_json(Bytes(Unsplit())), embed=to_json(Embed(8)), trunk=OLD_STACK, heads=heads
    )
    return {"_": "LM", **lm, "teacher": None, "registers": None} | changes


def test_what_was_a_field_is_an_objective():
    one, three = ({"_": "Heads", "ahead": n, "extra": 0.5} for n in (1, 3))
    for heads, objectives in (
        (one, ()),
        (three, (objective.Ahead(loss_weight=0.5),)),
        ({"_": "EndHeads", "heads": one}, (toucan.ChunkEnds(),)),
        ({"_": "EndHeads", "heads": three}, (objective.Ahead(loss_weight=0.5), toucan.ChunkEnds())),
    ):
        assert from_json(old_lm(heads=heads)).objectives == objectives
    teacher, registers = {"_": "Spikes", "window": 3}, {"_": "Registers", "farthest": 5}
    assert from_json(old_lm(teacher=teacher)).objectives == (dynamic_pooling.Spikes(3),)
    assert from_json(old_lm(registers=registers)).objectives == (mutor.Registers(5),)


@pytest.mark.parametrize(
    ("name", "gone", "harmless", "meant"),
    [("MLP", "squared", False, True), ("WordPositions", "level", 1, 2)],
)
def test_what_this_version_cannot_do_is_not_left_out(name, gone, harmless, meant):
    """A field that is gone may be dropped only where it made no difference."""
    size = {"MLP": {"width": 4}, "WordPositions": {"length": 4}}[name]
    assert from_json({"_": name, **size, gone: harmless}) == CLASSES[name](**size)
    with pytest.raises(ValueError, match=f"{name}.*{gone}"):
        from_json({"_": name, **size, gone: meant})
