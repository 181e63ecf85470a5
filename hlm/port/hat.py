"""TFree-HAT checkpoints of Aleph Alpha (HATForCausalLM): config keys as in their config.json.

Two things of the released code stay out. Its decoder knows that a word has begun from the word's first byte on, and so is told a
little of a first character of several bytes before it is read; here the word's guidance begins with the last byte of that character.
And its texts may begin without any mark; here every one begins with `<|begin_of_text|>`, or where there is none with `<|eot_id|>`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.unpool import Keep
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm, Rope
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.rope import Llama3Rope
from hlm.nn.stack import Block, Stack
from hlm.papers.tfree_hat import LatentQuery, LateWords, NewestChunk, SingleKeyCrossAttention
from hlm.port.table import Row, head, into_heads, into_rotated_heads, matrix, out_of_heads
from hlm.split import HatSplitter
from hlm.vocab import Renumbered

LENGTH = 16384  # bytes in a row; the released models read longer texts, and rows of any length can be asked for
EOT = 192


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    encoder, backbone, decoder = (config[f"{part}_config"] for part in ("encoder", "backbone", "decoder"))
    refuse(config)
    special = config.get("special_token_dict") or {}
    end = config.get("eos_token_id") or special.get("<|eot_id|>", EOT)
    length = min(config.get("max_position_embeddings") or LENGTH, LENGTH)

    def block(part: Mapping[str, Any], window: int | None) -> Block:
        mixer = Attention(
            part["num_attention_heads"],
            head_dim=head_dim(part),
            kv_heads=part.get("num_key_value_heads"),
            window=window,
            rope=rope(part),
        )
        return Block(mixer, SwiGLU(part["intermediate_size"]), RMSNorm(part["rms_norm_eps"]))

    def window(part: Mapping[str, Any]) -> int | None:
        return part.get("sliding_window", config.get("sliding_window"))

    reads, writes = encoder["cross_attention_config"], decoder["cross_attention_config"]
    trunk = Hierarchy(
        encoder=Stack(encoder["num_hidden_layers"], block(encoder, window(encoder))),
        segmenter=LateWords(),
        pool=LatentQuery(
            backbone["hidden_size"],
            reads["num_attention_heads"],
            head_dim(reads),
            kv_heads=reads.get("attention_num_kv_heads"),
            rope=rope(encoder),
        ),
        backbone=Stack(backbone["num_hidden_layers"], block(backbone, backbone.get("sliding_window"))),
        unpool=Keep(),
        decoder=Stack(
            decoder["num_hidden_layers"],
            SingleKeyCrossAttention(
                writes["num_attention_heads"],
                head_dim(writes),
                block(decoder, window(decoder)),
                RMSNorm(decoder["rms_norm_eps"]),
                kv_heads=writes.get("attention_num_kv_heads"),
            ),
        ),
        capacity=length // 2,
        guide=NewestChunk(),
    )
    size = decoder["vocab_size"]
    codec = Renumbered(
        HatSplitter(config.get("max_word_size", 100)), size=size, first=0, begin=special.get("<|begin_of_text|>", end), end=end
    )
    embed = Embed(encoder["hidden_size"], size=size, std=encoder["hidden_size"] ** -0.5)
    return LM(codec=codec, embed=embed, trunk=trunk, norm=RMSNorm(decoder["rms_norm_eps"])), length


def head_dim(part: Mapping[str, Any]) -> int:
    return part.get("head_dim") or part["hidden_size"] // part["num_attention_heads"]


def rope(part: Mapping[str, Any]) -> Rope:
    scaling, theta = part.get("rope_scaling") or {}, part.get("rope_theta", 10_000.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind == "llama3":
        return Llama3Rope(
            theta,
            factor=scaling["factor"],
            low=scaling["low_freq_factor"],
            high=scaling["high_freq_factor"],
            length=scaling["original_max_position_embeddings"],
        )
    raise ValueError(f"config: rope_scaling of type {kind!r} cannot be imported, only default and llama3")


def refuse(config: Mapping[str, Any]) -> None:
    encoder, backbone, decoder = (config[f"{part}_config"] for part in ("encoder", "backbone", "decoder"))
    parts = [encoder, backbone, decoder, encoder["cross_attention_config"], decoder["cross_attention_config"]]
    for key, wanted, ok in (
        ("key_query_norm", "false", not any(part.get("key_query_norm") for part in parts)),
        ("mlp_bias, attention_bias", "false", not any(part.get(b) for part in parts for b in ("mlp_bias", "attention_bias"))),
        ("cross_attn_every_layer", "true", decoder.get("cross_attn_every_layer", True) or decoder["num_hidden_layers"] == 1),
        ("decoder_config.hidden_size", "that of the encoder", decoder["hidden_size"] == encoder["hidden_size"]),
        ("encoder_config.head_dim", "that of its cross_attention_config", head_dim(encoder) == head_dim(parts[3])),
    ):
        if not ok:
            raise ValueError(f"config: {key} must be {wanted} to be imported")


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    encoder, backbone, decoder = (config[f"{part}_config"] for part in ("encoder", "backbone", "decoder"))
    reads, writes = encoder["cross_attention_config"], decoder["cross_attention_config"]
    query, cross = "encoder_connector.cross_attention_encoder_connector", "decoder.decoder_layers.{layer}"
    turned = rotated(encoder)
    kv_reads, kv_writes = (c.get("attention_num_kv_heads") or c["num_attention_heads"] for c in (reads, writes))
    return [
        Row("encoder.embedding_layer.weight", "embed/embedding"),
        *block("encoder.layers.{layer}", "trunk/encoder/block", encoder),
        Row("encoder_connector.latent_query", "trunk/pool/query", lambda w: w.reshape(1, -1)),
        Row(f"{query}.q_proj.weight", "trunk/pool/q", turned(reads["num_attention_heads"])),
        Row(f"{query}.k_proj.weight", "trunk/pool/k", turned(kv_reads)),
        Row(f"{query}.v_proj.weight", "trunk/pool/v", into_heads(kv_reads)),
        Row(f"{query}.o_proj.weight", "trunk/pool/o", out_of_heads(reads["num_attention_heads"])),
        *block("backbone.layers.{layer}", "trunk/backbone/block", backbone),
        Row("decoder_connector.first_word_embedding", "trunk/guide/start", lambda w: w.reshape(-1)),
        Row(f"{cross}.kv_norm.weight", "trunk/decoder/block/slot_scale"),
        Row(f"{cross}.cross_attention.v_proj.weight", "trunk/decoder/block/v", into_heads(kv_writes)),
        Row(f"{cross}.cross_attention.o_proj.weight", "trunk/decoder/block/o", out_of_heads(writes["num_attention_heads"])),
        # Attention to a single key asks nothing.
        Row(f"{cross}.query_norm.weight", None),
        Row(f"{cross}.cross_attention.q_proj.weight", None),
        Row(f"{cross}.cross_attention.k_proj.weight", None),
        *block(f"{cross}.llama_layer", "trunk/decoder/block/block", decoder),
        Row("layer_norm.weight", "out_scale"),
        Row("lm_head.weight", "heads/head", head),
    ]


def rotated(part: Mapping[str, Any]) -> Any:
    """The conversion of queries and keys: rotary positions on halves of a head, or on neighbouring pairs."""
    return into_heads if part.get("is_neox_style", True) else into_rotated_heads


def block(source: str, path: str, part: Mapping[str, Any]) -> list[Row]:
    heads = part["num_attention_heads"]
    kv_heads = part.get("num_key_value_heads") or heads
    return [
        Row(f"{source}.self_attn.q_proj.weight", f"{path}/mixer/q", rotated(part)(heads)),
        Row(f"{source}.self_attn.k_proj.weight", f"{path}/mixer/k", rotated(part)(kv_heads)),
        Row(f"{source}.self_attn.v_proj.weight", f"{path}/mixer/v", into_heads(kv_heads)),
        Row(f"{source}.self_attn.o_proj.weight", f"{path}/mixer/o", out_of_heads(heads)),
        Row(f"{source}.mlp.gate_proj.weight", f"{path}/mlp/gate", matrix),
        Row(f"{source}.mlp.up_proj.weight", f"{path}/mlp/up", matrix),
        Row(f"{source}.mlp.down_proj.weight", f"{path}/mlp/down", matrix),
        Row(f"{source}.input_layernorm.weight", f"{path}/mixer_scale"),
        Row(f"{source}.post_attention_layernorm.weight", f"{path}/mlp_scale"),
    ]
