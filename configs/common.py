"""Text and optimizer settings that several configs share."""

from typing import Any

from hlm import FIM, LM, AdamW, Data, Every, Experiment, TextFiles, masked, schedule
from hlm.config import replace

MOBY = {part: TextFiles(paths=(f"corpus:mobydick/{part}.txt",), piece=4096) for part in ("train", "valid", "test")}


def block_width(dim: int, multiple: int = 64) -> int:
    """SwiGLU width 8/3 dim, rounded up to a multiple."""
    return -(-(8 * dim // 3) // multiple) * multiple


def on_moby(model: LM | masked.MaskedLM, length: int, rows: int, steps: int, peak: float, **changes: Any) -> Experiment:
    """A small run on the shipped Moby-Dick."""
    settings: dict[str, Any] = dict(
        model=model,
        data=Data(source=MOBY["train"], length=length, window=64),
        valid=MOBY["valid"],
        test=MOBY["test"],
        optim=AdamW(peak=peak, warmup=min(100, steps // 10), decay=schedule.Cosine(final=0.05), b2=0.98),
        steps=steps,
        rows=rows,
        every=Every(log=20, evaluate=max(steps // 2, 1), save=max(steps // 4, 1)),
    )
    return Experiment(**(settings | changes))


def with_gaps(exp: Experiment, gaps: FIM) -> Experiment:
    """The same run on texts with gaps, in pieces that fit into a row."""
    source = replace(exp.data.source, piece=exp.data.length - 4)
    return replace(exp, data=replace(exp.data, source=source, gaps=gaps))
