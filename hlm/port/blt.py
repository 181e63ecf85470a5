"""BLT (Pagnoni et al. 2024): checkpoints of `transformers` (BltForCausalLM) and, under other names,
of facebookresearch/blt.

The config is that of `transformers` (config.json), or for Meta's files one mapping with the keys of
both of their JSON files: "args" of config.json, "entropy_model" and "data" of
entropy_model/params.json. Meta's weights of the entropy model carry the prefix "patcher.".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.unpool import Keep
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm
from hlm.nn.cross import ChunkMemory, CrossAttentionBlock
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.papers.blt import PRIMES, CrossAttentionPool, Entropy, NgramEmbed
from hlm.port import llama_block
from hlm.port.blt_meta import meta_name, unified
from hlm.port.keys import (
    LONGEST,
    Key,
    agree,
    checked,
    harmless,
    maybe,
    only,
    real,
    section,
    several,
    truth,
    whole,
)
from hlm.port.pretrained import FIXED, HARMLESS, heads, llama, rope
from hlm.port.table import Row, head, into_heads, matrix, out_of_heads
from hlm.split import Unsplit
from hlm.vocab import Renumbered

WINDOW = 512  # of the released models; their older configs do not say
LENGTH = 4096
NGRAMS = (3, 4, 5, 6, 7, 8)
RESIDUALS = 2  # both codes add a query to what it reads, and then once more
# of the classes in transformers
THETAS = {"encoder": 500_000.0, "decoder": 500_000.0, "global": 500_000.0, "patcher": 10_000.0}
# a part that does not state its window has that of the whole, or the released one
ABSENT: Any = object()

VOCAB = whole(least=260, most=1 << 16)
PART = llama(norm_eps=1e-5, intermediate_size=None) | {
    "rms_norm_eps": Key(maybe(real(0, 1)), None),
    "norm_eps": Key(maybe(real(0, 1)), None),  # another spelling, in files of the conversion script
    "attn_impl": Key(maybe(only("sdpa", "eager", "xformers", "flex_attention", "fmha")), None),
    "attn_bias_type": Key(maybe(only("causal", "local_block_causal")), None),
    "pm_size": Key(only(None, 0), None),
}
LOCAL = PART | {
    "vocab_size": Key(maybe(VOCAB), None),
    "cross_attn_k": Key(maybe(whole(most=64)), None),
    "hidden_size_global": Key(maybe(whole()), None),
    "sliding_window": Key(maybe(whole()), ABSENT),
}


def part(table: Mapping[str, Key], kind: str) -> Key:
    return Key(section({**table, "model_type": Key(maybe(only(f"blt_{kind}")), None)}))


KEYS = (
    HARMLESS
    | FIXED
    # Each part has positions of its own; the others say how the reference cuts texts, not where.
    | harmless(
        "rope_parameters rope_scaling rope_theta patch_size patching_batch_size "
        "patching_device realtime_patching"
    )
    | {
        "model_type": Key(maybe(only("blt")), None),
        "vocab_size": Key(VOCAB),
        "max_position_embeddings": Key(maybe(whole(2, LONGEST)), None),
        "patch_in_forward": Key(only(True), None),
        "patching_mode": Key(only("entropy"), None),
        "patching_threshold": Key(real(0, 1e3)),
        "patching_threshold_add": Key(only(None, 0.0), None),
        "monotonicity": Key(only(None, False), None),
        "max_patch_length": Key(maybe(whole()), None),
        "local_attention_window_len": Key(maybe(whole()), ABSENT),
        "cross_attn_k": Key(whole(most=64)),
        "encoder_hash_byte_group_size": Key(maybe(several(whole(most=64), least=0)), None),
        "encoder_hash_byte_group_vocab": Key(whole(most=1 << 26), 500_002),
        "encoder_hash_byte_group_nb_functions": Key(whole(most=len(PRIMES)), 1),
        "pm_size": Key(only(None, 0), None),
        "encoder_config": part(
            LOCAL | {"cross_attn_all_layers": Key(maybe(truth), None)}, "local_encoder"
        ),
        "decoder_config": part(
            LOCAL | {"cross_attn_all_layers": Key(maybe(truth), None)}, "local_decoder"
        ),
        "global_config": part(
            PART
            | {
                "encoder_cross_output_size": Key(maybe(whole()), None),
                "sliding_window": Key(only(None), None),
            },
            "global_transformer",
        ),
        "patcher_config": part(
            PART | {"vocab_size": Key(VOCAB), "sliding_window": Key(maybe(whole()), WINDOW)},
            "patcher",
        ),
    }
)


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = checked(unified(config), KEYS)
    fits(c)
    encoder, decoder, above, patcher = (c[f"{name}_config"] for name in THETAS)
    width, slots = encoder["hidden_size"], c["cross_attn_k"]

    def block(name: str, window: int | None) -> Block:
        part, where = c[f"{name}_config"], f"{name}_config."
        n = heads(part, where)
        # These classes compute this width, whatever a config says.
        agree(
            (f"{where}head_dim", n.width),
            ("hidden_size / num_attention_heads", part["hidden_size"] // n.queries),
        )
        agree(
            (f"{where}rms_norm_eps", part["rms_norm_eps"]), (f"{where}norm_eps", part["norm_eps"])
        )
        norm = RMSNorm(
            next((eps for eps in (part["rms_norm_eps"], part["norm_eps"]) if eps is not None), 1e-5)
        )
        mixer = Attention(
            n.queries, kv_heads=n.keys, window=window, rope=rope(part, THETAS[name], where)
        )
        return Block(
            mixer, SwiGLU(part["intermediate_size"] or int(8 * part["hidden_size"] / 3)), norm
        )

    window = windows(c)
    local, writer = block("encoder", window), block("decoder", window)
    small = block("patcher", patcher["sliding_window"])
    codec = Renumbered(Unsplit(), size=c["vocab_size"])
    entropy = LM(
        codec=Renumbered(Unsplit(), size=patcher["vocab_size"]),
        embed=Embed(patcher["hidden_size"], size=patcher["vocab_size"]),
        trunk=Stack(patcher["num_hidden_layers"], small),
        norm=small.norm,
    )
    length = c["max_position_embeddings"] or LENGTH
    trunk = Hierarchy(
        encoder=Stack(encoder["num_hidden_layers"], local),
        segmenter=Entropy(entropy, c["patching_threshold"], c["max_patch_length"]),
        pool=CrossAttentionPool(
            slots,
            encoder["num_attention_heads"],
            width=above["hidden_size"] if projected(weights) else None,
            norm=local.norm,
            residuals=RESIDUALS,
        ),
        backbone=Stack(above["num_hidden_layers"], block("global", None)),
        unpool=Keep(),
        decoder=Stack(
            decoder["num_hidden_layers"],
            CrossAttentionBlock(
                decoder["num_attention_heads"], writer, norm=writer.norm, residuals=RESIDUALS
            ),
        ),
        # any text fits: the released threshold cuts ordinary text into chunks of one or two bytes
        capacity=length,
        guide=ChunkMemory(slots, width),
    )
    embed = NgramEmbed(
        width,
        size=c["vocab_size"],
        ngrams=c["encoder_hash_byte_group_size"] or NGRAMS,
        buckets=c["encoder_hash_byte_group_vocab"],
        functions=c["encoder_hash_byte_group_nb_functions"],
    )
    return LM(codec=codec, embed=embed, trunk=trunk, norm=writer.norm), length


def projected(weights: Mapping[str, np.ndarray]) -> bool:
    return any("token_embedding_projection" in name for name in weights if isinstance(name, str))


def windows(c: Mapping[str, Any]) -> int | None:
    """The window of the encoder, which is the decoder's, too."""
    given = {
        name: value
        for name, value in (
            ("encoder_config.sliding_window", c["encoder_config"]["sliding_window"]),
            ("decoder_config.sliding_window", c["decoder_config"]["sliding_window"]),
            ("local_attention_window_len", c["local_attention_window_len"]),
        )
        if value is not ABSENT
    }
    agree(*((name, "null" if value is None else value) for name, value in given.items()))
    return next(iter(given.values()), WINDOW)


