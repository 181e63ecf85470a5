"""The flat baselines: Hugging Face Llama, and a twin of it with fused projections."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.parity.common import Subject, subject_of

CASES = ("flat", "nano")


# What transformers 5 writes into a config.json beside the sizes.
WRITTEN = dict(
    architectures=["LlamaForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=1,
    dtype="float32",
    eos_token_id=2,
    hidden_act="silu",
    initializer_range=0.02,
    mlp_bias=False,
    model_type="llama",
    pad_token_id=None,
    pretraining_tp=1,
    rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
    tie_word_embeddings=False,
    transformers_version="5.0.0",
    use_cache=True,
)


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    c = meta["config"]
    config = WRITTEN | dict(
        vocab_size=c.get("vocab", 256),
        hidden_size=c["d"],
        head_dim=c["d"] // c["H"],
        num_hidden_layers=c["L"],
        num_attention_heads=c["H"],
        num_key_value_heads=c["H"],
        intermediate_size=c["ff"],
        max_position_embeddings=arrays["x"].shape[1] - 1,
        rms_norm_eps=1e-5,
    )
    if "sd/emb.weight" not in arrays:
        return subject_of("llama", arrays, config)
    s = subject_of("llama", {f"sd/{k}": a for k, a in plain_names(arrays, "sd/").items()}, config)
    return dataclasses.replace(s, gradients=lambda foreign: s.gradients(plain_names(foreign, "")))


def plain_names(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The twin's weights with Llama's names, fused projections taken apart."""
    names = {
        "emb.weight": "model.embed_tokens.weight",
        "nf.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    fused = {
        "qkv": [f"self_attn.{n}_proj" for n in "qkv"],
        "o": ["self_attn.o_proj"],
        "dn": ["mlp.down_proj"],
    }
    fused |= {
        "gu": ["mlp.gate_proj", "mlp.up_proj"],
        "n1": ["input_layernorm"],
        "n2": ["post_attention_layernorm"],
    }
    out = {}
    for key, array in arrays.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name in names:
            out[names[name]] = array
            continue
        kind, layer, _ = name.split(".")
        for part, piece in zip(fused[kind], np.split(array, len(fused[kind])), strict=True):
            out[f"model.layers.{layer}.{part}.weight"] = piece
    return out
