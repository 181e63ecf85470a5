"""Keys that `transformers` writes into every config.json, and what its Llamas have in common.

Rotary positions are spelled in two ways: `rope_theta` and `rope_scaling`, or, since transformers 5,
`rope_parameters` with both in it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hlm.nn.basic import Rope
from hlm.nn.rope import Llama3Rope
from hlm.port.keys import (
    DEEPEST,
    LONGEST,
    REQUIRED,
    Key,
    agree,
    anything,
    divides,
    harmless,
    maybe,
    only,
    real,
    section,
    whole,
)

# The classes of transformers, their files and devices; training; generation, of which our codecs
# and sampling say their own.
HARMLESS = harmless(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _name_or_path architectures attn_implementation base_model_ep_plan base_model_pp_plan
    base_model_tp_plan dtype finetuning_task id2label label2id model_name name_or_path
    num_labels prefix problem_type task_specific_params tf_legacy_loss tokenizer_class
    torch_dtype torchscript transformers_version unsloth_fixed unsloth_version use_bfloat16
    chunk_size_feed_forward is_decoder output_attentions output_hidden_states output_scores
    pretraining_tp return_dict return_dict_in_generate use_cache use_return_dict
    cache_implementation attention_dropout dropout gradient_checkpointing hidden_dropout
    initializer_factor initializer_range resid_dropout bad_words_ids begin_suppress_tokens
    bos_token_id decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences pad_token_id
    remove_invalid_values repetition_penalty sep_token_id suppress_tokens temperature top_k
    top_p typical_p
 """
)

# What changes the computation, and how our parts compute.
FIXED = {
    "add_cross_attention": Key(only(False), None),
    "attention_bias": Key(only(False), None),
    "bias": Key(only(False), None),
    "cross_attention_hidden_size": Key(only(None), None),
    "hidden_act": Key(maybe(only("silu", "swish")), None),
    "is_causal": Key(only(True), None),
    "is_encoder_decoder": Key(only(False), None),
    "mlp_bias": Key(only(False), None),
    "per_layer_config": Key(only(None, {}), None),
    "pruned_heads": Key(only(None, {}), None),
    "qkv_bias": Key(only(False), None),
    "quantization_config": Key(only(None), None),
    "tie_encoder_decoder": Key(only(False), None),
    "tie_word_embeddings": Key(only(False), None),
}

SCALING = {
    "rope_type": Key(maybe(only("default", "llama3")), None),
    "type": Key(maybe(only("default", "llama3")), None),
    "rope_theta": Key(maybe(real(1, 1e12)), None),
    "factor": Key(maybe(real(1, 1e6)), None),
    "low_freq_factor": Key(maybe(real(1e-3, 1e6)), None),
    "high_freq_factor": Key(maybe(real(1e-3, 1e6)), None),
    "original_max_position_embeddings": Key(maybe(whole(most=LONGEST)), None),
    "partial_rotary_factor": Key(only(None, 1.0), None),
    "attention_factor": Key(only(None, 1.0), None),
}

ROPE = {
    "rope_theta": Key(maybe(real(1, 1e12)), None),
    "rope_scaling": Key(maybe(section(SCALING)), None),
    "rope_parameters": Key(maybe(section(SCALING)), None),
    "original_max_position_embeddings": Key(maybe(whole(most=LONGEST)), None),
    "partial_rotary_factor": Key(only(None, 1.0), None),
}

HEADS = {
    "hidden_size": Key(whole()),
    "num_attention_heads": Key(whole()),
    "num_key_value_heads": Key(maybe(whole()), None),
    "head_dim": Key(maybe(whole()), None),
}


def llama(
    norm_eps: float = REQUIRED, intermediate_size: Any = REQUIRED, model_type: tuple[str, ...] = ()
) -> dict[str, Key]:
    """The keys of a stack of Llama's blocks."""
    return {
        **HARMLESS,
        **FIXED,
        **ROPE,
        **HEADS,
        "num_hidden_layers": Key(whole(most=DEEPEST)),
        "intermediate_size": Key(
            whole() if intermediate_size is REQUIRED else maybe(whole()), intermediate_size
        ),
        "rms_norm_eps": Key(real(0, 1), norm_eps),
        "max_position_embeddings": Key(maybe(whole(2, LONGEST)), None),
        "model_type": Key(maybe(only(*model_type)) if model_type else anything, None),
    }


class Heads(NamedTuple):
    """Numbers of a layer of attention."""

    queries: int
    keys: int
    width: int


def heads(c: Mapping[str, Any], where: str = "") -> Heads:
    """The heads of a checked config, which is that of `where`."""
    queries, keys = c["num_attention_heads"], c["num_key_value_heads"] or c["num_attention_heads"]
    divides(f"{where}num_key_value_heads", keys, "num_attention_heads", queries)
    width = c["head_dim"] or divides(
        f"{where}num_attention_heads", queries, "hidden_size", c["hidden_size"]
    )
    if width % 2:
        raise ValueError(
            f"config: {where}head_dim {width} (only even numbers; it is hidden_size / "
            "num_attention_heads if not given)"
        )
    return Heads(queries, keys, width)


def rope(c: Mapping[str, Any], theta: float, where: str = "") -> Rope:
    """Rotary positions of a checked config; both spellings may be there if they say the same."""
    given = {name: c[name] for name in ("rope_scaling", "rope_parameters") if c[name] is not None}
    inner = [(f"{where}{name}.rope_theta", part["rope_theta"]) for name, part in given.items()]
    agree((f"{where}rope_theta", c["rope_theta"]), *inner)
    theta = next((t for t in (c["rope_theta"], *(t for _, t in inner)) if t is not None), theta)
    scalings = [
        (f"{where}{name}", _scaling(part, c, f"{where}{name}.", f"{where}"))
        for name, part in given.items()
    ]
    agree(*scalings)
    stretched = scalings[0][1] if scalings else {}
    return Llama3Rope(theta, **stretched) if stretched else Rope(theta)


def _scaling(
    part: Mapping[str, Any], c: Mapping[str, Any], inner: str, outer: str
) -> dict[str, Any]:
    """The fields of Llama3Rope, or nothing."""
    agree((f"{inner}rope_type", part["rope_type"]), (f"{inner}type", part["type"]))
    kind = part["rope_type"] or part["type"] or "default"
    stretch = ("factor", "low_freq_factor", "high_freq_factor")
    if kind == "default":
        for name in stretch:
            if part[name] is not None:
                raise ValueError(
                    f"config: {inner}{name} {part[name]} but {inner}rope_type is 'default'; "
                    "say 'llama3' or take it out"
                )
        return {}
    key = "original_max_position_embeddings"
    agree((f"{inner}{key}", part[key]), (f"{outer}{key}", c[key]))
    factor, low, high = (part[name] for name in stretch)
    length = part[key] or c[key]
    for name, value in zip((*stretch, key), (factor, low, high, length), strict=True):
        if value is None:
            raise ValueError(f"config: {inner}{name} is missing, which rope_type 'llama3' needs")
    if not low < high:
        raise ValueError(
            f"config: {inner}low_freq_factor {low} (only less than high_freq_factor {high})"
        )
    return dict(factor=factor, low=low, high=high, length=length)
