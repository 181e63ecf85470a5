"""A ladder of sizes: a config of configs/ made wider and deeper by eighths, and what it costs."""

from typing import Any

from budgeted import file

from hlm import config, flops
from hlm.config import Experiment
from hlm.model.hierarchy import Hierarchy
from hlm.subwords import Subwords
from hlm.traced import RECOMPUTED, products

BASES = {"flat": "flat:tiny", "bpe": "bpe:tiny", "hat": "hat:tiny", "aunet": "aunet:moby"}
SUBWORDS = 512  # at least: 256 are bytes
RUNGS = (*range(1, 9), *range(10, 65, 2))  # eighths of the base


def rung(family: str, eighths: int) -> tuple[str, ...]:
    """Overrides that make a base's widths, depths and vocabulary `eighths` / 8 of what they are.

    Depths are whole and at least 1. Heads stay as wide as they are, as nearly as they divide.
    """
    model = config.load(file(BASES[family])).model

    def scaled(n: int) -> int:
        return n * eighths // 8

    def trunk(at: str, part: Any, width: int) -> dict[str, int]:
        if isinstance(part, Hierarchy):
            settings = {f"{at}.pool.width": scaled(part.pool.width)}
            for name in ("encoder", "decoder"):
                settings |= trunk(f"{at}.{name}", getattr(part, name), width)
            return settings | trunk(f"{at}.backbone", part.backbone, part.pool.width)
        heads = range(1, max(scaled(part.block.mixer.heads), 1) + 1)
        return {
            f"{at}.depth": max(round(part.depth * eighths / 8), 1),
            f"{at}.block.mixer.heads": max(n for n in heads if scaled(width) % (2 * n) == 0),
            f"{at}.block.mlp.width": scaled(part.block.mlp.width),
        }

    width = model.embed.width
    settings = {"model.embed.width": scaled(width)} | trunk("model.trunk", model.trunk, width)
    if isinstance(model.codec, Subwords):
        settings["model.embed.size"] = max(scaled(model.codec.size), SUBWORDS)
    return tuple(f"{name}={value}" for name, value in settings.items())


def training(exp: Experiment, held: flops.Rows) -> float:
    """FLOPs a byte, as hlm.flops counts them: of products that text needs."""
    counts, _ = products(flops.traced_step(flops.with_room(exp, held.elements)))
    return sum(n for path, n in counts.items() if RECOMPUTED not in path) / held.nbytes
