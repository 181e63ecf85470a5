"""Overrides, JSON and their errors: a typo must name what exists, before anything runs."""

import dataclasses
import json

import pytest

from hlm import (
    AdamW,
    Attention,
    Block,
    Bytes,
    Every,
    Experiment,
    Heads,
    JsonLines,
    Mixture,
    RMSNorm,
    Stack,
    SwiGLU,
    TextFiles,
    Tfds,
    config,
    registry,
)
from hlm.split import Words
from hlm.train.schedule import Linear
from tests.laws.subjects import ROOT

FLAT = str(ROOT / "configs/flat.py")


@dataclasses.dataclass(frozen=True)
class Holder:
    """Every kind of field."""

    whole: int = 1
    real: float = 1.0
    yes: bool = True
    text: str = "a"
    maybe: int | None = None
    some: tuple[int, ...] = (1, 2)
    inner: Every = dataclasses.field(default_factory=Every)
    many: tuple[Every, ...] = (Every(log=1), Every(log=2))
    table: dict[str, float] = dataclasses.field(default_factory=dict)
    norm: RMSNorm | None = None


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("whole=3", 3),
        ("whole=1e6", 1_000_000),
        ("real=3", 3.0),
        ("real=3e-4", 3e-4),
        ("yes=false", False),
        ("yes=True", True),
        ("text=b c", "b c"),
        ("maybe=4", 4),
        ("maybe=none", None),
        ("some=(3,4,5)", (3, 4, 5)),
        ("some=[3]", (3,)),
        ("some.1=7", (1, 7)),
        ("inner.log=5", Every(log=5)),
        ("many.0.log=5", (Every(log=5), Every(log=2))),
        ("table={'trunk': 0.5}", {"trunk": 0.5}),
    ],
)
def test_override(item, expected):
    name, _, text = item.partition("=")
    changed = config.override(Holder(), name, text)
    field = name.split(".")[0]
    value = getattr(changed, field)
    assert value == expected
    assert type(value) is type(expected)
    assert dataclasses.replace(changed, **{field: getattr(Holder(), field)}) == Holder()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("wole=3", "wole: Holder has no field 'wole'; it has whole, real, yes"),
        ("inner.lag=3", "inner.lag: Every has no field 'lag'; it has log, evaluate, save"),
        ("whole=2.5", "whole: '2.5' is not int"),
        ("whole=two", "whole: 'two' is not int"),
        ("whole=true", "whole: 'true' is not int"),
        ("real=fast", "real: 'fast' is not float"),
        ("yes=1", "yes: '1' is not bool"),
        ("maybe=1.5", "maybe: '1.5' is not int | None"),
        ("some=(1,'a')", "some: .* is not tuple"),
        ("some.5=1", "some.5: some is a list of 2; give an index from 0 to 1"),
        ("some.x=1", "some.x: some is a list of 2"),
        ("many.0=1", "many.0: '1' is not Every"),
        (
            "inner=3",
            r"inner: '3' is no other Every; give one as Every\(\.\.\.\), or override a field: "
            r"log, evaluate, save",
        ),
        ("whole.deeper=3", "whole.deeper: whole is 1 and has no fields"),
    ],
)
def test_override_errors(item, message):
    name, _, text = item.partition("=")
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        config.override(Holder(), name, text)


def test_modules_can_be_overridden():
    stack = Stack(2, Block(Attention(4), SwiGLU(8)))
    changed = config.override(stack, "block.mixer.window", "16")
    assert changed == Stack(2, Block(Attention(4, window=16), SwiGLU(8)))
    assert config.override(changed, "block.mlp", "none").block.mlp is None
    with pytest.raises(ValueError, match=r"block.mixer.parent: Attention has no field 'parent'"):
        config.override(stack, "block.mixer.parent", "none")


def test_load():
    exp = config.load(f"{FLAT}:tiny", ["optim.peak=3e-4", "model.trunk.depth=1"])
    assert (exp.optim.peak, exp.model.trunk.depth) == (3e-4, 1)
    assert config.load(FLAT) == config.load(f"{FLAT}:tiny")


@pytest.mark.parametrize(
    ("reference", "overrides", "error", "message"),
    [
        (
            "configs/nowhere.py:tiny",
            [],
            FileNotFoundError,
            "no config file 'configs/nowhere.py': give FILE.py:SIZE",
        ),
        (f"{FLAT}:huge", [], ValueError, "has no size 'huge'; it has tiny, "),
        (
            f"{FLAT}:tiny",
            ["optim.peak"],
            ValueError,
            "override 'optim.peak' is not of the form name=value",
        ),
        (
            f"{FLAT}:tiny",
            ["optim.peek=1"],
            ValueError,
            "optim.peek: AdamW has no field 'peek'; it has peak, warmup",
        ),
        (
            f"{FLAT}:tiny",
            ["rows=7", "accumulate=2"],
            ValueError,
            "rows: 7 is not a multiple of accumulate 2: give rows=6 or rows=8 or accumulate=1$",
        ),
        (
            f"{FLAT}:tiny",
            ["rows=60", "accumulate=9"],
            ValueError,
            "accumulate 9: give rows=54 or rows=63 or accumulate=10$",
        ),
        (
            f"{FLAT}:tiny",
            ["rows=4", "accumulate=9"],
            ValueError,
            "accumulate 9: give rows=9 or accumulate=4$",
        ),
        (f"{FLAT}:tiny", ["steps=0"], ValueError, "Experiment.steps: 0 must be at least 1"),
    ],
)
def test_load_errors(reference, overrides, error, message):
    with pytest.raises(error, match=message):
        config.load(reference, overrides)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_and_micro_batches_are_changed_together(order):
    """From 192 rows in 3 micro-batches, neither can be changed before the other."""
    changes = ["rows=256", "accumulate=16"][::order]
    exp = config.load(str(ROOT / "configs/aunet.py:2-1b"), changes)
    assert (exp.rows, exp.accumulate) == (256, 16)


