"""BLT (Pagnoni et al. 2024): checkpoints of `transformers` (BltForCausalLM) and, under other names, of facebookresearch/blt.

The config is that of `transformers` (config.json), or for Meta's files one mapping with the keys of both of their JSON files: "args"
of config.json, "entropy_model" and "data" of entropy_model/params.json. Meta's weights of the entropy model carry the prefix "patcher.".
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
from hlm.nn.basic import RMSNorm, Rope
from hlm.nn.cross import CrossAttentionBlock
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.papers.blt import ChunkMemory, CrossAttentionPool, Entropy, NgramEmbed
from hlm.port.table import Row, head, into_heads, into_rotated_heads, matrix, out_of_heads
from hlm.split import Unsplit
from hlm.vocab import Renumbered

THETA = 500_000.0
WINDOW = 512  # of the released models; their older configs do not say
RESIDUALS = 2  # both codes add a query to what it reads, and then once more


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = unified(config)
    encoder, decoder, above, patcher = (c[f"{part}_config"] for part in ("encoder", "decoder", "global", "patcher"))
    width, slots = encoder["hidden_size"], c["cross_attn_k"]
    refuse(c)

    def block(part: Mapping[str, Any], window: int | None, theta: float = THETA) -> Block:
        heads, norm = part["num_attention_heads"], RMSNorm(part.get("rms_norm_eps") or 1e-5)
        rope = Rope(float((part.get("rope_parameters") or part).get("rope_theta", theta)))
        mixer = Attention(heads, kv_heads=part.get("num_key_value_heads"), window=window, rope=rope)
        return Block(mixer, SwiGLU(part.get("intermediate_size") or int(8 * part["hidden_size"] / 3)), norm)

    window = encoder.get("sliding_window", c.get("local_attention_window_len", WINDOW))  # of the encoder and the decoder
    local, writer = block(encoder, window), block(decoder, window)
    small = block(patcher, patcher.get("sliding_window", WINDOW), theta=10_000.0)
    codec = Renumbered(Unsplit(), size=c["vocab_size"])
    entropy = LM(
        codec=Renumbered(Unsplit(), size=patcher["vocab_size"]),
        embed=Embed(patcher["hidden_size"], size=patcher["vocab_size"]),
        trunk=Stack(patcher["num_hidden_layers"], small),
        norm=small.norm,
    )
    length = c.get("max_position_embeddings") or 4096
    trunk = Hierarchy(
        encoder=Stack(encoder["num_hidden_layers"], local),
        segmenter=Entropy(entropy, c["patching_threshold"], c.get("max_patch_length")),
        pool=CrossAttentionPool(
            slots,
            encoder["num_attention_heads"],
            width=above["hidden_size"] if projected(weights) else None,
            norm=local.norm,
            residuals=RESIDUALS,
        ),
        backbone=Stack(above["num_hidden_layers"], block(above, None)),
        unpool=Keep(),
        decoder=Stack(
            decoder["num_hidden_layers"],
            CrossAttentionBlock(decoder["num_attention_heads"], writer, norm=writer.norm, residuals=RESIDUALS),
        ),
        capacity=length,  # any text fits: the released threshold cuts ordinary text into chunks of one or two bytes
        guide=ChunkMemory(slots, width),
    )
    embed = NgramEmbed(
        width,
        size=c["vocab_size"],
        ngrams=tuple(c.get("encoder_hash_byte_group_size") or (3, 4, 5, 6, 7, 8)),
        buckets=c.get("encoder_hash_byte_group_vocab", 500_002),
        functions=c.get("encoder_hash_byte_group_nb_functions", 1),
    )
    return LM(codec=codec, embed=embed, trunk=trunk, norm=writer.norm), length


def projected(weights: Mapping[str, np.ndarray]) -> bool:
    return any("token_embedding_projection" in name for name in weights)


def refuse(c: Mapping[str, Any]) -> None:
    """What the codes can do and no published model does."""
    encoder, decoder = c["encoder_config"], c["decoder_config"]
    same = encoder["hidden_size"] == decoder["hidden_size"]
    heads = all(part.get("num_key_value_heads") in (None, part["num_attention_heads"]) for part in (encoder, decoder))
    for key, wanted, ok in (
        ("patching_mode", "'entropy'", c.get("patching_mode", "entropy") == "entropy"),
        ("patch_in_forward", "true", c.get("patch_in_forward", True)),
        ("monotonicity", "false", not c.get("monotonicity", False)),
        (
            "decoder_config.cross_attn_all_layers",
            "true",
            decoder.get("cross_attn_all_layers", True) or decoder["num_hidden_layers"] == 1,
        ),
        ("decoder_config.hidden_size", "encoder_config.hidden_size", same),
        ("num_key_value_heads", "num_attention_heads in the encoder and the decoder", heads),
    ):
        if not ok:
            raise ValueError(f"config: {key} must be {wanted} to be imported")


def unified(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of `transformers`; Meta's in its words."""
    if "args" not in config:
        return config
    args, entropy, patcher = config["args"], config["entropy_model"], config["data"]["patcher_args"]

    def part(of: Mapping[str, Any], suffix: str) -> dict[str, Any]:
        dim, multiple = int(of[f"dim{suffix}"]), of.get("multiple_of") or 256
        return {
            "hidden_size": dim,
            "num_attention_heads": of[f"n_heads{suffix}"],
            "num_key_value_heads": of.get("n_kv_heads_global" if suffix == "_global" else "n_kv_heads"),
            "num_hidden_layers": of[f"n_layers{suffix}"],
            "rms_norm_eps": of.get("norm_eps", 1e-5),
            "rope_theta": of.get("rope_theta", 10_000.0),
            "intermediate_size": -(-int(8 * dim / 3) // multiple) * multiple,
        }

    return {
        "vocab_size": args["vocab_size"],
        "max_position_embeddings": args.get("max_encoder_seq_length") or args.get("max_seqlen"),
        "patching_mode": patcher.get("patching_mode", "entropy"),
        "patching_threshold": patcher["threshold"],
        "max_patch_length": patcher.get("max_patch_length"),
        "monotonicity": patcher.get("monotonicity", False),
        "cross_attn_k": args["cross_attn_k"],
        "encoder_hash_byte_group_size": args.get("encoder_hash_byte_group_size"),
        "encoder_hash_byte_group_vocab": args["encoder_hash_byte_group_vocab"],
        "encoder_hash_byte_group_nb_functions": args.get("encoder_hash_byte_group_nb_functions", 1),
        "local_attention_window_len": args.get("local_attention_window_len", WINDOW),
        "encoder_config": part(args, "_local_encoder"),
        "decoder_config": part(args, "_local_decoder")
        | {"cross_attn_all_layers": args.get("cross_attn_all_layers_decoder", False)},
        "global_config": part(args, "_global"),
        "patcher_config": part(entropy, "")
        | {"vocab_size": entropy["vocab_size"], "sliding_window": entropy.get("sliding_window", WINDOW)},
    }


# Meta's words for those of `transformers`; the rest of a name is the same.
META = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings",
    "q_norm": "cross_attn_norm_q",
    "k_norm": "cross_attn_norm_kv",
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "patcher.lm_head": "patcher.output",
    "lm_head": "local_decoder.output",
}


