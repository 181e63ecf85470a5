"""Keys of foreign configs: unknown ones and values that change the model are refused by name."""

import pytest

from hlm.port import FORMATS, imported, keys
from tests.unit.port_shapes import CASES, assert_one_model, llama, llama_shapes, made, set_at


def test_there_is_a_case_of_every_format():
    assert {format for format, *_ in CASES.values()} == set(FORMATS)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("llama", ["attention_bias"], True),
        ("llama", ["mlp_bias"], True),
        ("llama", ["hidden_act"], "gelu"),
        ("llama", ["tie_word_embeddings"], True),
        ("llama", ["model_type"], "gemma"),
        ("llama", ["architectures"], ["MistralForCausalLM"]),
        ("llama", ["quantization_config"], {"bits": 4}),
        ("llama", ["is_causal"], False),
        ("llama", ["sliding_window"], 4),
        ("llama", ["auto_map"], {"AutoModel": "model.Mine"}),
        ("llama", ["vocab_size"], 32000),
        ("llama", ["per_layer_config"], {"0": {"head_dim": 2}}),
        ("blt", ["encoder_config", "hidden_act"], "gelu"),
        ("blt", ["encoder_config", "head_dim"], 2),
        ("blt", ["decoder_config", "sliding_window"], 4),
        ("blt", ["decoder_config", "hidden_size_global"], 8),
        ("blt", ["encoder_config", "cross_attn_k"], 3),
        ("blt", ["monotonicity"], True),
        ("blt", ["patching_threshold_add"], 0.5),
        ("blt", ["patcher_config", "mlp_bias"], True),
        ("blt", ["global_config", "encoder_cross_output_size"], 9),
        ("blt_meta", ["args", "ffn_dim_multiplier"], 1.5),
        ("blt_meta", ["args", "cross_attn_nheads"], 2),
        ("blt_meta", ["args", "cross_attn_window_encoder"], 2),
        ("blt_meta", ["args", "use_rope"], False),
        ("blt_meta", ["args", "patching_threshold"], 2.0),
        ("blt_meta", ["data", "patcher_args", "threshold_add"], 0.5),
        ("blt_meta", ["entropy_model", "weight_tying"], True),
        ("hat", ["encoder_config", "mlp_bias"], True),
        ("hat", ["encoder_config", "qkv_bias"], True),
        ("hat", ["encoder_config", "cross_attention_config", "hidden_size_q"], 8),
        ("hat", ["decoder_config", "cross_attention_config", "key_query_norm"], True),
        ("hat", ["backbone_config", "hidden_act"], "relu"),
        ("hat", ["model_type"], "llama"),
        ("hnet", ["tie_embeddings"], True),
        ("hnet", ["ssm_cfg", "headdim"], 64),
        ("hnet", ["attn_cfg", "qkv_proj_bias"], True),
        ("hnet", ["d_intermediate"], [24, 40, 41]),
        ("aunet", ["pooling_type"], "simple_repeat"),
        ("aunet", ["lambda_level"], 0.1),
        ("aunet", ["residuals"], [False]),
        ("aunet", ["norm_eps"], 1e-6),
        ("aunet", ["block", "n_kv_heads"], 1),
        ("aunet", ["regex"], {"punc1": "1@1"}),
        ("aunet", ["regex"], {"word1": "3@1"}),
        ("dynamic_pooling", ["pre_lnorm"], True),
        ("dynamic_pooling", ["activation_function"], "relu"),
        ("dynamic_pooling", ["boundaries_type"], "unigram"),
        ("dynamic_pooling", ["temp"], 0),
        ("megabyte", ["pos_emb"], True),
        ("megabyte", ["depth"], [1, 1, 1]),
        ("megabyte", ["num_tokens"], 16000),
        ("spacebyte", ["tie_embedding"], True),
        ("spacebyte", ["layer_norm"], "RMSNorm"),
        ("spacebyte", ["sparse_attention"], True),
        ("spacebyte", ["patch_method"], "entropy"),
        ("spacebyte", ["patch_size"], 4),
        ("sb_megabyte", ["use_padding"], False),
        ("sb_flat", ["nonlinear"], "GELU"),
    ],
)
def test_what_changes_the_computation_is_refused_by_name_and_value(name, path, value):
    format, config, weights = CASES[name]
    with pytest.raises(ValueError, match=path[-1]) as caught:
        imported(format, weights(), set_at(config, path, value))
    assert "\n" not in str(caught.value)
    assert keys.shown(
        value[-1] if path[-1] in ("d_intermediate", "architectures", "residuals") else value
    ) in str(caught.value)


def sections(config, path=()):
    """Paths of all mappings in a config."""
    yield path
    for key, value in config.items():
        if isinstance(value, dict):
            yield from sections(value, (*path, key))


OPEN = {("regex",), ("special_token_dict",)}  # mappings of names of their own


@pytest.mark.parametrize("name", CASES)
def test_unknown_keys_are_refused_by_name_in_every_section(name):
    format, config, weights = CASES[name]
    for path in sections(config):
        if path in OPEN:
            continue
        with pytest.raises(ValueError, match=r"key_of_tomorrow 7 .*take it out") as caught:
            imported(format, weights(), set_at(config, (*path, "key_of_tomorrow"), 7))
        assert ".".join((*path, "key_of_tomorrow")) in str(caught.value)


def test_a_mistyped_key_is_told_the_right_one():
    with pytest.raises(ValueError, match=r"rms_nrom_eps 1e-05 .*did you mean rms_norm_eps\?"):
        imported("llama", {}, llama() | {"rms_nrom_eps": 1e-5})


@pytest.mark.parametrize("value", [None, 0, -3, "x", [1, 2], {"a": 1}, 1e9, False])
def test_harmless_keys_may_say_anything(value):
    weights = made(llama_shapes())
    found = imported(
        "llama",
        weights,
        llama() | {"use_cache": value, "bos_token_id": value, "temperature": value, "dtype": value},
    )
    assert_one_model(found, imported("llama", weights, llama()))
