"""A short report on one run: python -m hlm.evals.first_look WORKDIR

Bits per byte of its test text beside reference lines, robustness, a sample, and how the model cuts
a sentence.
"""

import argparse
import json
import pathlib

import rich
import rich.markup
from rich.table import Table

import hlm.host  # noqa: F401  (first: it sets up memory allocation)
from hlm.data.pipeline import documents
from hlm.evals import provenance, report, robustness
from hlm.evals.measure import Measure
from hlm.evals.shelf import Shelf
from hlm.evals.suite import Document, Found, Setting, named
from hlm.infer.api import LanguageModel, load
from hlm.train.stop import as_program

# Bits per byte of other models on a corpus' test text, trained on its training text only.
REFERENCES = {
    "corpus:mobydick/": (("unigram bytes", 4.46), ("PPMd, order 16", 1.93)),
    "corpus:sotu/": (("unigram bytes", 4.36), ("PPMd, order 16", 1.53)),
}
NOISES = ("permute", "replace", "delete", "upper")
SENTENCE = (
    "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about "
    "a little."
)
ROBUSTNESS_BYTES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir")
    workdir = pathlib.Path(parser.parse_args().workdir)
    lm = load(str(workdir))
    texts = [text for _, text in documents(lm.experiment.test)]
    setting = Setting(
        documents=[Document(text, "test") for text in texts],
        excerpt=robustness.excerpt(texts, ROBUSTNESS_BYTES),
        shelf=Shelf(None),
        severities=robustness.usual(NOISES),
        seeds=1,
    )
    found = {name: named(name).evaluate(lm, setting) for name in ("perplexity", "robustness")}
    print_numbers(lm, found)
    print_text(lm)
    written = report.write(
        workdir / "eval",
        provenance.described() | {"text": provenance.digest(texts)},
        {workdir.name: report.Checkpoint({"step": lm.step}, found)},
    )
    rich.print(
        f"\nrun folder [bold]{workdir}[/bold]: checkpoints/, metrics.jsonl, loss.png, tensorboard/"
    )
    rich.print("evaluation " + ", ".join(str(path) for path in written))
    rich.print(
        f'in a notebook: [bold]import hlm; lm = hlm.load("{workdir}"); lm.generate("Call me '
        '", max_bytes=80)[/bold]'
    )


def print_numbers(lm: LanguageModel, found: dict[str, Found]) -> None:
    rich.print(f"\n{lm}")
    table = Table("test text", "bits per byte")
    for name, value in references(lm):
        table.add_row(name, f"{value:.3f}")
    clean = value_of(found["perplexity"].grids["perplexity"][""])
    table.add_row("[bold]this model[/bold]", f"[bold]{clean['bits_per_byte']:.3f}[/bold]")
    table.add_section()
    noisy = found["robustness"].grids
    for name, row in noisy["robustness: noise"].items():
        values = value_of(row)
        table.add_row(name, f"{values['bits_per_byte']:.3f} ({values['change']:+.0%})")
    rich.print(table)
    excerpt = noisy["robustness: clean text"][""]["bits_per_byte"]
    rich.print(
        f"word accuracy {clean['word_accuracy']:.1%}, byte accuracy {clean['byte_accuracy']:.1%}, "
        f"{clean['bytes_per_chunk']:.2f} bytes per chunk; noise on the first "
        f"{excerpt.weight.sum():,.0f} bytes, clean {excerpt.value:.3f}"
    )


def value_of(row: dict[str, Measure]) -> dict[str, float]:
    """The values of a row's measures."""
    return {name: measure.value or 0.0 for name, measure in row.items()}


def references(lm: LanguageModel) -> list[tuple[str, float]]:
    """Reference lines of the shipped corpora, if the test text is one of them."""
    text = json.dumps(getattr(lm.experiment.test, "paths", ()))
    return [line for prefix, lines in REFERENCES.items() if prefix in text for line in lines]


def print_text(lm: LanguageModel) -> None:
    sample = lm.generate("The whale ", max_bytes=200, temperature=0.7, seed=0)[0].decode(
        errors="replace"
    )
    rich.print(
        "\n[bold]sample[/bold] (temperature 0.7)",
        "[dim]The whale [/dim]" + rich.markup.escape(sample),
        sep="\n",
    )
    if lm.budget.chunks:
        chunks = [chunk.decode(errors="replace") for chunk in lm.chunks(SENTENCE)]
        rich.print("\n[bold]chunks[/bold]", rich.markup.escape("|".join(chunks)), sep="\n")


if __name__ == "__main__":
    as_program(main)
