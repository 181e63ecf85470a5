"""FLOPs of a model at measured chunks, by hlm/flops.py."""

from hlm import config, flops, slots
from hlm.infer.api import LanguageModel
from hlm.traced import products

Price = tuple[float, float]  # inference FLOPs of a symbol, and of a chunk with all levels above


def price(lm: LanguageModel) -> Price:
    """Those of rows of the shipped Moby-Dick as the model cuts them, rows of its own length.

    What attention costs hangs on the length; it is that of these rows, whatever the text's.
    """
    data = config.replace(lm.experiment.data, source=slots.MOBY)
    exp = config.replace(lm.experiment, data=data)
    rows = flops.measure(exp, lm.params)
    counts, _ = products(flops.traced_forward(flops.with_room(exp, rows.elements)))
    parts: dict[str, float] = {**flops.by_part(counts)}
    below, *above = flops.by_level(parts, len(rows.elements))
    return below / rows.elements[0], sum(above) / rows.elements[1] if above else 0.0
