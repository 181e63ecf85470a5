"""Checkpoints of kjslag/spacebyte, config keys as there: SpaceByte (`patch_method`), its MegaByte
(`patch_size`), its Transformer.

Local attention reaches `local_attention_window` bytes back, as on a CPU; with flash attention the
released code reaches one less.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.pool import Select
from hlm.model.segment import Level
from hlm.model.unpool import Scatter
from hlm.nn.attention import Attention
from hlm.nn.basic import LayerNorm, Rope
from hlm.nn.feed_forward import MLP
from hlm.nn.position import Positions
from hlm.nn.stack import Block, Stack
from hlm.papers.megabyte import Concat, Lookup, Split
from hlm.port.keys import (
    DEEPEST,
    LONGEST,
    Key,
    checked,
    divides,
    harmless,
    maybe,
    only,
    truth,
    whole,
)
from hlm.port.table import Row, head, into_heads, into_rotated_heads, matrix, out_of_heads
from hlm.split import Fixed, SpaceLike, Unsplit
from hlm.vocab import utf8_mark

NORM = LayerNorm(bias=False)


BASE = {
    **harmless("print_patches"),
    "vocab_size": Key(only(256), 256),
    "BOS": Key(only(255), 255),
    "tokenizer": Key(only(None), None),
    "tie_embedding": Key(only(None, False), None),
    "nonlinear": Key(only("ReLU"), None),
    "sparse_attention": Key(only(None, False), None),
    "layer_norm": Key(only("LayerNorm"), None),
    "init": Key(only("simple", "standard", "muTransfer"), "simple"),
    "context_size": Key(whole(2, LONGEST)),
    "d_model": Key(whole()),
    "d_key": Key(whole()),
    "d_ff_mult": Key(whole(most=64), 4),
    "n_layers": Key(whole(most=DEEPEST)),
    "qk_layer_norm": Key(truth, True),
    "rope": Key(truth, False),
    "attention_groups": Key(maybe(whole()), None),
    "attention_window": Key(maybe(whole()), None),
    "position_encoding": Key(truth, True),
}
CHUNKED = BASE | {
    "position_encoding": Key(only(True), True),
    "d_local": Key(whole()),
    "n_local_layers": Key(whole(most=DEEPEST)),
}
SPACEBYTE = CHUNKED | {
    "patch_method": Key(only("utf8", "periodic")),
    "global_context_size": Key(whole(most=LONGEST)),
    "n_initial_layers": Key(whole(least=0, most=DEEPEST)),
    "local_attention_window": Key(whole()),
}
MEGABYTE = CHUNKED | {"patch_size": Key(whole()), "use_padding": Key(only(True), True)}


def sizes(config: Any) -> dict[str, Any]:
    """The checked config of one of the three."""
    names = config if isinstance(config, Mapping) else {}
    c = checked(
        config,
        SPACEBYTE if "patch_method" in names else MEGABYTE if "patch_size" in names else BASE,
    )
    for name in ("d_model", "d_local") if "d_local" in c else ("d_model",):
        heads = divides("d_key", c["d_key"], name, c[name])
        divides("attention_groups", c["attention_groups"] or heads, f"{name} / d_key", heads)
    if c["rope"]:
        divides("2", 2, "d_key, with rope,", c["d_key"])
    if c["init"] == "muTransfer" and not c["qk_layer_norm"]:
        raise ValueError(
            "config: init 'muTransfer' with qk_layer_norm False (queries are scaled twice, "
            "which is not supported here)"
        )
    if "patch_size" in c:
        divides("patch_size", c["patch_size"], "context_size", c["context_size"])
        divides("patch_size", c["patch_size"], "d_model", c["d_model"])
        if c["patch_size"] > 255:
            raise ValueError(f"config: patch_size {c['patch_size']} (only to 255)")
    if "patch_method" in c:
        if c["patch_method"] == "periodic":
            divides(
                "global_context_size", c["global_context_size"], "context_size", c["context_size"]
            )
        if c["d_local"] > c["d_model"]:
            raise ValueError(f"config: d_local {c['d_local']} (only to d_model, {c['d_model']})")
        if c["n_initial_layers"] > c["n_local_layers"]:
            raise ValueError(
                f"config: n_initial_layers {c['n_initial_layers']} (only to n_local_layers, "
                f"{c['n_local_layers']})"
            )
    return c


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = sizes(config)
    length = c["context_size"]
    if "patch_method" in c:
        return spacebyte(c, length), length
    if "patch_size" in c:
        return megabyte(c, length), length
    positions = Positions(length) if c["position_encoding"] else None
    trunk = stack(c, c["d_model"], c["n_layers"], c["attention_window"])
    return LM(
        utf8_mark(Unsplit()), Embed(c["d_model"], size=256, positions=positions), trunk, norm=NORM
    ), length


def spacebyte(c: Mapping[str, Any], length: int) -> LM:
    chunks, local = c["global_context_size"], c["d_local"]
    before = c["n_initial_layers"]
    window = c["local_attention_window"]
    split = SpaceLike(longest=length) if c["patch_method"] == "utf8" else Fixed(length // chunks)
    return LM(
        codec=utf8_mark(split),
        embed=Embed(local, size=256, positions=Positions(length)),
        trunk=Hierarchy(
            encoder=stack(c, local, before, window),
            segmenter=Level(1),
            pool=Select(c["d_model"], project=False),
            backbone=stack(
                c, c["d_model"], c["n_layers"], c["attention_window"], Positions(chunks)
            ),
            unpool=Scatter(),
            decoder=stack(c, local, c["n_local_layers"] - before, window),
            capacity=chunks,
        ),
        norm=NORM,
    )


def megabyte(c: Mapping[str, Any], length: int) -> LM:
    patch, local = c["patch_size"], c["d_local"]
    block = stack(c, local, c["n_local_layers"], patch - 1)
    return LM(
        codec=utf8_mark(Fixed(patch)),
        embed=Embed(local, size=256, positions=Positions(patch)),
        trunk=Hierarchy(
            encoder=Lookup(
                Embed(
                    c["d_model"] // patch, size=256, positions=Positions(length, offset=patch - 1)
                )
            ),
            segmenter=Level(1),
            pool=Concat(patch, null=True),
            backbone=stack(c, c["d_model"], c["n_layers"], c["attention_window"]),
            unpool=Split(patch),
            decoder=dataclasses.replace(block, per_chunk=True),
            capacity=length // patch + 1,
            skip_input=True,
        ),
        norm=NORM,
    )


def stack(
    c: Mapping[str, Any],
    width: int,
    depth: int,
    window: int | None,
    positions: Positions | None = None,
) -> Stack:
    """`window`: elements seen before an element itself."""
    attention = Attention(
        width // c["d_key"],
        kv_heads=c["attention_groups"],
        window=None if window is None else window + 1,
        rope=Rope() if c["rope"] else None,
        qk_norm=NORM if c["qk_layer_norm"] else None,
    )
    return Stack(depth, Block(attention, MLP(c["d_ff_mult"] * width), NORM), positions=positions)


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = sizes(config)
    table = [
        Row("logits.layer_norm.scale", "out_scale"),
        Row("logits.logits_linear.weight", "heads/head", head),
    ]
    if "patch_method" in c:
        return [
            *table,
            Row("token_embedding.weight", "embed/embedding"),
            Row("local_position_encoding", "embed/positions/position"),
            Row("global_position_encoding", "trunk/backbone/positions/position"),
            *blocks(c, "initial_blocks", "trunk/encoder", c["d_local"]),
            *blocks(c, "global_blocks", "trunk/backbone", c["d_model"]),
            *blocks(c, "final_blocks", "trunk/decoder", c["d_local"]),
        ]
    if "patch_size" in c:
        return [
            *table,
            Row("local_token_embedding.weight", "embed/embedding"),
            Row("local_position_encoding", "embed/positions/position"),
            Row("local_pad", "trunk/unpool/start"),
            Row("global_token_embedding.weight", "trunk/encoder/embed/embedding"),
            Row("global_position_encoding", "trunk/encoder/embed/positions/position"),
            Row("global_pad", "trunk/pool/start"),
            Row("global_to_local.weight", "trunk/unpool/linear/kernel", matrix),
            Row("global_to_local.bias", "trunk/unpool/linear/bias"),
            *blocks(c, "global_blocks", "trunk/backbone", c["d_model"]),
            *blocks(c, "local_blocks", "trunk/decoder", c["d_local"]),
        ]
    return [
        *table,
        Row("token_embedding.weight", "embed/embedding"),
        Row("position_encoding", "embed/positions/position"),
        *blocks(c, "blocks", "trunk", c["d_model"]),
    ]


def blocks(c: Mapping[str, Any], source: str, path: str, width: int) -> list[Row]:
    source, path, rope = f"{source}.{{layer}}", f"{path}/block", c["rope"]
    heads = width // c["d_key"]
    groups = c["attention_groups"] or heads

    def turned(heads: int) -> Callable[[np.ndarray], np.ndarray]:
        return into_rotated_heads(heads) if rope else into_heads(heads)

    def qkv(w: np.ndarray) -> tuple[np.ndarray, ...]:
        q, k, v = np.split(w, 3)
        return turned(heads)(q), turned(heads)(k), into_heads(heads)(v)

    def kv(w: np.ndarray) -> tuple[np.ndarray, ...]:
        k, v = np.split(w, 2)
        return turned(groups)(k), into_heads(groups)(v)

    def gain(scale: np.ndarray) -> np.ndarray:
        """Of one head's entries, in the order of `into_rotated_heads`."""
        return scale.reshape(-1, 2).T.reshape(-1) if rope else scale

    attention, mlp, mixer = f"{source}.attention", f"{source}.feedforward", f"{path}/mixer"
    return [
        Row(f"{attention}.layer_norm.scale", f"{path}/mixer_scale"),
        Row(f"{attention}.QKV_linear.weight", (f"{mixer}/q", f"{mixer}/k", f"{mixer}/v"), qkv),
        Row(f"{attention}.Q_linear.weight", f"{mixer}/q", turned(heads)),
        Row(f"{attention}.KV_linear.weight", (f"{mixer}/k", f"{mixer}/v"), kv),
        Row(f"{attention}.linear.weight", f"{mixer}/o", out_of_heads(heads)),
        Row(f"{attention}.Q_layer_norm.scale", f"{mixer}/q_scale", gain),
        Row(f"{attention}.K_layer_norm.scale", f"{mixer}/k_scale", gain),
        Row(f"{mlp}.layer_norm.scale", f"{path}/mlp_scale"),
        Row(f"{mlp}.linear_1.weight", f"{path}/mlp/up", matrix),
        Row(f"{mlp}.linear_2.weight", f"{path}/mlp/down", matrix),
    ]
