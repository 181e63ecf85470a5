"""What configs share: runs on the shipped Moby-Dick, and runs of published sizes.

Sizes called `tiny...`, `peer...` and `moby` train on Moby-Dick (`on_moby`). Published sizes have no
text of their own (`published`): give one, or train.py says so and ends.

    python train.py configs/hat.py:1b --workdir gs://bucket/hat-1b \\
        data.source='TextFiles(paths=("/data/*.txt",), piece=8192)'

Text for evaluation is Moby-Dick's valid and test chapters for all of them, unless you give `valid=`
and `test=` in the same way.
"""

from typing import Any

from hlm import FIM, LM, AdamW, Data, Every, Experiment, Muon, TextFiles, masked, schedule
from hlm.config import replace
from hlm.data.unchosen import Unchosen

PARTS = ("train", "valid", "test")
MOBY = {part: TextFiles(paths=(f"corpus:mobydick/{part}.txt",), piece=4096) for part in PARTS}


def block_width(dim: int, multiple: int = 64) -> int:
    """SwiGLU width 8/3 dim, rounded up to a multiple."""
    return -(-(8 * dim // 3) // multiple) * multiple


def on_moby(
    model: LM | masked.MaskedLM,
    length: int,
    rows: int,
    steps: int,
    peak: float,
    **changes: Any,
) -> Experiment:
    """A small run on the shipped Moby-Dick."""
    settings: dict[str, Any] = dict(
        model=model,
        data=Data(source=MOBY["train"], length=length, window=64),
        valid=MOBY["valid"],
        test=MOBY["test"],
        optim=AdamW(
            peak=peak,
            warmup=min(100, steps // 10),
            decay=schedule.Cosine(final=0.05),
            b2=0.98,
        ),
        steps=steps,
        rows=rows,
        every=Every(log=20, evaluate=max(steps // 2, 1), save=max(steps // 4, 1)),
    )
    return Experiment(**(settings | changes))


def muon(peak: float) -> Muon:
    """For `on_moby`, in place of AdamW."""
    return Muon(peak=peak, warmup=100, decay=schedule.Cosine(final=0.05), b2=0.98)


def published(
    model: LM | masked.MaskedLM,
    length: int,
    rows: int,
    steps: int,
    peak: float,
    **changes: Any,
) -> Experiment:
    """A long run on text that whoever trains it gives, as the slice needs it that the size names.

    Activations are bfloat16, parameters and optimizer float32. One worker beside each process packs
    rows: a few MB of text a second, where a host of eight chips reads less than one. A step takes
    from milliseconds to seconds, so evaluations and saves are minutes apart, not steps.
    """
    settings: dict[str, Any] = dict(
        data=Data(source=Unchosen(), length=length, window=64, workers=1),
        every=Every(log=20, evaluate_minutes=60, save_minutes=20),
    )
    model = replace(model, dtype="bfloat16")
    return on_moby(model, length, rows, steps, peak, **(settings | changes))


def with_gaps(exp: Experiment, gaps: FIM) -> Experiment:
    """The same run on texts with gaps, in pieces that fit into a row."""
    source = replace(exp.data.source, piece=exp.data.length - 4)
    return replace(exp, data=replace(exp.data, source=source, fim=gaps))
