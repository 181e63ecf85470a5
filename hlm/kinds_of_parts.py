"""The kinds of parts, and what one of each kind must know: the prose of the catalogue
(hlm/catalogue.py).
"""

import dataclasses
from collections.abc import Callable

from flax import linen as nn

from hlm.config import fields
from hlm.evals.suite import Suite
from hlm.infer.drafts import Drafter
from hlm.model.embed import Embedding
from hlm.model.objective import Objective
from hlm.model.pool import Pool
from hlm.model.segment import Segmenter
from hlm.model.unpool import Unpool
from hlm.nn.stack import Trunk
from hlm.split import Splitter

Takes = Callable[[type], bool]


@dataclasses.dataclass(frozen=True)
class Kind:
    title: str
    takes: Takes
    rules: str = ""


def of(base: type) -> Takes:
    return lambda cls: issubclass(cls, base)


def named(*names: str) -> Takes:
    return lambda cls: cls.__name__ in names


def inside(*modules: str) -> Takes:
    return lambda cls: (
        cls.__module__ in modules
        or cls.__module__.startswith(tuple(f"{module}." for module in modules))
    )


def has(*methods: str) -> Takes:
    return lambda cls: all(hasattr(cls, method) for method in methods)


def reads_out(cls: type) -> bool:
    """Heads: what has symbols to predict `ahead`, or answers what is hidden."""
    return issubclass(cls, nn.Module) and (
        "ahead" in fields(cls) or hasattr(cls, "ahead") or cls.__name__ in ("Spell", "PieceHeads")
    )


EVERY_PART = """\
A part is a frozen dataclass: a module of `flax.linen`, or a plain one where it has no parameters.
What it needs to be told is a field with a type; a config constructs it, and its JSON stands in
every checkpoint. What every part must know:

- **Names.** A class of your own stands in checkpoints as `module:Class`, so it lives in a module
  that can be imported, not in a notebook. One of the project goes into the table of
  `hlm/registry.py`, and is then listed here.
- **Parameters** are float32 and have names of the table in `hlm/sharding.py` (`kernel`, `bias`,
  `scale`, ...), which says how they are split; `hlm.nn.basic.weight` and `Linear` make them.
  Paths are the public format of checkpoints: `python -m tests.golden.test_paths` writes those of
  every `tiny` size to `tests/golden`.
- **Strict dtypes.** Tests run with `jax_numpy_dtype_promotion=strict` and
  `jax_numpy_rank_promotion=raise`: cast what you mix (activations are of `LM.dtype`, also
  bfloat16; decisions and losses are float32), and write `[..., None]` where ranks differ. An
  array of integers times one of floats is an error, too.
- **Losses** are `Aux(losses={"loss/NAME": Mean(total, weight)})`: added to the likelihood,
  reported under this name, and no two parts may give the same. Average over rows that count alike
  (`hlm.metrics.mean_of_rows`), so that micro-batches add up to the batch; a segmenter or
  objective whose loss cannot says why in `whole_batch`, has a field `loss_weight`, and is left
  out of the law of micro-batches by that. **Metrics** are `Aux(metrics={...})`: sums and weights
  (`hlm.metrics.ratio`), which add up over anything. Activations for another part are
  `Aux(left=(...,))`, a dataclass of their own.
- **Exact zeros.** What no loss hangs on (padding, targets without weight) passes on a gradient of
  exactly zero.
- **Documents share a row** and see nothing of each other: `seq.doc` says whose an element is,
  `seq.pos` where it is in its own; `doc` 0 is padding.
- **Generation** reads a row in calls. A part that looks at earlier elements gets them by
  `with_left_context`, or keeps them in a `Ring` (`hlm/nn/kv_cache.py`); one that looks at its own
  element alone needs nothing.
- **Fields** all change something, or say why not (`hlm.config.free`). What is wrong with one is
  told in one line that names it, its value and the fix.
- **Tests find parts by configs.** Every size called `tiny...` of every file in `configs/` is put
  through the laws of `tests/laws` (`pytest tests/laws -k NAME`), so a part is covered once a
  config uses it. Nothing is listed by hand."""

