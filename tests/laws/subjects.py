"""What the laws are tested on: every size of every file in configs/, found by itself, and its
`tiny` sizes with parameters and text.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from hlm import (
    LM,
    FIMCodec,
    Heads,
    Hierarchy,
    LanguageModel,
    Stack,
    TextFiles,
    config,
    fit_threshold,
    sharding,
)
from hlm.config import Experiment
from hlm.data.pack import Budget, Packer, Row, empty_row, stack
from hlm.data.pipeline import documents
from hlm.metrics import Metrics
from hlm.model.hierarchy import capacities
from hlm.model.lm import abstract_params
from hlm.papers.blt import Entropy
from hlm.seq import Batch
from hlm.sharding import leaf_axes, leaf_name
from hlm.train import step
from hlm.train.loss import loss_and_metrics
from hlm.vocab import Encoded

ROOT = pathlib.Path(__file__).parents[2]
SHORT = 128  # elements in a row of the laws that train


def found() -> Iterator[str]:
    """FILE.py:SIZE, relative to the root, for every file that defines SIZES and config."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"found_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "SIZES") and hasattr(module, "config"):
            yield from (f"configs/{path.name}:{size}" for size in module.SIZES)


ALL = list(found())
TINY = [name for name in ALL if name.split(":")[1].startswith("tiny")]


def title(name: str) -> str:
    """configs/hat.py:tiny -> hat-tiny."""
    return name.removeprefix("configs/").replace(".py:", "-")


def varied() -> list[str]:
    """Few `tiny` sizes that have every class of part between them: always the one with most classes
    that those before it lack.
    """
    classes = {
        name: {type(part) for _, part in step.modules(config.load(str(ROOT / name)).model, "")}
        for name in TINY
    }
    missing, chosen = set().union(*classes.values()), []
    while missing:
        chosen.append(max(TINY, key=lambda name: len(classes[name] & missing)))
        missing -= classes[chosen[-1]]
    return chosen


VARIED = varied()
every_size = pytest.mark.parametrize("name", ALL, ids=title)
every_config = pytest.mark.parametrize("name", TINY, ids=title)
every_part = pytest.mark.parametrize("name", VARIED, ids=title)


@functools.cache
def experiment(name: str) -> Experiment:
    exp = config.load(str(ROOT / name))
    return fitted(exp) if name in TINY else exp


def causal(name: str, wanted: bool = True) -> Experiment:
    """The config, for a law of causal models (or of those that are not); the test is skipped for
    the others.
    """
    exp = experiment(name)
    if exp.model.causal != wanted:
        pytest.skip(f"a {type(exp.model).__name__} is {'not ' if wanted else ''}causal")
    return exp


@functools.cache
def small(name: str) -> Experiment:
    """The config with short rows and at most two blocks in a stack, so that a step takes a fraction
    of a second.
    """
    exp = experiment(name)
    data = config.replace(exp.data, length=SHORT, window=1)
    # The first update of Adam is the gradient's sign where eps is far below it, and rounding
    # decides signs; so not here.
    optim = config.replace(exp.optim, peak=3e-3, warmup=1, eps=1e-5)
    model = shrunk(exp.model, SHORT, exp.data.length)
    return fitted(config.replace(exp, model=model, data=data, optim=optim, rows=4, steps=100))


def fitted(exp: Experiment) -> Experiment:
    """A threshold of entropy is fitted to a trained model; here to the random one, so that chunks
    have three elements.
    """
    segmenter = getattr(exp.model.trunk, "segmenter", None)
    if not isinstance(segmenter, Entropy):
        return exp
    params = random_params(exp.model, exp.data.length)["trunk"]["segmenter"]["frozen"]
    judge = LanguageModel(
        config.replace(exp, model=segmenter.frozen), params, sharding.Mesh().make(jax.devices()[:1])
    )
    threshold = fit_threshold(
        judge, [text for text, _ in zip(texts(0), range(20), strict=False)], 3.0
    )
    trunk = config.replace(
        exp.model.trunk, segmenter=config.replace(segmenter, threshold=threshold)
    )
    return config.replace(exp, model=config.replace(exp.model, trunk=trunk))


