"""AU-Net checkpoints of facebookresearch/lingua (`apps/aunet`): config keys as in its `model` section."""

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
from hlm.port.table import Row, head, into_heads, into_rotated_heads, matrix, out_of_heads
from hlm.split import WordGroups
from hlm.vocab import bytes258

LONGEST = 64  # bytes in a word: the released splitter has no limit


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    dims, depths, head_dims, windows, lengths = (
        config[key] for key in ("dimensions", "layers", "head_dims", "sliding_windows", "max_seqlens")
    )
    norm = RMSNorm(config["block"]["norm_eps"])
    rope = Rope(config["block"]["rope_theta"])
    last = len(dims) - 1

    def stack(i: int) -> Stack:
        prefix = "trunk" if i == last else f"encoders.{i}"
        width = weights[f"{prefix}.layers.0.feed_forward.w1.weight"].shape[0]
        mixer = Attention(dims[i] // head_dims[i], window=windows[i], rope=rope)
        return Stack(depths[i], Block(mixer, SwiGLU(width), norm))

    def trunk(i: int) -> Stack | Hierarchy:
        if i == last:
            return stack(i)
        slots = weights[f"transitions.{i}.indexed_linear.weight"].shape[0]
        return Hierarchy(
            encoder=stack(i),
            segmenter=Level(i + 1),
            pool=Select(dims[i + 1], norm=norm),
            backbone=trunk(i + 1),
            unpool=Offset(slots, norm=norm),
            decoder=stack(i),
            capacity=lengths[i + 1],
        )

    codec = bytes258(split=WordGroups(counts=tuple(2**i for i in range(last)), longest=LONGEST))
    return LM(codec=codec, embed=Embed(dims[0], size=codec.size, std=dims[0] ** -0.5), trunk=trunk(0), norm=norm), lengths[0]


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    last = len(config["dimensions"]) - 1
    table = [
        Row("tok_embeddings.weight", "embed/embedding"),
        Row("vocab_norm.weight", "out_scale"),
        Row("vocab.weight", "heads/head", head),
    ]
    for i, (dim, head_dim) in enumerate(zip(config["dimensions"], config["head_dims"], strict=True)):
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
            Row(f"transitions.{i}.indexed_linear.weight", f"{here}/unpool/slot", lambda w: w.transpose(2, 0, 1)),
        ]
    return table


def block(source: str, path: str, heads: int) -> list[Row]:
    """The Llama block of lingua, rotary positions on neighbouring pairs."""
    source, path = f"{source}.layers.{{layer}}", f"{path}/block"
    return [
        Row(f"{source}.attention.wq.weight", f"{path}/mixer/q", into_rotated_heads(heads)),
        Row(f"{source}.attention.wk.weight", f"{path}/mixer/k", into_rotated_heads(heads)),
        Row(f"{source}.attention.wv.weight", f"{path}/mixer/v", into_heads(heads)),
        Row(f"{source}.attention.wo.weight", f"{path}/mixer/o", out_of_heads(heads)),
        Row(f"{source}.feed_forward.w1.weight", f"{path}/mlp/gate", matrix),
        Row(f"{source}.feed_forward.w3.weight", f"{path}/mlp/up", matrix),
        Row(f"{source}.feed_forward.w2.weight", f"{path}/mlp/down", matrix),
        Row(f"{source}.attention_norm.weight", f"{path}/mixer_scale"),
        Row(f"{source}.ffn_norm.weight", f"{path}/mlp_scale"),
    ]
