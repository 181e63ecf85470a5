"""Fields of sources hold what they declare, or the error names field, value and what is wanted."""

import dataclasses

import pytest

from hlm import registry
from hlm.data.source import (
    ArrayRecord,
    Arrow,
    Beginning,
    JsonLines,
    Mixture,
    Parquet,
    Streamed,
    TextFiles,
    Tfds,
)

A = TextFiles(("a.txt",))
GOOD = {
    TextFiles: {"paths": ("a.txt",)},
    JsonLines: {"paths": ("a.jsonl",)},
    Parquet: {"paths": ("a.parquet",)},
    Arrow: {"paths": ("a.arrow",)},
    ArrayRecord: {"paths": ("a",)},
    Tfds: {"name": "a"},
    Mixture: {"sources": (A,), "weights": (1,)},
    Beginning: {"source": A, "nbytes": 9},
    Streamed: {"source": A},
}
CASES = [(cls, field.name) for cls in GOOD for field in dataclasses.fields(cls)]
NEVER = (3 + 4j, b"bytes", {"a": 1}, ("text", 2))


@pytest.mark.parametrize(("cls", "name"), CASES)
def test_a_value_of_another_type_is_named(cls, name):
    for value in NEVER:
        with pytest.raises((ValueError, TypeError), match=rf"{cls.__name__}\.{name}\b") as raised:
            cls(**GOOD[cls] | {name: value})
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Parquet(('a',), piece='8k')", "Parquet.piece is '8k'; it must be a whole number"),
        ("Parquet(('a',), bad_lines='x')", "it must be a whole number or None"),
        ("Parquet(('a',), ('b',))", r"Parquet.field is \('b',\); it must be a text"),
        ("TextFiles(('a',), piece=1.5)", "it must be a whole number"),
        ("TextFiles(('a',), piece=True)", "it must be a whole number"),
        ("TextFiles(('a',), separator=5)", "it must be a text or None"),
        ("TextFiles(('a',), any_bytes='no')", "it must be True or False"),
        ("Mixture((TextFiles(('a',)),), (1))", "Mixture.weights is 1; .*such as"),
        ("Mixture((TextFiles(('a',)),), ('a',))", r"weights is \('a',\); .* each a number"),
        ("Mixture(('a.txt',), (1,))", "each a source or Mixture"),
        ("Beginning('a.txt', 5)", "it must be a source"),
        ("Beginning(Fixed(6), 5)", "it must be a source"),
        ("Beginning(Mixture((TextFiles(('a',)),), (1,)), 5)", "it must be a source"),
        ("Beginning(TextFiles(('a',)), '1MB')", "it must be a whole number"),
        ("Streamed(Tfds('a'))", "it must be TextFiles, JsonLines or ArrayRecord"),
        ("Streamed(Beginning(TextFiles(('a',)), 5))", "it must be TextFiles"),
        ("Tfds(5)", "Tfds.name is 5; it must be a text"),
    ],
)
def test_the_command_line_says_so(text, said):
    with pytest.raises(ValueError, match=said) as raised:
        registry.expression(text, "data.source")
    assert str(raised.value).startswith("data.source: ")


def test_whole_numbers_and_lists_will_do():
    assert Mixture((A, A), (4, 1)).weights == (4, 1)
    assert Mixture((A, A), (0.5, 1)).weights == (0.5, 1)
    assert TextFiles(["a.txt"]).paths == ["a.txt"]  # type: ignore
    assert Streamed(Parquet(("a",))).source == Parquet(("a",))  # type: ignore
