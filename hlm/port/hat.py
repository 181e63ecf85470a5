"""TFree-HAT checkpoints of Aleph Alpha (HATForCausalLM): config keys as in their config.json.

Two things of the released code stay out. Its decoder knows that a word has begun from the word's
first byte on, and so is told a little of a first character of several bytes before it is read; here
the word's guidance begins with the last byte of that character. And its texts may begin without any
mark; here every one begins with `<|begin_of_text|>`, or where there is none with `<|eot_id|>`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.unpool import Keep
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.papers.tfree_hat import LatentQuery, LateWords, NewestChunk, SingleKeyCrossAttention
from hlm.port import llama_block
from hlm.port.keys import (
    LONGEST,
    Key,
    agree,
    anything,
    checked,
    harmless,
    maybe,
    named,
    only,
    section,
    truth,
    whole,
)
from hlm.port.pretrained import FIXED, HARMLESS, SCALING, Heads, heads, llama, rope
from hlm.port.table import Row, head, into_heads, into_rotated_heads, out_of_heads
from hlm.split import HatSplitter
from hlm.vocab import Renumbered

# bytes in a row; the released models read longer texts, and rows of any length can be asked for
LENGTH = 16384
THETA = 10_000.0
EOT = 192
ABSENT: Any = object()  # a part that does not state its window has that of the whole

# the released code reads it there, too
SCALED = Key(maybe(section(SCALING | {"is_neox_style": Key(maybe(truth), None)})), None)
NORM = {
    "key_query_norm": Key(only(False), None),
    "key_query_norm_per_head": Key(maybe(truth), None),
}
PART = llama() | {
    **NORM,
    "sliding_window": Key(maybe(whole()), ABSENT),
    "is_neox_style": Key(maybe(truth), None),
    "rope_scaling": SCALED,
    "rope_parameters": SCALED,
    "vocab_size": Key(maybe(whole(least=0)), None),
}
CROSS = Key(
    section(
        {
            **NORM,
            "hidden_size": Key(whole()),
            "hidden_size_q": Key(maybe(whole()), None),
            "hidden_size_kv": Key(maybe(whole()), None),
            "num_attention_heads": Key(whole()),
            "attention_num_kv_heads": Key(maybe(whole()), None),
            "head_dim": Key(maybe(whole()), None),
            "attention_bias": Key(only(False), None),
            "mlp_bias": Key(only(False), None),
            "word_window_size": Key(anything, None),  # stored and never asked in the released code
        }
    )
)
KEYS = (
    HARMLESS
    | FIXED
    | harmless("auto_map")  # the released code, which this is a copy of
    | {
        "model_type": Key(maybe(only("hierarchical_autoregressive_transformer")), None),
        "encoder_config": Key(section(PART | {"cross_attention_config": CROSS})),
        "backbone_config": Key(section(PART)),
        "decoder_config": Key(
            section(
                PART
                | {
                    "cross_attention_config": CROSS,
                    "cross_attn_every_layer": Key(truth, True),
                    "vocab_size": Key(whole(least=256)),
                }
            )
        ),
        "special_token_dict": Key(maybe(named(whole(least=0, most=255))), None),
        "eos_token_id": Key(maybe(whole(least=0, most=255)), None),
        "max_word_size": Key(whole(), 100),
        "sliding_window": Key(maybe(whole()), None),
        "max_position_embeddings": Key(maybe(whole(2, LONGEST)), None),
    }
)


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = checked(config, KEYS)
    encoder, backbone, decoder = parts(c)
    fits(c)
    special = c["special_token_dict"] or {}
    end = special.get("<|eot_id|>", EOT) if c["eos_token_id"] is None else c["eos_token_id"]
    length = min(c["max_position_embeddings"] or LENGTH, LENGTH)

    def block(name: str, window: int | None) -> Block:
        part, n = c[name], heads(c[name], f"{name}.")
        mixer = Attention(
            n.queries,
            head_dim=n.width,
            kv_heads=n.keys,
            window=window,
            rope=rope(part, THETA, f"{name}."),
        )
        return Block(mixer, SwiGLU(part["intermediate_size"]), RMSNorm(part["rms_norm_eps"]))

    def window(part: Mapping[str, Any], absent: int | None) -> int | None:
        return absent if part["sliding_window"] is ABSENT else part["sliding_window"]

    reads, writes = (cross_heads(part["cross_attention_config"]) for part in (encoder, decoder))
    trunk = Hierarchy(
        encoder=Stack(
            encoder["num_hidden_layers"],
            block("encoder_config", window(encoder, c["sliding_window"])),
        ),
        segmenter=LateWords(),
        pool=LatentQuery(
            backbone["hidden_size"],
            reads.queries,
            reads.width,
            kv_heads=reads.keys,
            rope=rope(encoder, THETA, "encoder_config."),
        ),
        backbone=Stack(
            backbone["num_hidden_layers"], block("backbone_config", window(backbone, None))
        ),
        unpool=Keep(),
        decoder=Stack(
            decoder["num_hidden_layers"],
            SingleKeyCrossAttention(
                writes.queries,
                writes.width,
                block("decoder_config", window(decoder, c["sliding_window"])),
                RMSNorm(decoder["rms_norm_eps"]),
                kv_heads=writes.keys,
            ),
        ),
        capacity=length // 2,
        guide=NewestChunk(),
    )
    size = decoder["vocab_size"]
    begin = special.get("<|begin_of_text|>", end)
    codec = Renumbered(HatSplitter(c["max_word_size"]), size=size, first=0, begin=begin, end=end)
    embed = Embed(encoder["hidden_size"], size=size, std=encoder["hidden_size"] ** -0.5)
    return LM(codec=codec, embed=embed, trunk=trunk, norm=RMSNorm(decoder["rms_norm_eps"])), length


def parts(c: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Encoder, backbone and decoder."""
    return [c[f"{part}_config"] for part in ("encoder", "backbone", "decoder")]


