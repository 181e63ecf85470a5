"""The catalogue of parts: nothing is missing, all say what they are, and docs/parts.md is it."""

import sys

import pytest

from hlm import catalogue as module
from hlm.catalogue import catalogue, document, kind_of, sentence
from hlm.evals.suite import SUITES
from hlm.kinds_of_parts import KINDS
from hlm.port import FORMATS
from hlm.registry import KNOWN
from tests.laws.subjects import ROOT


def test_the_document_is_up_to_date():
    again = "run `python -m hlm.catalogue > docs/parts.md`"
    assert (ROOT / "docs" / "parts.md").read_text() == document(), again


def test_every_part_is_there_once_and_says_what_it_is():
    parts = [part for kind in catalogue().kinds.values() for part in kind]
    names = [part.name for part in parts if part.module not in map("hlm.port.{}".format, FORMATS)]
    expected = [*(cls.__name__ for cls in KNOWN), "HeadDrafts", "ChunkDrafts", *SUITES]
    assert sorted(names) == sorted(expected)
    assert all(catalogue(kind)[kind] for kind in KINDS)
    short = [part.name for part in parts if len(part.what) < 6]
    assert not short, f"say in the docstring what they are: {short}"
    # What is of no other kind is an experiment, a model, or a thing of these.
    assert len(catalogue("experiment")["experiment"]) < 12


def test_a_part_has_its_fields_and_its_configs():
    (router,) = (part for part in catalogue("segmenter")["segmenter"] if part.name == "Router")
    assert router.fields == ("target=6.0", "loss_weight=0.03")
    assert router.configs == ("hnet",)
    assert router.what.startswith("Routing segmenter: ends where")
    (words,) = (part for part in catalogue("splitter")["splitter"] if part.name == "Words")
    assert "hat" in words.configs
    text = str(catalogue("segmenter"))
    assert "\n## " not in text
    assert "| `Router` | `hlm.papers.hnet` |" in text
    assert r"next \| elements" in text  # a bar inside a cell
    assert catalogue("segmenter")._repr_markdown_() == text


def test_a_class_of_a_new_kind_is_found_by_its_base():
    class Mine(KNOWN[0]):  # an experiment
        pass

    assert kind_of(Mine) == "experiment"
    assert {kind_of(cls) for cls in KNOWN} | {"drafter", "suite", "format"} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One"),
        ("One (Su et al. 2021), so. Two.", "One (Su et al. 2021), so"),
        ("Over two\nlines: here it goes on.\n\nMore.", "Over two lines: here it goes on"),
        ("No end", "No end"),
        (None, ""),
    ],
)
def test_the_first_sentence(text, first):
    assert sentence(type("Thing", (), {"__doc__": text})) == first


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["catalogue", "schedule"])
    module.main()
    assert "| `Cosine` |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["catalogue", "segmentor"])
    with pytest.raises(SystemExit, match="there is no 'segmentor'; there are splitter, segmenter"):
        module.main()