KINDS: dict[str, Kind] = {
    "splitter": Kind(
        "Splitters: rules on the text",
        of(Splitter),
        "`levels(text, complete)` says on the host how many levels end after each byte; `rule()` "
        "says the same on the device, byte by byte, for generation. Both follow from the bytes "
        "up to t alone: bytes on the right never move an end, whatever they are "
        "(`tests/laws/test_splitter.py`, `tests/unit/test_automaton.py`). The device's rule is a "
        "state of arrays with a leading axis of rows, `start` and `step`; its state is kept once "
        "for each draft, so keep it small. Without a `rule()` of its own the host is asked for "
        "every byte, which is right and slow. Characters take effect at their last byte; bytes "
        "that are no UTF-8 are invisible to rules that speak of characters. `longest` bounds a "
        "chunk: decoding sizes its memory by it. `samples()` gives the settings that the laws "
        "try.",
    ),
    "segmenter": Kind(
        "Segmenters: which elements end a chunk",
        of(Segmenter),
        "`(h [B, L, D], seq) -> (ends bool [B, L], probability or None, Aux)`. Whether element t "
        "ends a chunk follows from elements up to t of its own document, and from no others. "
        "`learned`: it reads the encoder's output and runs behind it; `from_levels`: it reads "
        "`seq.level` alone, so decoding knows ends ahead. The probability is float32 with the "
        "gradient that pools and unpools pass on; a document's first element always ends a "
        "chunk, so it must pass none. Capacity, packing and sharding are not its business.",
    ),
    "pool": Kind(
        "Pools: elements to one vector per chunk",
        of(Pool),
        "`(h [B, L, D], b) -> z [B, S, E]`. `b.member` says which chunk an element belongs to "
        "(S: none), `b.at` where a chunk ends. `reach`: how many elements of a chunk it looks "
        "at, counted from its end; None: all. Generation runs the same pool on the open chunk.",
    ),
    "unpool": Kind(
        "Unpools: chunk vectors back onto the elements",
        of(Unpool),
        "`(z [B, S, E], skip [B, L, D], b) -> u [B, L, D]`. `b.seen` is the newest chunk that an "
        "element may know; taking any other breaks causality. `reads_skip` is false where the "
        "skip decides nothing.",
    ),
    "embedding": Kind(
        "Embeddings", of(Embedding), "`(seq, dtype) -> [B, L, width]`, and a field `size`."
    ),
    "position": Kind("Positions", inside("hlm.nn.position", "hlm.nn.rope")),
    "heads": Kind(
        "Heads",
        reads_out,
        "Float32. Without targets logits, with targets nats and whether the best guess was "
        "right; symbols that are not `codec.predicted` have no probability.",
    ),
    "trunk": Kind(
        "Trunks: stacks and hierarchies",
        of(Trunk),
        "`(x [B, L, D], seq, group) -> (y [B, L, D], Aux)`. Whatever stands between embedding "
        "and heads, inside a chunk, or over chunks.",
    ),
    "block": Kind(
        "Blocks",
        lambda cls: (
            issubclass(cls, nn.Module) and ("mixer" in fields(cls) or "Block" in cls.__name__)
        ),
        "`(x, seq, group) -> x`. A stack repeats it in a scan over stacked weights.",
    ),
    "mixer": Kind(
        "Mixers",
        named(
            "Attention", "RelativeAttention", "RelativeBias", "Mamba2", "SingleKeyCrossAttention"
        ),
        "`(x [B, L, D], seq, group) -> [B, L, D]`: an element reads those of its document at or "
        "before it, of its group if there is one. Documents are kept apart exactly, not nearly.",
    ),
    "kernel": Kind("Kernels of attention", inside("hlm.nn.kernels")),
    "memory": Kind("Guides: what a decoder reads of chunks", named("ChunkMemory", "NewestChunk")),
    "feed_forward": Kind("Feed-forward layers", inside("hlm.nn.feed_forward")),
    "norm": Kind("Norms, initialisers, rotations", inside("hlm.nn.basic")),
    "objective": Kind(
        "Objectives: losses besides the likelihood",
        of(Objective),
        "`losses(seen) -> Aux`. `takes`: the class of activations that some part must leave; "
        "`lengthen`: a longer row for the trunk. A model that leaves what no objective takes is "
        "an error.",
    ),
    "masking": Kind("Masking", named("WholeWords")),
    "codec": Kind(
        "Codecs: text to symbols and back",
        has("encode", "decode", "levels", "predicted"),
        "`encode(text, complete) -> Encoded` and `decode`, for any bytes; `levels(symbols)` "
        "gives the levels of an open stream and must agree with `encode`. `predicted`: symbols "
        "that can be a target.",
    ),
    "labels": Kind("Labels: what a part learns from besides", has("marks")),
    "source": Kind(
        "Sources of text",
        lambda cls: cls.__module__.startswith(
            ("hlm.data.formats", "hlm.data.source", "hlm.data.unchosen")
        ),
        "`open()` gives records, each with its text and whether it is complete; a position in "
        "them can be saved (docs/data.md).",
    ),
    "optimizer": Kind(
        "Optimizers", has("learning_rate", "build"), "`build(steps)` is an optax transformation."
    ),
    "schedule": Kind(
        "Schedules", inside("hlm.train.schedule"), "A factor at a fraction 0..1 of training."
    ),
    "guard": Kind("Guards against spikes of the loss", inside("hlm.train.guard")),
    "average": Kind("Averages of the weights", inside("hlm.train.average")),
    "drafter": Kind("Drafters", of(Drafter), "What is generated is the same, whatever it drafts."),
    "suite": Kind(
        "Suites of evaluation",
        of(Suite),
        "`fits(lm)` and `evaluate(lm, setting) -> Found` (docs/evaluation.md).",
    ),
    "format": Kind(
        "Formats of published checkpoints",
        lambda cls: False,
        "A file of `hlm/port` with `model(config, weights)` and `rows(config, weights)`: which "
        "weight goes where.",
    ),
    "experiment": Kind("Experiments, models", lambda cls: True),
}
