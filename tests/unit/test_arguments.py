"""What a notebook asks of a model is checked: texts, numbers, streams."""

import copy
import io

import numpy as np
import pytest

from hlm import (
    fit_threshold,
)
from tests.unit.minute_models import language_model


class Frame:
    """As of pandas: it iterates over the names of its columns."""

    ndim = 2

    def __iter__(self):
        return iter(["a", "b"])


NO_TEXTS = [
    (np.array([1, 2]), r"\[0\]: .*1.* not text; give str or bytes"),
    (np.array([["a", "b"]]), "give str or bytes, or a list of them"),
    (np.array("a"), "give str or bytes, or a list of them"),
    (["a", 3], r"\[1\]: 3 is of type int, not text"),
    (["a", None], r"\[1\]: None is of type NoneType"),
    (["a", float("nan")], r"\[1\]: nan is of type float"),
    ([["a"], ["b"]], r"\[0\]: \['a'\] is of type list"),
    ((x for x in ("a", 1.5)), r"\[1\]: 1.5 is of type float"),
    ([memoryview(np.array([1, 2]))], r"\[0\]: .* is of type memoryview"),
    (None, ": None is of type NoneType"),
    (5, ": 5 is of type int"),
    (True, ": True is of type bool"),
    ({"a": "b"}, "of type dict"),
    ({"a"}, "of type set"),
    (Frame(), "of type Frame"),
    (io.StringIO("a\nb"), "of type StringIO"),
    ("a\ud800", r"holds '\\ud800' at 1"),
    (["a", "\udc80"], r"\[1\]: .* holds '\\udc80' at 0"),
]
TAKE_TEXTS = {
    "texts": lambda lm, x: lm.score(x),
    "prompts": lambda lm, x: lm.generate(x, 1),
    "prefixes": lambda lm, x: lm.next_byte(x),
    "stop": lambda lm, x: lm.generate("a", 1, stop=x),
}


@pytest.mark.parametrize("name", TAKE_TEXTS)
@pytest.mark.parametrize(("given", "message"), NO_TEXTS, ids=lambda x: "")
def test_texts_are_str_or_bytes(name, given, message):
    lm = language_model("words")
    given = copy.copy(given) if not hasattr(given, "send") else (x for x in ("a", 1.5))
    with pytest.raises(ValueError, match=f"^{name}.*{message}") as raised:
        TAKE_TEXTS[name](lm, given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "given", [["a"], 5, None, np.array([1, 2]), np.array(["a", "b"]), "\ud800"], ids=repr
)
def test_one_text_is_str_or_bytes(given):
    lm = language_model("words")
    for ask in (lm.chunks, lambda x: lm.stream(x, 1)):
        with pytest.raises(ValueError, match=r"^(text|prompt): "):
            ask(given)
    if not (
        isinstance(given, list)
        or (getattr(given, "dtype", None) is not None and given.dtype.kind == "U")
    ):
        for ask in (lm.embed, lambda x: fit_threshold(lm, x, 4)):
            with pytest.raises(ValueError, match=r"^texts"):
                ask(given)


def test_a_text_may_be_any_kind_of_bytes():
    lm = language_model("words")
    (expected,) = lm.score("one two")
    kinds = [
        b"one two",
        bytearray(b"one two"),
        memoryview(b"one two"),
        np.str_("one two"),
        np.bytes_(b"one two"),
    ]
    several = [
        kinds,
        tuple(kinds),
        iter(kinds),
        np.array(["one two"] * 2),
        np.array(["one two"] * 2, object),
    ]
    for given in [*kinds, *several]:
        assert {s.nats for s in lm.score(given)} == {expected.nats}
    assert lm.chunks(bytearray(b"one two")) == [b"one ", b"two"]
    assert (
        lm.score([]) == lm.generate([], 5) == lm.embed([]) == lm.next_byte(np.array([], str)) == []
    )


NO_NUMBERS = [
    *(
        dict(seed=x)
        for x in (
            1.5,
            None,
            True,
            "5",
            -1,
            2**32,
            2**63,
            2**64,
            np.float32(1),
            [1.5],
            [None],
            [True],
            [-1],
            {"a": 1},
        )
    ),
    *(
        dict(max_bytes=x)
        for x in (
            -5,
            -1,
            1.5,
            None,
            True,
            "5",
            2**31,
            2**63,
            np.float64(3),
            [3],
            np.array([3]),
            np.bool_(True),
        )
    ),
    *(
        dict(temperature=x)
        for x in (-1, float("nan"), float("inf"), np.float32("nan"), True, "1", None, [1.0], 1j)
    ),
    *(dict(top_p=x) for x in (-0.1, 1.1, float("nan"), float("inf"), True, "1", None)),
    *(dict(top_k=x) for x in (0, -1, 1.5, True, "1", 2**31, float("nan"))),
    *(dict(speculate=x) for x in (-1, 1.5, True, False, None, "1")),
    *(dict(stop=x) for x in (3, ["a", 3], None, [None], "", ["a", ""], [["a"]])),
]


@pytest.mark.parametrize("options", NO_NUMBERS, ids=repr)
def test_numbers_are_checked(options):
    lm = language_model("words")
    options = dict(max_bytes=1) | options
    (name,) = [name for name in options if name != "max_bytes"] or ["max_bytes"]
    for ask in (lm.generate, lm.stream):
        with pytest.raises(ValueError, match=rf"^(Sampling\.)?{name}(\[\d\])?: ") as raised:
            ask("a", **options)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("level", [0, -1, 2, 1.0, True, None, "1", np.float32(1)], ids=repr)
def test_levels_are_checked(level):
    for ask in (language_model("words").chunks, language_model("words").embed):
        with pytest.raises(ValueError, match=r"^level: "):
            ask("a", level)


@pytest.mark.parametrize("complete", [0, 1, None, "no", np.int32(1)], ids=repr)
def test_complete_is_a_bool(complete):
    with pytest.raises(ValueError, match=r"^complete: .* is neither True nor False"):
        language_model("words").score("a", complete)


@pytest.mark.parametrize(
    "streams",
    [
        "ab",
        b"ab",
        np.array([256, 97]),
        [np.array([[256]])],
        [[]],
        [[97]],
        [[256, 1.5]],
        [["a"]],
        [[256, -1]],
        [[256, 10**6]],
        5,
        None,
        ["ab"],
        [[True]],
    ],
    ids=repr,
)
def test_streams_are_checked(streams):
    with pytest.raises(ValueError, match=r"^streams(\[0\])?: ") as raised:
        language_model("words").log_p(streams)
    assert "\n" not in str(raised.value)


def test_numbers_of_numpy_are_numbers():
    lm = language_model("words")
    made = lm.generate("a", 6, temperature=1.0, seed=7)
    for kind in (np.int8, np.uint16, np.int64, np.uint64, np.array):
        assert (
            lm.generate("a", kind(6), temperature=np.float32(1), top_p=np.float64(1), seed=kind(7))
            == made
        )
        assert lm.generate("a", kind(6), temperature=1, seed=[kind(7)], speculate=kind(0)) == made
    assert lm.chunks("a b", np.int32(1)) == [b"a ", b"b"]
    assert lm.score("a", np.bool_(False))[0].nats_of_end == 0
    large = [lm.generate("a", 9, temperature=1.0, seed=s) for s in (0, 2**31 - 1, 2**31, 2**32 - 1)]
    assert large == [
        lm.generate("a", 9, temperature=1.0, seed=s) for s in (0, 2**31 - 1, 2**31, 2**32 - 1)
    ]
    assert len({made for (made,) in large}) == 4