def shrunk(node: Any, length: int, was: int) -> Any:
    """A part of a model for rows of `length` in place of `was`."""
    if isinstance(node, tuple):
        return tuple(shrunk(part, length, was) for part in node)
    if not isinstance(node, nn.Module):
        return node
    changes = {field: shrunk(getattr(node, field), length, was) for field in config.fields(node)}
    if isinstance(node, Stack):
        changes["depth"] = min(node.depth, 2)
    if isinstance(node, Hierarchy):
        changes["capacity"] = -(-node.capacity * length // was)
    if isinstance(node, Heads) and node.block is not None:
        changes["block"] = length // 2
    return config.replace(node, **changes)


@functools.cache
def random_params(model: LM, length: int) -> Any:
    """Random parameters of about the size of real ones, none of them zero or one, without compiling
    their initialisers.
    """
    rng = np.random.default_rng(0)

    def one(path: tuple, a: Any) -> np.ndarray:
        noise = rng.standard_normal(a.shape).astype(np.float32)
        if len(leaf_axes(path)) == 1:
            return 0.1 * noise + np.float32(leaf_name(path) == "scale")
        return noise if leaf_name(path) == "embedding" else 0.07 * noise

    return jax.tree_util.tree_map_with_path(one, abstract_params(model, length))


@functools.cache
def corpus() -> bytes:
    texts = [
        text
        for _, text in documents(
            TextFiles(paths=("corpus:mobydick/valid.txt", "corpus:udhr/fra.txt"))
        )
    ]
    return b"\n".join(texts)


@functools.cache
def chinese() -> bytes:
    """Text in which words begin with characters of several bytes, without spaces."""
    return b"\n".join(text for _, text in documents(TextFiles(paths=("corpus:udhr/cmn_hans.txt",))))


def texts(seed: int, shortest: int = 10, longest: int = 150) -> Iterator[bytes]:
    """Endless pieces of text, cut anywhere, also inside characters."""
    rng, text = np.random.default_rng(seed), corpus()
    while True:
        size = int(rng.integers(shortest, longest + 1))
        start = int(rng.integers(0, len(text) - size))
        yield text[start : start + size]


def budget(exp: Experiment) -> Budget:
    return Budget(exp.data.length, capacities(exp.model.trunk))


def encoded(exp: Experiment, text: bytes) -> Encoded:
    """A text as the config's model reads it in training: with a gap, if it is to fill any."""
    if not isinstance(exp.model.codec, FIMCodec):
        return exp.model.codec.encode(text)
    # so that what is before it begins in the row
    gap = len(text) - min(len(text) // 2, exp.data.length // 3)
    return exp.model.codec.encode_infill(text[:gap], text[gap:], complete=True)


def packed(exp: Experiment, count: int, seed: int = 0) -> Batch:
    """Rows of several documents each, with padding at the end of some."""
    packer, rows = Packer(budget(exp)), []
    for i, text in enumerate(texts(seed)):
        rows += packer.add(encoded(exp, text))
        if i % 3 == 2:
            rows += packer.flush()
        if len(rows) >= count:
            return as_batch(rows[:count])
    raise AssertionError


def open_row(exp: Experiment, encoded: Encoded) -> Row:
    """The first symbols of one text, cut off at the row's end without regard for the budget of
    chunks.
    """
    row = empty_row(budget(exp))
    n = min(exp.data.length, len(encoded.token) - 1)
    row["token"][:n], row["level"][:n], row["doc"][:n] = encoded.token[:n], encoded.level[:n], 1
    row["target"][:n], row["nbytes"][:n], row["weight"][:n] = (
        encoded.token[1 : n + 1],
        encoded.nbytes[1 : n + 1],
        1,
    )
    if encoded.label is not None:
        row["label"][:n] = encoded.label[:n]
    return row


def as_batch(rows: list[Row]) -> Batch:
    return Batch(**stack(rows))


@functools.cache
def compiled_forward(model: LM) -> Any:
    @jax.jit
    def run(params: Any, batch: Batch) -> Any:
        logits_BLNV = model.apply({"params": params}, batch, method="logits")
        return logits_BLNV, loss_and_metrics(model, params, batch, None, 1.0, None)[1]

    return run


def outputs(name: str, batch: Batch) -> tuple[np.ndarray, Metrics]:
    """(logits [B, L, N, V], metrics) of a tiny config at its own row length."""
    exp = experiment(name)
    return jax.device_get(
        compiled_forward(exp.model)(random_params(exp.model, exp.data.length), batch)
    )


def forward(name: str, batch: Batch) -> tuple[np.ndarray, dict[str, float]]:
    """As `outputs`, the metrics as numbers."""
    logits_BLNV, metrics = outputs(name, batch)
    return logits_BLNV, {key: m.value() for key, m in metrics.items()}