def meta_name(name: str) -> str:
    name = name.removeprefix("model.")
    for theirs, metas in META.items():
        if theirs in name:
            return name.replace(theirs, metas)
    return name


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = unified(config)
    encoder, decoder, above, patcher = (c[f"{part}_config"] for part in ("encoder", "decoder", "global", "patcher"))
    tables = c.get("encoder_hash_byte_group_nb_functions", 1) * len(c.get("encoder_hash_byte_group_size") or range(3, 9))
    frozen, last = "trunk/segmenter/frozen", encoder["num_hidden_layers"] - 1
    everywhere = bool(encoder.get("cross_attn_all_layers"))  # then the last layer's result is the only one that is used
    table = [
        Row("model.local_encoder.embed_tokens.weight", "embed/embedding"),
        Row("model.encoder_hash_tok_embedding.weight", "embed/ngram_embedding", lambda w: w.reshape(tables, -1, w.shape[-1])),
        *block("model.local_encoder.layers.{layer}", "trunk/encoder/block", encoder),
        *cross(f"model.local_encoder.cross_attn_layers.{last if everywhere else 0}", "trunk/pool", "pool", encoder),
        Row("model.local_encoder.patch_embedding_projection.weight", "trunk/pool/linear/kernel", matrix),
        Row("model.global_transformer.token_embedding_projection.weight", "trunk/pool/project/kernel", matrix),
        *block("model.global_transformer.layers.{layer}", "trunk/backbone/block", above),
        Row("model.local_decoder.patch_embedding_projection.weight", "trunk/guide/linear/kernel", matrix),
        *cross("model.local_decoder.cross_attn_layers.{layer}", "trunk/decoder/block", "slot", decoder),
        *block("model.local_decoder.layers.{layer}", "trunk/decoder/block/block", decoder),
        Row("model.local_decoder.norm.weight", "out_scale"),
        Row("lm_head.weight", "heads/head", head),
        Row("model.patcher.embed_tokens.weight", f"{frozen}/embed/embedding"),
        *block("model.patcher.layers.{layer}", f"{frozen}/trunk/block", patcher),
        Row("model.patcher.norm.weight", f"{frozen}/out_scale"),
        Row("model.patcher.lm_head.weight", f"{frozen}/heads/head", head),
    ]
    if everywhere:
        table += [
            dataclasses.replace(row, path=None) for row in cross("model.local_encoder.cross_attn_layers.{layer}", "", "", encoder)
        ]
    if "args" in config:
        table = [dataclasses.replace(row, source=meta_name(row.source)) for row in table]
        table.append(Row("encoder_hash_tok_embedding.{layer}.weight", "embed/ngram_embedding"))
    return table


def block(source: str, path: str, part: Mapping[str, Any]) -> list[Row]:
    """Attention and feed-forward; rotary positions on neighbouring pairs."""
    heads = part["num_attention_heads"]
    kv_heads = part.get("num_key_value_heads") or heads
    return [
        Row(f"{source}.self_attn.q_proj.weight", f"{path}/mixer/q", into_rotated_heads(heads)),
        Row(f"{source}.self_attn.k_proj.weight", f"{path}/mixer/k", into_rotated_heads(kv_heads)),
        Row(f"{source}.self_attn.v_proj.weight", f"{path}/mixer/v", into_heads(kv_heads)),
        Row(f"{source}.self_attn.o_proj.weight", f"{path}/mixer/o", out_of_heads(heads)),
        Row(f"{source}.mlp.gate_proj.weight", f"{path}/mlp/gate", matrix),
        Row(f"{source}.mlp.up_proj.weight", f"{path}/mlp/up", matrix),
        Row(f"{source}.mlp.down_proj.weight", f"{path}/mlp/down", matrix),
        Row(f"{source}.input_layernorm.weight", f"{path}/mixer_scale"),
        Row(f"{source}.post_attention_layernorm.weight", f"{path}/mlp_scale"),
    ]


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
