"""Keys and weights of facebookresearch/blt in the words of `transformers`."""

from collections.abc import Mapping
from typing import Any

from hlm.port import llama_block
from hlm.port.keys import (
    LONGEST,
    Key,
    Wrong,
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

# Meta's words for those of `transformers`; the rest of a name is the same.
META = {
    **{theirs: llama_block.META[part] for part, theirs in llama_block.TRANSFORMERS.items()},
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


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """A list of whole numbers, also as text with commas in between."""
    if isinstance(value, str):
        entries = [entry.strip() for entry in value.split(",") if entry.strip()]
        if not all(entry.isascii() and entry.isdigit() and len(entry) < 9 for entry in entries):
            raise Wrong(f"{name} {value!r} (only whole numbers with commas in between)")
        value = [int(entry) for entry in entries]
    return several(whole(most=64), least=0)(name, value)


BASE = {
    **harmless(
        "seed max_seqlen attn_impl eos_id init_base_std init_std_factor "
        "rope_use_fp32_in_outer_product dropout dim_token_emb"
    ),
    "head_dim": Key(only(None), None),
    "n_kv_heads": Key(maybe(whole()), None),
    "ffn_dim_multiplier": Key(only(None, 1.0), None),
    "multiple_of": Key(maybe(whole()), None),
    "norm_eps": Key(real(0, 1), 1e-5),
    "rope_theta": Key(real(1, 1e12), 10_000.0),
    "attn_bias_type": Key(maybe(only("causal", "local_block_causal")), None),
    "weight_tying": Key(only(False), None),
}
ARGS = BASE | {
    # What only training, other objectives, or the way to compute the same hang on; sizes that
    # those of the parts replace.
    **harmless(
        """
        alpha_depth attn_to_keep cross_attn_use_flex_attention custom_bwd data_loader_patching
        dim dim_patch_emb encoder_lm_loss entropy_model_checkpoint_dir full_logging_n_layers
        fuse_sequence_parallel init_use_depth init_use_gaussian layer_ckpt log_patch_lengths
        loss_parallel max_length n_heads n_layers output_size pad_to_max_length patch_in_forward
        patch_size patching_batch_size patching_device patching_thresholds_str realtime_patching
        recompute_attn recompute_fc1_out recompute_fc3_out sequence_parallel
        share_encoder_decoder_emb tokenization_mode use_fsdp
 """
    ),
    "architecture": Key(maybe(only("vanilla")), None),
    "conv_kernel_size": Key(only(None), None),
    "cross_attn_decoder": Key(only(True), None),
    "cross_attn_encoder": Key(only(True), None),
    "cross_attn_init_by_pooling": Key(only(True), None),
    "cross_attn_k": Key(whole(most=64)),
    "cross_attn_all_layers_decoder": Key(truth, False),
    "cross_attn_all_layers_encoder": Key(truth, False),
    "cross_attn_nheads": Key(maybe(whole()), None),
    "cross_attn_window_decoder": Key(only(None), None),
    "cross_attn_window_encoder": Key(only(None), None),
    "dim_global": Key(whole()),
    "dim_local_decoder": Key(whole()),
    "dim_local_encoder": Key(whole()),
    "dim_token": Key(maybe(whole()), None),
    "downsampling_by_pooling": Key(maybe(only("max", "amax")), None),
    "encoder_enable_byte_ngrams": Key(only(None, False), None),
    "encoder_hash_byte_group_nb_functions": Key(whole(most=64), 3),
    "encoder_hash_byte_group_size": Key(maybe(sizes), None),
    "encoder_hash_byte_group_vocab": Key(whole(most=1 << 26), 30_000),
    "encoder_ngram_table_dir": Key(only(None), None),
    "encoder_ngram_to_size_str": Key(only(None), None),
    "encoder_preds_low_entropy_toks": Key(only(None), None),
    "encoder_preds_random_toks": Key(only(None), None),
    "entropy_model_is_ngram_model": Key(only(None, False), None),
    "global_local_decoder_residual_layer": Key(only(None), None),
    "local_attention_window_len": Key(maybe(whole()), 512),
    "max_encoder_seq_length": Key(maybe(whole(2, LONGEST)), None),
    "max_patch_length": Key(maybe(whole()), None),
    "max_seqlen": Key(maybe(whole(2, LONGEST)), None),
    "monotonicity": Key(only(None, False), None),
    "n_heads_global": Key(whole()),
    "n_heads_local_decoder": Key(whole()),
    "n_heads_local_encoder": Key(whole()),
    "n_kv_heads_global": Key(maybe(whole()), None),
    "n_layers_global": Key(whole()),
    "n_layers_local_decoder": Key(whole()),
    "n_layers_local_encoder": Key(whole()),
    "non_linearity": Key(maybe(only("swiglu")), None),
    "norm_affine": Key(only(True), None),
    "norm_type": Key(maybe(only("rmsnorm")), None),
    "patching_mode": Key(maybe(only("entropy")), None),
    "patching_threshold": Key(maybe(real(0, 1e3)), None),
    "patching_threshold_add": Key(only(None), None),
    "pm_size": Key(only(None, 0), None),
    "pre_norm": Key(only(True), None),
    "sliding_window": Key(only(None), None),
    "tie_local_encoder_decoder": Key(only(None, False), None),
    "tie_local_encoder_decoder_logits": Key(only(None, False), None),
    "tokenize_with_bpe_delimiter": Key(only(None, False), None),
    "use_local_encoder_transformer": Key(only(True), None),
    "use_rope": Key(only(True), None),
    "vocab_size": Key(whole(most=1 << 16)),
}
ENTROPY = BASE | {
    "dim": Key(whole()),
    "n_heads": Key(whole()),
    "n_layers": Key(whole()),
    "sliding_window": Key(maybe(whole()), 512),
    "vocab_size": Key(whole(most=1 << 16)),
}
PATCHER = {
    **harmless(
        "data_loader_patching device entropy_model_checkpoint_dir log_time patch_size "
        "patching_batch_size patching_device"
    ),
    **harmless("realtime_patching"),
    "max_patch_length": Key(maybe(whole()), None),
    "monotonicity": Key(only(None, False), None),
    "patching_mode": Key(maybe(only("entropy")), None),
    "threshold": Key(real(0, 1e3)),
    "threshold_add": Key(only(None), None),
}
DATA = {
    **harmless(
        """
        add_bos add_eos add_patches arrow_batch_size async_persist_type batch_size buffer_size
        dataset_files enable_byte_ngrams entropy_model_name file_format load_async
        max_encoder_seq_length n_views pad_to_max_length prefetch_size preprocess_dir
        preprocess_version root_dir s3_profile seed seq_len sources tokenizer tokenizer_args
 """
    ),
    "patcher_args": Key(section(PATCHER)),
}
KEYS = {
    # Training of the entropy model.
    **harmless(
        """
        async_eval_gpus checkpoint debug_dynamo distributed dump_dir env eval eval_on_gpus
        gc_collect_freq grad_acc_steps logging max_steps model name optim probe_freq profiling
        seed steps stop_at_step train_entropy_model
 """
    ),
    "args": Key(section(ARGS)),
    "entropy_model": Key(section(ENTROPY)),
    "data": Key(section(DATA)),
}


def unified(config: Any) -> Any:
    """The config of `transformers`; Meta's in its words. Raises ValueError as `checked`."""
    if not isinstance(config, Mapping) or "args" not in config:
        return config
    c = checked(config, KEYS)
    args, entropy, patcher = c["args"], c["entropy_model"], c["data"]["patcher_args"]
    for suffix in ("encoder", "decoder"):
        name = f"n_heads_local_{suffix}"
        agree(("args.cross_attn_nheads", args["cross_attn_nheads"]), (f"args.{name}", args[name]))
    agree(
        ("args.dim_token", args["dim_token"]), ("args.dim_local_encoder", args["dim_local_encoder"])
    )
    agree(
        ("args.patching_threshold", args["patching_threshold"]),
        ("data.patcher_args.threshold", patcher["threshold"]),
    )
    longest = "max_patch_length"
    if args[longest] is not None:
        agree(
            (f"args.{longest}", args[longest]),
            (f"data.patcher_args.{longest}", patcher[longest] or "null"),
        )

    def part(of: Mapping[str, Any], suffix: str) -> dict[str, Any]:
        dim, multiple = of[f"dim{suffix}"], of["multiple_of"] or 256
        return {
            "hidden_size": dim,
            "num_attention_heads": of[f"n_heads{suffix}"],
            "num_key_value_heads": of["n_kv_heads_global" if suffix == "_global" else "n_kv_heads"],
            "num_hidden_layers": of[f"n_layers{suffix}"],
            "rms_norm_eps": of["norm_eps"],
            "rope_theta": of["rope_theta"],
            "intermediate_size": -(-int(8 * dim / 3) // multiple) * multiple,
        }

    encoder, decoder = (
        part(args, f"_local_{name}")
        | {"cross_attn_all_layers": args[f"cross_attn_all_layers_{name}"]}
        for name in ("encoder", "decoder")
    )
    return {
        "vocab_size": args["vocab_size"],
        "max_position_embeddings": args["max_encoder_seq_length"] or args["max_seqlen"],
        "patching_threshold": patcher["threshold"],
        "max_patch_length": patcher[longest],
        "cross_attn_k": args["cross_attn_k"],
        "encoder_hash_byte_group_size": args["encoder_hash_byte_group_size"],
        "encoder_hash_byte_group_vocab": args["encoder_hash_byte_group_vocab"],
        "encoder_hash_byte_group_nb_functions": args["encoder_hash_byte_group_nb_functions"],
        "local_attention_window_len": args["local_attention_window_len"],
        "encoder_config": encoder,
        "decoder_config": decoder,
        "global_config": part(args, "_global"),
        "patcher_config": part(entropy, "")
        | {"vocab_size": entropy["vocab_size"], "sliding_window": entropy["sliding_window"]},
    }
