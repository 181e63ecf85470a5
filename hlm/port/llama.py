"""Llama over bytes, names and config keys of Hugging Face `LlamaForCausalLM`: the baseline without
hierarchy.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.lm import LM
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.port.keys import Key, checked, maybe, only, several
from hlm.port.llama_block import block
from hlm.port.pretrained import heads, llama, rope
from hlm.port.table import Row, head, into_heads
from hlm.split import Unsplit
from hlm.vocab import utf8

THETA = 10_000.0
LENGTH = 2048  # of the class in transformers, where a config does not say
KEYS = llama(norm_eps=1e-6, model_type=("llama",)) | {
    "vocab_size": Key(only(256), 256),
    "architectures": Key(maybe(several(only("LlamaForCausalLM"))), None),
    "auto_map": Key(only(None, {}), None),  # code of the checkpoint's own
    "sliding_window": Key(only(None), None),
}


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = checked(config, KEYS)
    norm, n = RMSNorm(c["rms_norm_eps"]), heads(c)
    attention = Attention(n.queries, head_dim=n.width, kv_heads=n.keys, rope=rope(c, THETA))
    codec = utf8(split=Unsplit())
    embed = Embed(c["hidden_size"], size=codec.size)
    trunk = Stack(c["num_hidden_layers"], Block(attention, SwiGLU(c["intermediate_size"]), norm))
    return LM(codec=codec, embed=embed, trunk=trunk, norm=norm), c[
        "max_position_embeddings"
    ] or LENGTH


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    n = heads(checked(config, KEYS))
    return [
        Row("model.embed_tokens.weight", "embed/embedding"),
        *block("model.layers.{layer}", "trunk/block", n.queries, n.keys, turned=into_heads),
        Row("model.norm.weight", "out_scale"),
        Row("lm_head.weight", "heads/head", head),
    ]
