"""AU-Net checkpoints of facebookresearch/lingua (`apps/aunet`): config keys as in its `model`
section.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.pool import Select
from hlm.model.segment import Level
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm, Rope
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.papers.aunet import Offset
from hlm.port import llama_block
from hlm.port.keys import (
    DEEPEST,
    LONGEST,
    Check,
    Key,
    agree,
    anything,
    checked,
    divides,
    harmless,
    maybe,
    named,
    only,
    real,
    section,
    several,
    shown,
    whole,
)
from hlm.port.table import Row, head, matrix, shape
from hlm.split import WordGroups
from hlm.vocab import bytes258

LONGEST_WORD = 64  # bytes: the released splitter has no limit
# bytes in a row of the released training, where the config leaves it to the data (-1)
LENGTH = 8192
STAGES = 8  # at most


def levels(check: Check, least: int = 1) -> Check:
    return several(check, least, STAGES)


def length(name: str, value: Any) -> int | None:
    """-1: that of the data."""
    return None if isinstance(value, int) and value == -1 else whole(2, LONGEST)(name, value)


BLOCK = {
    # Each stage has sizes of its own, and the weights say how wide the feed-forward layers are.
    **harmless(
        "dim head_dim init_base_std init_std_factor max_seqlen n_heads n_layers seed "
        "ffn_dim_multiplier multiple_of"
    ),
    "n_kv_heads": Key(only(None), None),
    "norm_eps": Key(real(0, 1), 1e-5),
    "rope_theta": Key(real(1, 1e12), 10_000.0),
}
KEYS = {
    **harmless("seed"),
    "dimensions": Key(levels(whole(), 2)),
    "layers": Key(levels(whole(most=DEEPEST), 2)),
    "head_dims": Key(levels(whole(), 2)),
    "sliding_windows": Key(maybe(levels(maybe(whole()), 2)), None),
    "max_seqlens": Key(levels(length, 2)),
    "residuals": Key(maybe(levels(only(True))), None),
    "block": Key(section(BLOCK)),
    "pooling_type": Key(only("simple_indexed_matmul"), None),
    "vocab_size": Key(only(258, -1), 258),
    "lambda_level": Key(only(0.0), 0.0),
    "norm_eps": Key(real(0, 1), 1e-5),
    "regex": Key(maybe(named(anything)), None),
}


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The checked config; every list is as long as there are stages."""
    c = checked(config, KEYS)
    stages = len(c["dimensions"])
    c["sliding_windows"] = c["sliding_windows"] or (None,) * stages
    for name in ("layers", "head_dims", "sliding_windows", "max_seqlens"):
        agree(("the stages of dimensions", stages), (f"those of {name}", len(c[name])))
    if c["residuals"] is not None and len(c["residuals"]) not in (stages - 1, stages):
        agree(
            ("the stages of dimensions but the last", stages - 1),
            ("those of residuals", len(c["residuals"])),
        )
    for dim, head_dim in zip(c["dimensions"], c["head_dims"], strict=True):
        divides("head_dims", head_dim, "dimensions", dim)
        divides("2", 2, "head_dims", head_dim)
    agree(("norm_eps", c["norm_eps"]), ("block.norm_eps", c["block"]["norm_eps"]))
    if c["max_seqlens"][0] is None:
        c["max_seqlens"] = (LENGTH, *c["max_seqlens"][1:])
    if None in c["max_seqlens"]:
        raise ValueError(f"config: max_seqlens {c['max_seqlens']} (-1 only for the first stage)")
    if c["regex"] is not None:
        counts = tuple(f"{2**i}@1" for i in range(stages - 1))
        rules = c["regex"].get("strategy", c["regex"])
        fits = isinstance(rules, Mapping) and all(str(name).startswith("word") for name in rules)
        if not fits or tuple(rules.values()) != counts:
            raise ValueError(
                f"config: regex {shown(c['regex'])} (only words of {', '.join(counts)})"
            )
    return c


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = sizes(config)
    dims, depths, head_dims, windows, lengths = (
        c[key] for key in ("dimensions", "layers", "head_dims", "sliding_windows", "max_seqlens")
    )
    norm = RMSNorm(c["norm_eps"])
    rope = Rope(c["block"]["rope_theta"])
    last = len(dims) - 1

    def stack(i: int) -> Stack:
        prefix = "trunk" if i == last else f"encoders.{i}"
        width, _ = shape(weights, f"{prefix}.layers.0.feed_forward.w1.weight", 2)
        mixer = Attention(dims[i] // head_dims[i], window=windows[i], rope=rope)
        return Stack(depths[i], Block(mixer, SwiGLU(width), norm))

    def trunk(i: int) -> Stack | Hierarchy:
        if i == last:
            return stack(i)
        slots, _, _ = shape(weights, f"transitions.{i}.indexed_linear.weight", 3)
        return Hierarchy(
            encoder=stack(i),
            segmenter=Level(i + 1),
            pool=Select(dims[i + 1], norm=norm),
            backbone=trunk(i + 1),
            unpool=Offset(slots, norm=norm),
            decoder=stack(i),
            capacity=lengths[i + 1],
        )

    codec = bytes258(
        split=WordGroups(counts=tuple(2**i for i in range(last)), longest=LONGEST_WORD)
    )
    return LM(
        codec=codec,
        embed=Embed(dims[0], size=codec.size, std=dims[0] ** -0.5),
        trunk=trunk(0),
        norm=norm,
    ), lengths[0]


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = sizes(config)
    last = len(c["dimensions"]) - 1
    table = [
        Row("tok_embeddings.weight", "embed/embedding"),
        Row("vocab_norm.weight", "out_scale"),
        Row("vocab.weight", "heads/head", head),
    ]
    for i, (dim, head_dim) in enumerate(zip(c["dimensions"], c["head_dims"], strict=True)):
        here = "trunk" + "/backbone" * i
        if i == last:
            table += block("trunk", here, dim // head_dim)
            continue
        table += block(f"encoders.{i}", f"{here}/encoder", dim // head_dim)
        table += block(f"decoders.{i}", f"{here}/decoder", dim // head_dim)
        table += [
            Row(f"transitions.{i}.down_norm.weight", f"{here}/pool/pool_scale"),
            Row(f"transitions.{i}.trans_down.weight", f"{here}/pool/linear/kernel", matrix),
            Row(f"transitions.{i}.up_norm.weight", f"{here}/unpool/unpool_scale"),
            Row(f"transitions.{i}.trans_up.weight", f"{here}/unpool/linear/kernel", matrix),
            Row(
                f"transitions.{i}.indexed_linear.weight",
                f"{here}/unpool/slot",
                lambda w: w.transpose(2, 0, 1),
            ),
        ]
    return table


def block(source: str, path: str, heads: int) -> list[Row]:
    return llama_block.block(
        f"{source}.layers.{{layer}}", f"{path}/block", heads, heads, names=llama_block.META
    )
