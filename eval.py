"""Evaluate checkpoints side by side, on the same text and the same questions.

    python eval.py runs/hat runs/flat@1000 --data text.txt more.jsonl.gz
    python eval.py runs/hat runs/bpe --suite choice,fairness --benchmarks /data/benchmarks
    python eval.py runs/hat --suite all --benchmarks sample --items 20
    python eval.py runs/hat hnet:weights/hnet_1stage_L

Prints tables with standard errors; writes results.json, report.html and pictures. Documents are
read whole, from BOS to EOS; one that is longer than a model's row in windows, each but the first
with up to `context` symbols of the text before it. A published checkpoint is FORMAT:PATH, its
config beside its weights.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence

import hlm.host  # noqa: F401  (first: it sets up memory allocation)

# isort: split
from etils import epath
from rich.console import Console

from hlm import config
from hlm.evals import inputs, misspell, page, provenance, report, robustness
from hlm.evals.report import Checkpoint
from hlm.evals.shelf import SAMPLES, Missing, Shelf
from hlm.evals.suite import SUITES, Document, Setting, named
from hlm.infer.api import LanguageModel
from hlm.look.view import View, views
from hlm.sharding import Mesh
from hlm.train.stop import as_program


def main(arguments: Sequence[str] | None = None) -> None:
    args = parsed(arguments)
    try:
        evaluate(args)
    except inputs.Wrong as error:
        sys.exit(str(error))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "checkpoint",
        nargs="+",
        help="workdir of a run (its newest step), workdir@step, a folder of hlm.export, or "
        "FORMAT:PATH of a published checkpoint",
    )
    add(
        "--suite",
        type=some_of((*SUITES, "all")),
        help=f"some of {','.join(SUITES)}, or all that fit; default: the usual ones of the model",
    )
    add(
        "--data",
        nargs="+",
        metavar="FILE",
        help="text or .jsonl, also .gz or .xz, .array_record, or corpus:...; default: the runs' "
        "test text",
    )
    add(
        "--train-text",
        nargs="+",
        metavar="FILE",
        help="to count words in, for words by frequency; default: what the runs' configs train on",
    )
    add(
        "--benchmarks",
        metavar="FOLDER",
        help="benchmark files, such as FOLDER/eval/piqa_val.jsonl.xz; `sample`: made-up ones; "
        "default: $HLM_BENCHMARKS",
    )
    add(
        "--tasks",
        type=lambda given: tuple(given.split(",")),
        default=(),
        help="of lm-evaluation-harness, for the suite lm_eval",
    )
    add("--task-path", metavar="FOLDER", help="of further tasks (YAML) for lm_eval")
    add("--items", type=int, help="of each task, 0 for all; default: what is usual for the suite")
    add("--out", help="folder for the results; default: eval/ in the first workdir")
    add(
        "--bytes",
        type=int,
        default=20_000,
        help="of the text, about so much for robustness and words alone; default: %(default)s",
    )
    add(
        "--noises",
        type=some_of(misspell.KINDS),
        default=tuple(misspell.KINDS),
        help="for robustness; default: all",
    )
    add(
        "--severity",
        choices=robustness.SEVERITIES,
        default="curve",
        help="of each noise, one or all; default: %(default)s",
    )
    add(
        "--context",
        type=int,
        help="symbols that each window of a longer text reads again; default: an eighth of a row",
    )
    add("--average", action="store_true", help="evaluate the average of the weights (average=EMA)")
    add("--rows", type=int, help="read at once, on all devices; default: what fits, by memory")
    add(
        "--mesh",
        metavar="MESH",
        help="devices to split rows and parameters over, such as 'Mesh(model=4)'; default: one",
    )
    add("--adapt-to", metavar="FILE", help="text to go on with, for the suite adaptation")
    add("--adapt-test", nargs="+", metavar="FILE", help="text of that kind to judge on")
    add("--flops", type=float, default=1e12, help="of adaptation; default: %(default)g")
    add("--seed", type=int, default=0, help="of the noise, of the places of gaps and of samples")
    add("--seeds", type=int, default=3, help="so often noise is drawn; default: %(default)s")
    return parser.parse_args(arguments)


def evaluate(args: argparse.Namespace) -> None:
    how = {"average": args.average, "rows": args.rows, "mesh": mesh(args.mesh)}
    references = [dataclasses.replace(inputs.reference(x), **how) for x in args.checkpoint]
    texts = inputs.texts(args.data) if args.data else inputs.own_test(references)
    shelf = Shelf(benchmarks(args.benchmarks))
    setting = Setting(
        documents=[Document(text, domain) for domain, text in texts],
        excerpt=robustness.excerpt([text for _, text in texts], args.bytes),
        shelf=shelf,
        training=[text for _, text in inputs.texts(args.train_text)]
        if args.train_text
        else inputs.own_training(references),
        items=args.items,
        severities=robustness.SEVERITIES[args.severity](args.noises),
        seed=args.seed,
        seeds=args.seeds,
        adapt_to=args.adapt_to and inputs.source(args.adapt_to),
        adapt_test=[text for _, text in inputs.texts(args.adapt_test)] if args.adapt_test else (),
        flops=args.flops,
        tasks=args.tasks,
        task_path=args.task_path,
    )
    results: report.Results = {}
    fitted: set[str] = set()
    looks: dict[str, list[View]] = {}
    shown = page.examples([text for _, text in texts])
    for reference in references:
        lm = reference.load()
        lm.context = inputs.context(lm, args.context)
        label = f"{reference.short(references)}@{lm.step}"
        suites = chosen(args.suite, label, lm, len(references) > 1)
        fitted.update(suites)
        results[label] = Checkpoint(reference.described(lm), measured(lm, suites, setting))
        looks[label] = views(lm, shown)
        del lm  # before the next one is loaded
    if none := [name for name in args.suite or () if name not in (*fitted, "all")]:
        raise inputs.Wrong(f"--suite {','.join(none)}: fits none of {', '.join(results)}")
    about = provenance.described() | {
        "text": provenance.digest([text for _, text in texts]),
        "excerpt": provenance.digest(setting.excerpt),
        "benchmarks": {"sample": shelf.is_sample, "sha256": shelf.digests},
        "seed": args.seed,
        "seeds": args.seeds,
        "items": args.items,
    }
    for name in ("text", "excerpt"):
        print(f"{name}: {about[name]}")
    console = Console()
    if not console.is_terminal:
        console.width = 44 + 24 * len(results)
    console.print(report.table(results))
    folder = epath.Path(args.out or epath.Path(references[0].path) / "eval")
    for path in (*report.write(folder, about, results), page.write(folder, about, results, looks)):
        print(path)


def measured(lm: LanguageModel, suites: Sequence[str], setting: Setting) -> dict[str, report.Found]:
    """What each suite finds; one whose data is not there is said and left out."""
    found = {}
    for name in suites:
        try:
            found[name] = named(name).evaluate(lm, setting)
        except Missing as missing:
            print(f"{name}: left out: {missing}")
            continue
        except ValueError as error:
            raise inputs.Wrong(f"--suite {name}: {error}") from error
        for note in found[name].notes:
            print(f"{name}: {note}")
    return found


def chosen(asked: Sequence[str] | None, label: str, lm: LanguageModel, several: bool) -> list[str]:
    """The suites that are asked for, or the usual ones; raises `Wrong` if one does not fit, but of
    several models those that it does not fit are left out.
    """
    fitting = [name for name in SUITES if named(name).fits(lm)]
    if asked is None:
        return [name for name in fitting if named(name).usual]
    if "all" in asked:
        return fitting
    wrong = [name for name in asked if name not in fitting]
    if wrong and several:
        print(f"{label}: {', '.join(wrong)}: left out, does not fit it")
    elif wrong:
        raise inputs.Wrong(
            f"--suite {','.join(wrong)}: does not fit {label}, a {type(lm.model).__name__} with "
            f"codec {type(lm.codec).__name__}; for models like it give --suite {','.join(fitting)}"
        )
    return [name for name in asked if name in fitting]


def mesh(given: str | None) -> Mesh | None:
    """The mesh that an expression names."""
    if given is None:
        return None
    try:
        found = config.parse(given, Mesh, "--mesh")
        found.make()
    except ValueError as error:
        raise inputs.Wrong(str(error)) from error
    return found


def benchmarks(given: str | None) -> str | os.PathLike[str] | None:
    """The folder of benchmark files."""
    folder = given or os.environ.get("HLM_BENCHMARKS")
    if folder == "sample":
        return SAMPLES
    if folder and not os.path.isdir(os.path.expanduser(folder)):
        raise inputs.Wrong(f"--benchmarks: no folder {folder}; give one, or `sample`")
    return folder


def some_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def names(given: str) -> tuple[str, ...]:
        asked = tuple(given.split(","))
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; choose from {','.join(known)}"
            )
        return asked

    return names


if __name__ == "__main__":
    as_program(main)
