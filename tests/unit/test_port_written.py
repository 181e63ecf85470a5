"""Foreign configs as transformers and the released code write them are read."""

import copy

import pytest

from hlm.port import imported
from tests.unit import test_port
from tests.unit.port_shapes import (
    AUNET,
    CASES,
    MEGABYTE,
    assert_one_model,
    aunet_shapes,
    llama,
    llama_shapes,
    made,
    megabyte_shapes,
)

# What transformers 4 writes into every config inside a config.
BASE_4 = dict(
    _name_or_path="",
    add_cross_attention=False,
    architectures=None,
    bad_words_ids=None,
    begin_suppress_tokens=None,
    bos_token_id=None,
    chunk_size_feed_forward=0,
    cross_attention_hidden_size=None,
    decoder_start_token_id=None,
    diversity_penalty=0.0,
    do_sample=False,
    early_stopping=False,
    encoder_no_repeat_ngram_size=0,
    eos_token_id=None,
    exponential_decay_length_penalty=None,
    finetuning_task=None,
    forced_bos_token_id=None,
    forced_eos_token_id=None,
    id2label={"0": "LABEL_0", "1": "LABEL_1"},
    is_decoder=False,
    is_encoder_decoder=False,
    label2id={"LABEL_0": 0, "LABEL_1": 1},
    length_penalty=1.0,
    max_length=20,
    min_length=0,
    no_repeat_ngram_size=0,
    num_beam_groups=1,
    num_beams=1,
    num_return_sequences=1,
    output_attentions=False,
    output_hidden_states=False,
    output_scores=False,
    pad_token_id=None,
    prefix=None,
    problem_type=None,
    pruned_heads={},
    remove_invalid_values=False,
    repetition_penalty=1.0,
    return_dict=True,
    return_dict_in_generate=False,
    sep_token_id=None,
    suppress_tokens=None,
    task_specific_params=None,
    temperature=1.0,
    tf_legacy_loss=False,
    tie_encoder_decoder=False,
    tie_word_embeddings=False,
    tokenizer_class=None,
    top_k=50,
    top_p=1.0,
    torch_dtype=None,
    torchscript=False,
    typical_p=1.0,
    use_bfloat16=False,
)


def test_llamas_of_transformers_4_are_read():
    old = (
        test_port.SIZES
        | BASE_4
        | {"rope_theta": 5e5, "rope_scaling": None, "model_type": "llama", "attention_bias": False}
    )
    assert_one_model(
        imported("llama", made(llama_shapes()), old),
        imported("llama", made(llama_shapes()), llama()),
    )


@pytest.mark.parametrize("version", [4, 5])
def test_blts_of_transformers_are_read(version):
    """As written by the classes of each part, with what they derive."""
    _, config, weights = CASES["blt"]
    written = copy.deepcopy(config) | dict(
        architectures=["BltForCausalLM"], model_type="blt", patch_in_forward=True, patch_size=4
    )
    written |= dict(
        patching_batch_size=1,
        patching_device="cuda",
        realtime_patching=True,
        patching_threshold_add=None,
    )
    written |= dict(
        monotonicity=False,
        max_patch_length=None,
        initializer_range=0.02,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    for name, kind in (
        ("encoder", "local_encoder"),
        ("decoder", "local_decoder"),
        ("global", "global_transformer"),
        ("patcher",) * 2,
    ):
        part = written[f"{name}_config"]
        part |= dict(
            model_type=f"blt_{kind}",
            dropout=0.0,
            hidden_act="silu",
            initializer_range=0.02,
            num_key_value_heads=1,
        )
        part |= dict(
            max_position_embeddings=24576,
            head_dim=part["hidden_size"],
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
        if kind.startswith("local"):
            part |= dict(vocab_size=260, cross_attn_k=2, hidden_size_global=6)
        if name == "global":
            part |= dict(encoder_cross_output_size=8)
        if version == 4:
            part |= BASE_4 | {
                "rope_scaling": {"rope_type": "default"},
                **part.pop("rope_parameters"),
            }
        else:
            part["rope_parameters"]["rope_type"] = "default"
    top = (
        {"rope_parameters": {"rope_theta": 5e5}}
        if version == 5
        else {"rope_theta": 5e5, "rope_scaling": None}
    )
    assert_one_model(imported("blt", weights(), written | top), imported("blt", weights(), config))


def test_hats_as_released_are_read():
    _, config, weights = CASES["hat"]
    written = copy.deepcopy(config) | dict(
        architectures=["HATDecoderForCausalLM"],
        auto_map={
            "AutoConfig": "config.HATArchitectureConfig",
            "AutoModelForCausalLM": "model.HATForCausalLM",
        },
        model_type="hierarchical_autoregressive_transformer",
        sliding_window=768,
        torch_dtype="bfloat16",
        transformers_version="4.46.3",
    )
    for name in ("encoder", "backbone", "decoder"):
        part = written[f"{name}_config"]
        part |= dict(
            mlp_bias=False,
            use_cache=True,
            transformers_version="4.46.3",
            max_position_embeddings=262144,
        )
        part |= dict(key_query_norm=False, key_query_norm_per_head=False, is_neox_style=True)
        part.setdefault("vocab_size", 256 if name == "encoder" else 0)
        part.setdefault("sliding_window", None)
        if name != "backbone":
            cross = dict(word_window_size=1, key_query_norm=False, key_query_norm_per_head=False)
            part["cross_attention_config"] |= cross
    assert_one_model(imported("hat", weights(), written), imported("hat", weights(), config))


def test_a_row_of_the_datas_length_and_stages_of_one_width_are_read():
    found = imported("aunet", made(aunet_shapes()), AUNET | {"max_seqlens": [-1, 16]})
    assert found[1] == 8192
    with pytest.raises(ValueError, match=r"start_tokens\.1 has shape \(6,\).*asks for \(8,\)"):
        imported("megabyte", made(megabyte_shapes()), MEGABYTE | {"dim": 8})
