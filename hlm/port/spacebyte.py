"""Checkpoints of kjslag/spacebyte, config keys as there: SpaceByte (`patch_method`), its MegaByte (`patch_size`), its Transformer.

Local attention reaches `local_attention_window` bytes back, as on a CPU; with flash attention the released code reaches one less.
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
from hlm.port.table import Row, head, into_heads, into_rotated_heads, matrix, out_of_heads, refuse
from hlm.split import Fixed, SpaceLike, Unsplit
from hlm.vocab import utf8_mark

NORM = LayerNorm(bias=False)


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    known: dict[str, Any] = dict(
        vocab_size=256,
        BOS=255,
        tokenizer=None,
        tie_embedding=False,
        nonlinear="ReLU",
        sparse_attention=None,
        layer_norm="LayerNorm",
    )
    if "patch_method" in config or "patch_size" in config:
        known |= dict(position_encoding=True, use_padding=True)
    refuse(config, **known)
    length = config["context_size"]
    if "patch_method" in config:
        return spacebyte(config, length), length
    if "patch_size" in config:
        return megabyte(config, length), length
    positions = Positions(length) if config.get("position_encoding", True) else None
    trunk = stack(config, config["d_model"], config["n_layers"], config.get("attention_window"))
    return LM(utf8_mark(Unsplit()), Embed(config["d_model"], size=256, positions=positions), trunk, norm=NORM), length


def spacebyte(config: Mapping[str, Any], length: int) -> LM:
    chunks, local = config["global_context_size"], config["d_local"]
    before = config["n_initial_layers"]
    window = config["local_attention_window"]
    split = SpaceLike(longest=length) if config["patch_method"] == "utf8" else Fixed(length // chunks)
    return LM(
        codec=utf8_mark(split),
        embed=Embed(local, size=256, positions=Positions(length)),
        trunk=Hierarchy(
            encoder=stack(config, local, before, window),
            segmenter=Level(1),
            pool=Select(config["d_model"], project=False),
            backbone=stack(config, config["d_model"], config["n_layers"], config.get("attention_window"), Positions(chunks)),
            unpool=Scatter(),
            decoder=stack(config, local, config["n_local_layers"] - before, window),
            capacity=chunks,
        ),
        norm=NORM,
    )


def megabyte(config: Mapping[str, Any], length: int) -> LM:
    patch, local = config["patch_size"], config["d_local"]
    block = stack(config, local, config["n_local_layers"], patch - 1)
    return LM(
        codec=utf8_mark(Fixed(patch)),
        embed=Embed(local, size=256, positions=Positions(patch)),
        trunk=Hierarchy(
            encoder=Lookup(Embed(config["d_model"] // patch, size=256, positions=Positions(length, offset=patch - 1))),
            segmenter=Level(1),
            pool=Concat(patch, null=True),
            backbone=stack(config, config["d_model"], config["n_layers"], config.get("attention_window")),
            unpool=Split(patch),
            decoder=dataclasses.replace(block, per_chunk=True),
            capacity=length // patch + 1,
            skip_input=True,
        ),
        norm=NORM,
    )


def stack(config: Mapping[str, Any], width: int, depth: int, window: int | None, positions: Positions | None = None) -> Stack:
    """`window`: elements seen before an element itself."""
    attention = Attention(
        width // config["d_key"],
        kv_heads=config.get("attention_groups"),
        window=None if window is None else window + 1,
        rope=Rope() if config.get("rope", False) else None,
        qk_norm=NORM if config.get("qk_layer_norm", True) else None,
    )
    return Stack(depth, Block(attention, MLP(config.get("d_ff_mult", 4) * width), NORM), positions=positions)


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    table = [Row("logits.layer_norm.scale", "out_scale"), Row("logits.logits_linear.weight", "heads/head", head)]
    if "patch_method" in config:
        return [
            *table,
            Row("token_embedding.weight", "embed/embedding"),
            Row("local_position_encoding", "embed/positions/position"),
            Row("global_position_encoding", "trunk/backbone/positions/position"),
            *blocks(config, "initial_blocks", "trunk/encoder", config["d_local"]),
            *blocks(config, "global_blocks", "trunk/backbone", config["d_model"]),
            *blocks(config, "final_blocks", "trunk/decoder", config["d_local"]),
        ]
    if "patch_size" in config:
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
            *blocks(config, "global_blocks", "trunk/backbone", config["d_model"]),
            *blocks(config, "local_blocks", "trunk/decoder", config["d_local"]),
        ]
    return [
        *table,
        Row("token_embedding.weight", "embed/embedding"),
        Row("position_encoding", "embed/positions/position"),
        *blocks(config, "blocks", "trunk", config["d_model"]),
    ]


def blocks(config: Mapping[str, Any], source: str, path: str, width: int) -> list[Row]:
    source, path, rope = f"{source}.{{layer}}", f"{path}/block", config.get("rope", False)
    heads = width // config["d_key"]
    groups = config.get("attention_groups") or heads

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
