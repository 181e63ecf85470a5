"""MegaByte of lucidrains/MEGABYTE-pytorch, two stages: config keys are the arguments of its
constructor.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.segment import Level, SeenLater
from hlm.nn.attention import Attention
from hlm.nn.basic import LayerNorm, RMSNorm, Rope
from hlm.nn.feed_forward import GELU
from hlm.nn.stack import Stack
from hlm.papers.megabyte import Concat, Lookup, ShiftBlock, StartTokens, Unfold
from hlm.port.keys import (
    DEEPEST,
    Check,
    Key,
    checked,
    divides,
    harmless,
    only,
    several,
    truth,
    whole,
)
from hlm.port.table import Row, head, into_heads, matrix, out_of_heads, shape
from hlm.split import Fixed
from hlm.vocab import utf8

NORM = RMSNorm(eps=1e-16)  # the reference bounds the root, by 1e-8


def per_stage(check: Check) -> Check:
    """One for each of two stages."""
    return several(check, 2, 2)


def dims(name: str, value: Any) -> tuple[int, ...]:
    """A width for both stages, or one for each."""
    check = whole()
    return (check(name, value),) * 2 if isinstance(value, int) else per_stage(check)(name, value)


KEYS = {
    **harmless("attn_dropout ff_dropout flash_attn pad_id"),
    "num_tokens": Key(only(256), 256),
    "pos_emb": Key(only(False), False),
    "rel_pos": Key(truth, False),
    "dim": Key(dims),
    "depth": Key(per_stage(whole(most=DEEPEST))),
    "max_seq_len": Key(per_stage(whole(most=1 << 16))),
    "dim_head": Key(whole(), 64),
    "heads": Key(whole(most=1 << 12), 8),
    "ff_mult": Key(whole(most=64), 4),
}


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = checked(config, KEYS)
    if c["rel_pos"]:
        divides("2", 2, "dim_head, with rel_pos,", c["dim_head"])
    patches, patch = c["max_seq_len"]
    wide, local = c["dim"]
    groups = kv_heads(c, weights)
    codec = utf8(split=Fixed(patch))
    return (
        LM(
            codec=codec,
            embed=Embed(local, size=codec.size),
            trunk=Hierarchy(
                encoder=Lookup(Embed(local, size=codec.size)),
                segmenter=SeenLater(Level(1)),
                pool=Concat(patch, width=wide, norm=LayerNorm(), norm_out=LayerNorm(), null=True),
                backbone=stack(c, groups, 0, wide),
                unpool=Unfold(patch),
                decoder=StartTokens(stack(c, groups, 1, local, patch), starts=patches + 1),
                capacity=patches + 1,
                skip_input=True,
            ),
            heads=Heads(bias=True),
            norm=None,
        ),
        patches * patch + 1,
    )


def stack(
    c: Mapping[str, Any], kv_heads: int, stage: int, width: int, patch: int | None = None
) -> Stack:
    """`patch`: of the local stage, whose elements see their patch and its start."""
    attention = Attention(
        c["heads"],
        head_dim=c["dim_head"],
        kv_heads=kv_heads,
        window=None if patch is None else patch + 1,
        rope=Rope() if c["rel_pos"] else None,
    )
    block = ShiftBlock(attention, GELU(c["ff_mult"] * width), NORM)
    return Stack(c["depth"][stage], block, per_chunk=patch is not None, norm=NORM)


def kv_heads(c: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> int:
    """Keys and values have as many heads as queries, or one in older releases."""
    name = "transformers.0.layers.0.0.to_kv.weight"
    groups = divides(
        "2 * dim_head",
        2 * c["dim_head"],
        f"the length of weight {name}",
        shape(weights, name, 2)[0],
    )
    divides("the number of heads of keys", groups, "heads", c["heads"])
    return groups


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = checked(config, KEYS)
    heads, groups = c["heads"], kv_heads(c, weights)
    return [
        Row("start_tokens.0", "trunk/pool/start"),
        Row("start_tokens.1", "trunk/decoder/start"),
        Row("token_embs.0.weight", "embed/embedding"),
        Row("token_embs.1.0.weight", "trunk/encoder/embed/embedding"),
        Row("token_embs.1.2.weight", "trunk/pool/pool_scale"),
        Row("token_embs.1.2.bias", "trunk/pool/pool_bias"),
        Row("token_embs.1.3.weight", "trunk/pool/linear/kernel", matrix),
        Row("token_embs.1.3.bias", "trunk/pool/linear/bias"),
        Row("token_embs.1.4.weight", "trunk/pool/out_scale"),
        Row("token_embs.1.4.bias", "trunk/pool/out_bias"),
        *blocks(heads, groups, "transformers.0", "trunk/backbone"),
        *blocks(heads, groups, "transformers.1", "trunk/decoder/trunk"),
        Row("to_next_transformer_projections.0.1.weight", "trunk/unpool/linear/kernel", matrix),
        Row("to_next_transformer_projections.0.1.bias", "trunk/unpool/linear/bias"),
        Row("to_logits.weight", "heads/head", head),
        Row("to_logits.bias", "heads/bias", lambda b: b[None]),
    ]


def blocks(heads: int, kv_heads: int, source: str, path: str) -> list[Row]:
    def kv(w: np.ndarray) -> tuple[np.ndarray, ...]:
        k, v = np.split(w, 2)
        return into_heads(kv_heads)(k), into_heads(kv_heads)(v)

    layer, block = f"{source}.layers.{{layer}}", f"{path}/block"
    return [
        Row(f"{layer}.0.norm.g", f"{block}/mixer_scale"),
        Row(f"{layer}.0.to_q.weight", f"{block}/mixer/q", into_heads(heads)),
        Row(f"{layer}.0.to_kv.weight", (f"{block}/mixer/k", f"{block}/mixer/v"), kv),
        Row(f"{layer}.0.to_out.weight", f"{block}/mixer/o", out_of_heads(heads)),
        Row(f"{layer}.1.0.g", f"{block}/mlp_scale"),
        Row(f"{layer}.1.1.weight", f"{block}/mlp/up", matrix),
        Row(f"{layer}.1.1.bias", f"{block}/mlp/up_bias"),
        Row(f"{layer}.1.4.weight", f"{block}/mlp/down", matrix),
        Row(f"{layer}.1.4.bias", f"{block}/mlp/down_bias"),
        Row(f"{source}.norm.g", f"{path}/out_scale"),
    ]
