"""Llama over bytes, names and config keys of Hugging Face `LlamaForCausalLM`: the baseline without hierarchy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.lm import LM
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm, Rope
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.port.table import Row, head, into_heads, matrix, out_of_heads, refuse
from hlm.split import Unsplit
from hlm.vocab import utf8


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    refuse(
        config,
        vocab_size=256,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        hidden_act="silu",
        rope_scaling=None,
    )
    norm = RMSNorm(config.get("rms_norm_eps", 1e-6))
    heads = config["num_attention_heads"]
    attention = Attention(
        heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        rope=Rope(config.get("rope_theta", 10000.0)),
    )
    block = Block(attention, SwiGLU(config["intermediate_size"]), norm)
    codec = utf8(split=Unsplit())
    embed = Embed(config["hidden_size"], size=codec.size)
    trunk = Stack(config["num_hidden_layers"], block)
    return LM(codec=codec, embed=embed, trunk=trunk, norm=norm), config.get("max_position_embeddings", 2048)


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    source, path = "model.layers.{layer}", "trunk/block"
    return [
        Row("model.embed_tokens.weight", "embed/embedding"),
        Row(f"{source}.self_attn.q_proj.weight", f"{path}/mixer/q", into_heads(heads)),
        Row(f"{source}.self_attn.k_proj.weight", f"{path}/mixer/k", into_heads(kv_heads)),
        Row(f"{source}.self_attn.v_proj.weight", f"{path}/mixer/v", into_heads(kv_heads)),
        Row(f"{source}.self_attn.o_proj.weight", f"{path}/mixer/o", out_of_heads(heads)),
        Row(f"{source}.mlp.gate_proj.weight", f"{path}/mlp/gate", matrix),
        Row(f"{source}.mlp.up_proj.weight", f"{path}/mlp/up", matrix),
        Row(f"{source}.mlp.down_proj.weight", f"{path}/mlp/down", matrix),
        Row(f"{source}.input_layernorm.weight", f"{path}/mixer_scale"),
        Row(f"{source}.post_attention_layernorm.weight", f"{path}/mlp_scale"),
        Row("model.norm.weight", "out_scale"),
        Row("lm_head.weight", "heads/head", head),
    ]