def test_json_keeps_types():
    for node in (
        Words(longest=3, eow=True),
        Heads(ahead=4),
        AdamW(peak=1.0, warmup=2, decay=Linear(), multipliers={"a/b": 0.5}),
    ):
        again = registry.from_json(registry.to_json(node))
        assert again == node
        assert type(again) is type(node)
    assert registry.from_json(registry.to_json((1, (2.5, None, "x", True)))) == (
        1,
        (2.5, None, "x", True),
    )


def test_json_errors():
    with pytest.raises(TypeError, match=r"cannot be kept in a config"):
        registry.to_json((1, object()))
    with pytest.raises(
        ValueError, match="names the class 'Oops', which this version of hlm does not have"
    ):
        registry.from_json({"_": "Oops"})
    with pytest.raises(ValueError, match="names the class 'override'"):
        registry.from_json({"_": "override"})
    with pytest.raises(
        ValueError, match="Every has no field older: the config is from another version"
    ):
        registry.from_json({"_": "Every", "log": 1, "older": 2})


def test_experiment_has_no_hidden_default():
    """What decides a run must be in the file, apart from these."""
    defaults = {
        f.name for f in dataclasses.fields(Experiment) if f.default is not f.default_factory
    }
    assert defaults == {
        "accumulate",
        "seed",
        "every",
        "keep",
        "mesh",
        "guard",
        "average",
        "valid_rows",
    }


def test_expressions_of_the_command_line(tmp_path):
    """Objects of public classes, by name; the text is parsed and never run."""
    given = {
        'data.source=Tfds("c4/en", split="train[:1%]")': Tfds("c4/en", "train[:1%]"),
        "valid=TextFiles(paths=('corpus:udhr/fra.txt',), piece=99)": TextFiles(
            ("corpus:udhr/fra.txt",), piece=99
        ),
        "data.source=Mixture((Tfds('a'), JsonLines(['b.jsonl'])), (1, 2.5))": Mixture(
            (Tfds("a"), JsonLines(("b.jsonl",))), (1, 2.5)
        ),
        "optim.decay=Linear(final=0.25)": Linear(0.25),
        "model.codec=Bytes(Words(longest=9))": Bytes(Words(longest=9)),
    }
    for item, expected in given.items():
        node = config.load(f"{FLAT}:tiny", [item])
        for name in item.partition("=")[0].split("."):
            node = getattr(node, name)
        assert node == expected
    ran = tmp_path / "ran"
    for text, error in {
        f"__import__('pathlib').Path({str(ran)!r}).touch()": "is no literal",
        f"Tfds(open({str(ran)!r}, 'w'))": "no public class open",
        "Tfdz('a')": "did you mean Tfds?",
        "Tfds(nam='a')": "Tfds has no field nam; it has name, split",
        "Tfds('a', **{'split': 'b'})": r"\*\* is not read here",
        "Tfds('a'": "never closed",
        "Linear()": "is no other TextFiles",
        "c4": "is no other TextFiles",
    }.items():
        with pytest.raises(ValueError, match=error) as caught:
            config.load(f"{FLAT}:tiny", [f"data.source={text}"])
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("data.source: ")
    assert not ran.exists()
    for text in ("Cosine()", "Linear()"):
        with pytest.raises(ValueError, match=r"^optim: .* is no other AdamW"):
            config.load(f"{FLAT}:tiny", [f"optim={text}"])


def test_objects_from_a_file(tmp_path):
    codec, path = Bytes(Words(longest=9)), tmp_path / "codec.json"
    path.write_text(json.dumps(registry.to_json(codec)))
    assert config.load(f"{FLAT}:tiny", [f"model.codec=@{path}"]).model.codec == codec
    for name, text, error in (
        ("optim", None, "is no other AdamW"),
        ("optim", "", "codec.json: Expecting value"),
        ("optim", '{"_": "Tfdz"}', "config names the class 'Tfdz'"),
        ("optim", '{"_": "Linear", "a": 1}', "Linear has no field a"),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match=error) as caught:
            config.load(f"{FLAT}:tiny", [f"{name}=@{path}"])
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No such file"):
        config.load(f"{FLAT}:tiny", [f"model.codec=@{tmp_path / 'none'}"])


def test_what_is_no_optimizer_is_refused_in_a_config_file_too():
    exp = config.load(f"{FLAT}:tiny")
    with pytest.raises(ValueError, match=r"^optim: Linear\(.*\) is no optimizer; give AdamW"):
        config.replace(exp, optim=Linear())
