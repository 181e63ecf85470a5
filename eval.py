"""Evaluate checkpoints side by side, on the same text.

    python eval.py runs/hat runs/flat@1000 --data text.txt more.jsonl.gz

Prints a table; writes results.json and pictures. Documents are read whole, from BOS to EOS; one
that is longer than a model's row in windows, each but the first with up to `context` symbols of the
text before it.
"""

import argparse
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from etils import epath
from rich.console import Console

import hlm.host  # noqa: F401  (first: it sets up memory allocation)
from hlm import checkpoint
from hlm.data import kinds, pipeline
from hlm.data.records import ArrayRecord
from hlm.data.source import JsonLines, TextFiles
from hlm.evals import fill, masked, perplexity, report, robustness
from hlm.fim import FIMCodec
from hlm.infer.api import LanguageModel, load

# suites for models that predict what follows, and for those that do not
CAUSAL, MASKED = (("perplexity", "robustness"), ("masked",))
FILL = ("fill",)  # for those that fill gaps too (codec=hlm.FIMCodec), when asked for


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "checkpoint",
        nargs="+",
        type=workdir_and_step,
        help="workdir of a run, or workdir@step; the newest step by default",
    )
    add(
        "--suite",
        type=some_of((*CAUSAL, *FILL, *MASKED)),
        help=f"some of {','.join((*CAUSAL, *FILL))}, or {','.join(MASKED)}; default: "
        f"{','.join(CAUSAL)} or {','.join(MASKED)}",
    )
    add(
        "--data",
        nargs="+",
        metavar="FILE",
        help="text or .jsonl, also .gz or .xz, .array_record, or corpus:...; default: the runs' "
        "test text",
    )
    add("--out", help="folder for the results; default: eval/ in the first workdir")
    add(
        "--bytes",
        type=int,
        default=20_000,
        help="of the text, about so much for robustness and words alone; default: %(default)s",
    )
    add(
        "--noises",
        type=some_of(robustness.NOISES),
        default=tuple(robustness.NOISES),
        help="for robustness; default: all",
    )
    add(
        "--severity",
        choices=robustness.SEVERITIES,
        default="curve",
        help="of each noise, one or all; default: %(default)s",
    )
    add("--seed", type=int, default=0, help="of the noise and of the places of gaps")
    args = parser.parse_args(arguments)

    # Text: the same for all checkpoints, stated in the results.
    if args.data:
        texts = [text for path in args.data for text in texts_in(path)]
    else:
        texts = [text for _, text in pipeline.documents(own_test(args.checkpoint))]
    excerpt = robustness.excerpt(texts, args.bytes)
    about: dict[str, Any] = {"text": described(texts)}

    # Suites.
    suites: dict[str, Callable[[LanguageModel], dict[str, Any]]] = {
        "perplexity": lambda lm: perplexity.evaluate(lm, texts),
        "robustness": lambda lm: robustness.evaluate(
            lm, excerpt, robustness.SEVERITIES[args.severity](args.noises), args.seed
        ),
        "fill": lambda lm: fill.evaluate(lm, texts, args.seed),
        "masked": lambda lm: masked.evaluate(lm, texts, excerpt),
    }
    results: report.Results = {}
    for path, step in args.checkpoint:
        lm = load(path, step)
        args.suite = fitting(args.suite, path, lm)
        label = f"{short(path, [p for p, _ in args.checkpoint])}@{lm.step}"
        results[label] = {"model": described_model(path, lm)} | {
            suite: suites[suite](lm) for suite in args.suite
        }
        del lm  # before the next one is loaded
    if "robustness" in args.suite:
        about |= {"robustness_text": described(excerpt), "noise_seed": args.seed}
    if "fill" in args.suite:
        about |= {"fill_seed": args.seed}
    if "masked" in args.suite:
        about |= {"masked_alone_text": described(excerpt)}
    for name, value in about.items():
        print(f"{name}: {value}")

    console = Console()
    if not console.is_terminal:
        console.width = 32 + 20 * len(results)
    console.print(report.table(results))
    for path in report.write(
        args.out or epath.Path(args.checkpoint[0][0]) / "eval", about, results
    ):
        print(path)


def workdir_and_step(given: str) -> tuple[str, int | None]:
    return checkpoint.run_and_step(os.path.expanduser(given))


def some_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def names(given: str) -> tuple[str, ...]:
        chosen = tuple(given.split(","))
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; choose from {','.join(known)}"
            )
        return chosen

    return names


def fitting(asked: Sequence[str] | None, path: str, lm: LanguageModel) -> Sequence[str]:
    """The suites that are asked for, or the usual ones of the (first) model.

    Ends the program if one does not fit.
    """
    usual = CAUSAL if lm.model.causal else MASKED
    fit = (*usual, *FILL) if isinstance(lm.codec, FIMCodec) else usual
    wrong = [suite for suite in asked or usual if suite not in fit]
    if wrong:
        kind = f"{type(lm.model).__name__} with codec {type(lm.codec).__name__}"
        sys.exit(
            f"--suite {','.join(wrong)}: does not fit {path}, a {kind}; for models like it "
            f"give --suite {','.join(fit)}"
        )
    return asked or usual


def texts_in(path: str) -> list[bytes]:
    """The documents of a file or folder, by its name's reader.

    Ends the program if it is not for that.
    """
    kind = kinds.of_name(pathlib.Path(path))
    reader = (
        JsonLines
        if kind is kinds.JSON_LINES
        else ArrayRecord
        if kind is kinds.ARRAY_RECORD
        else TextFiles
    )
    try:
        return [text for _, text in pipeline.documents(reader((path,)))]
    except (ValueError, OSError) as error:
        sys.exit(f"--data: {error}")


def own_test(checkpoints: Iterable[tuple[str, int | None]]) -> Any:
    """The test text that all runs' configs agree on."""
    tests = {
        f"{path}@{lm.step}": lm.experiment.test
        for path, step in checkpoints
        for lm in [load(path, step)]
    }
    if any(test != next(iter(tests.values())) for test in tests.values()):
        lines = "\n".join(f"  {label}: {test}" for label, test in tests.items())
        sys.exit(f"the checkpoints have different test texts, give one with --data:\n{lines}")
    return next(iter(tests.values()))


def described(texts: Sequence[bytes]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text).digest())
    return {"documents": len(texts), "bytes": sum(map(len, texts)), "sha256": digest.hexdigest()}


def described_model(path: str, lm: LanguageModel) -> dict[str, Any]:
    parameters = sum(x.size for x in jax.tree.leaves(lm.params))
    return {
        "workdir": path,
        "step": lm.step,
        "parameters": parameters,
        "row": lm.budget.length,
        "context": lm.context,
    }


def short(path: str, paths: Iterable[str]) -> str:
    """The folder's name, if it is that of one path only."""
    names = [os.path.basename(os.path.normpath(p)) for p in dict.fromkeys(paths)]
    name = os.path.basename(os.path.normpath(path))
    return name if names.count(name) == 1 else path


if __name__ == "__main__":
    main()