def fits(c: Mapping[str, Any]) -> None:
    """Raise ValueError for parts that do not go together, and for what the codes can do and no
    published model does.
    """
    encoder, decoder, above = c["encoder_config"], c["decoder_config"], c["global_config"]
    if decoder["cross_attn_all_layers"] is False and decoder["num_hidden_layers"] > 1:
        raise ValueError("config: decoder_config.cross_attn_all_layers False (only True)")
    agree(
        ("encoder_config.hidden_size", encoder["hidden_size"]),
        ("decoder_config.hidden_size", decoder["hidden_size"]),
    )
    for name, part in (("encoder_config", encoder), ("decoder_config", decoder)):
        agree(
            (f"{name}.num_key_value_heads", part["num_key_value_heads"]),
            (f"{name}.num_attention_heads", part["num_attention_heads"]),
        )
        agree((f"{name}.cross_attn_k", part["cross_attn_k"]), ("cross_attn_k", c["cross_attn_k"]))
        agree((f"{name}.vocab_size", part["vocab_size"]), ("vocab_size", c["vocab_size"]))
        agree(
            (f"{name}.hidden_size_global", part["hidden_size_global"]),
            ("global_config.hidden_size", above["hidden_size"]),
        )
    pooled = (
        "encoder_config.hidden_size * cross_attn_k",
        encoder["hidden_size"] * c["cross_attn_k"],
    )
    agree(("global_config.encoder_cross_output_size", above["encoder_cross_output_size"]), pooled)


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = checked(unified(config), KEYS)
    encoder, decoder = c["encoder_config"], c["decoder_config"]
    tables = c["encoder_hash_byte_group_nb_functions"] * len(
        c["encoder_hash_byte_group_size"] or NGRAMS
    )
    frozen, last = "trunk/segmenter/frozen", encoder["num_hidden_layers"] - 1
    # then the last layer's result is the only one that is used
    everywhere = bool(encoder["cross_attn_all_layers"])

    def block(source: str, path: str, name: str) -> list[Row]:
        n = heads(c[name], f"{name}.")
        return llama_block.block(source, path, n.queries, n.keys)

    table = [
        Row("model.local_encoder.embed_tokens.weight", "embed/embedding"),
        Row(
            "model.encoder_hash_tok_embedding.weight",
            "embed/ngram_embedding",
            lambda w: w.reshape(tables, -1, w.shape[-1]),
        ),
        *block("model.local_encoder.layers.{layer}", "trunk/encoder/block", "encoder_config"),
        *cross(
            f"model.local_encoder.cross_attn_layers.{last if everywhere else 0}",
            "trunk/pool",
            "pool",
            encoder,
        ),
        Row(
            "model.local_encoder.patch_embedding_projection.weight",
            "trunk/pool/linear/kernel",
            matrix,
        ),
        Row(
            "model.global_transformer.token_embedding_projection.weight",
            "trunk/pool/project/kernel",
            matrix,
        ),
        *block("model.global_transformer.layers.{layer}", "trunk/backbone/block", "global_config"),
        Row(
            "model.local_decoder.patch_embedding_projection.weight",
            "trunk/guide/linear/kernel",
            matrix,
        ),
        *cross(
            "model.local_decoder.cross_attn_layers.{layer}", "trunk/decoder/block", "slot", decoder
        ),
        *block("model.local_decoder.layers.{layer}", "trunk/decoder/block/block", "decoder_config"),
        Row("model.local_decoder.norm.weight", "out_scale"),
        Row("lm_head.weight", "heads/head", head),
        Row("model.patcher.embed_tokens.weight", f"{frozen}/embed/embedding"),
        *block("model.patcher.layers.{layer}", f"{frozen}/trunk/block", "patcher_config"),
        Row("model.patcher.norm.weight", f"{frozen}/out_scale"),
        Row("model.patcher.lm_head.weight", f"{frozen}/heads/head", head),
    ]
    if everywhere:
        table += [
            dataclasses.replace(row, path=None)
            for row in cross("model.local_encoder.cross_attn_layers.{layer}", "", "", encoder)
        ]
    if "args" in config:
        table = [dataclasses.replace(row, source=meta_name(row.source)) for row in table]
        table.append(Row("encoder_hash_tok_embedding.{layer}.weight", "embed/ngram_embedding"))
    return table


def cross(source: str, path: str, read: str, part: Mapping[str, Any]) -> list[Row]:
    """Attention between bytes and chunks, without positions; `read`: our name for what is read."""
    heads = part["num_attention_heads"]
    return [
        Row(f"{source}.q_proj.weight", f"{path}/q", into_heads(heads)),
        Row(f"{source}.k_proj.weight", f"{path}/k", into_heads(heads)),
        Row(f"{source}.v_proj.weight", f"{path}/v", into_heads(heads)),
        Row(f"{source}.o_proj.weight", f"{path}/o", out_of_heads(heads)),
        Row(f"{source}.q_norm.weight", f"{path}/query_scale"),
        Row(f"{source}.k_norm.weight", f"{path}/{read}_scale"),
    ]