def cross_heads(c: Mapping[str, Any]) -> Heads:
    """The heads of a cross_attention_config, whose keys have names of their own."""
    return heads(
        {**c, "num_key_value_heads": c["attention_num_kv_heads"]}, "cross_attention_config."
    )


def fits(c: Mapping[str, Any]) -> None:
    """Raise ValueError for parts that do not go together."""
    encoder, backbone, decoder = parts(c)
    if not decoder["cross_attn_every_layer"] and decoder["num_hidden_layers"] > 1:
        raise ValueError("config: decoder_config.cross_attn_every_layer False (only True)")
    reads, writes = encoder["cross_attention_config"], decoder["cross_attention_config"]
    inner, outer = "encoder_config.cross_attention_config", "decoder_config.cross_attention_config"
    width = encoder["hidden_size"]
    agree(
        ("decoder_config.hidden_size", decoder["hidden_size"]),
        ("encoder_config.hidden_size", width),
    )
    agree(
        (f"{inner}.hidden_size_q", reads["hidden_size_q"]),
        ("backbone_config.hidden_size", backbone["hidden_size"]),
    )
    agree(
        (f"{inner}.hidden_size_kv", reads["hidden_size_kv"]), ("encoder_config.hidden_size", width)
    )
    agree(
        (f"{outer}.hidden_size_q", writes["hidden_size_q"]), ("decoder_config.hidden_size", width)
    )
    agree(
        (f"{outer}.hidden_size_kv", writes["hidden_size_kv"]),
        ("backbone_config.hidden_size", backbone["hidden_size"]),
    )
    agree(
        ("encoder_config.head_dim", heads(encoder).width),
        (f"{inner}.head_dim", cross_heads(reads).width),
    )
    agree(
        ("encoder_config.vocab_size", encoder["vocab_size"] or None),
        ("decoder_config.vocab_size", decoder["vocab_size"]),
    )


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = checked(config, KEYS)
    reads, writes = (
        cross_heads(c[f"{part}_config"]["cross_attention_config"])
        for part in ("encoder", "decoder")
    )
    query, cross = (
        "encoder_connector.cross_attention_encoder_connector",
        "decoder.decoder_layers.{layer}",
    )
    turned = rotated(c, "encoder_config")

    def block(source: str, path: str, name: str) -> list[Row]:
        n = heads(c[name], f"{name}.")
        return llama_block.block(source, path, n.queries, n.keys, turned=rotated(c, name))

    return [
        Row("encoder.embedding_layer.weight", "embed/embedding"),
        *block("encoder.layers.{layer}", "trunk/encoder/block", "encoder_config"),
        Row("encoder_connector.latent_query", "trunk/pool/query", lambda w: w.reshape(1, -1)),
        Row(f"{query}.q_proj.weight", "trunk/pool/q", turned(reads.queries)),
        Row(f"{query}.k_proj.weight", "trunk/pool/k", turned(reads.keys)),
        Row(f"{query}.v_proj.weight", "trunk/pool/v", into_heads(reads.keys)),
        Row(f"{query}.o_proj.weight", "trunk/pool/o", out_of_heads(reads.queries)),
        *block("backbone.layers.{layer}", "trunk/backbone/block", "backbone_config"),
        Row("decoder_connector.first_word_embedding", "trunk/guide/start", lambda w: w.reshape(-1)),
        Row(f"{cross}.kv_norm.weight", "trunk/decoder/block/slot_scale"),
        Row(
            f"{cross}.cross_attention.v_proj.weight",
            "trunk/decoder/block/v",
            into_heads(writes.keys),
        ),
        Row(
            f"{cross}.cross_attention.o_proj.weight",
            "trunk/decoder/block/o",
            out_of_heads(writes.queries),
        ),
        # Attention to a single key asks nothing.
        Row(f"{cross}.query_norm.weight", None),
        Row(f"{cross}.cross_attention.q_proj.weight", None),
        Row(f"{cross}.cross_attention.k_proj.weight", None),
        *block(f"{cross}.llama_layer", "trunk/decoder/block/block", "decoder_config"),
        Row("layer_norm.weight", "out_scale"),
        Row("lm_head.weight", "heads/head", head),
    ]


def rotated(c: Mapping[str, Any], name: str) -> llama_block.Turned:
    """The conversion of queries and keys: rotary positions on halves of a head, or on neighbouring
    pairs.
    """
    said = [(f"{name}.is_neox_style", c[name]["is_neox_style"])]
    for key in ("rope_scaling", "rope_parameters"):
        said.append((f"{name}.{key}.is_neox_style", (c[name][key] or {}).get("is_neox_style")))
    agree(*said)
    return into_rotated_heads if False in (value for _, value in said) else into_heads
