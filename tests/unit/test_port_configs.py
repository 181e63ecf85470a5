"""Configs of every format: two spellings, keys refused by their names, hundreds of mutations."""

import copy
import importlib
import json
import random
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hlm
from hlm.port import FORMATS, imported, keys
from hlm.seq import Batch
from tests.unit import test_blt, test_port, test_port_hnet, test_tfree_hat

LLAMA3 = dict(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
# What transformers writes beside a Llama's sizes.
WRITTEN = dict(
    architectures=["LlamaForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=1,
    dtype="float32",
    eos_token_id=2,
    head_dim=4,
    hidden_act="silu",
    initializer_range=0.02,
    mlp_bias=False,
    model_type="llama",
    pad_token_id=None,
    pretraining_tp=1,
    tie_word_embeddings=False,
    transformers_version="5.0.0",
    use_cache=True,
)


def llama():
    return (
        test_port.SIZES | WRITTEN | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    )


def llama_shapes():
    block = {
        "self_attn.q_proj": (8, 8),
        "self_attn.k_proj": (4, 8),
        "self_attn.v_proj": (4, 8),
        "self_attn.o_proj": (8, 8),
    }
    block |= {"mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
    block |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    every = {f"model.layers.{i}.{k}.weight": s for i in range(2) for k, s in block.items()}
    return every | {
        "model.embed_tokens.weight": (256, 8),
        "lm_head.weight": (256, 8),
        "model.norm.weight": (8,),
    }


AUNET = dict(
    dimensions=[8, 12],
    layers=[1, 2],
    head_dims=[4, 6],
    sliding_windows=[8, 16],
    max_seqlens=[32, 16],
    residuals=[True],
    pooling_type="simple_indexed_matmul",
    vocab_size=258,
    lambda_level=0.0,
    block=dict(rope_theta=5e5, multiple_of=16, norm_eps=1e-5),
    regex={"word1": "1@1"},
    seed=42,
)


def aunet_shapes():
    shapes = {
        "tok_embeddings.weight": (258, 8),
        "vocab_norm.weight": (8,),
        "vocab.weight": (258, 8),
    }
    for name, width, depth in (("encoders.0", 8, 1), ("decoders.0", 8, 1), ("trunk", 12, 2)):
        for i in range(depth):
            here = f"{name}.layers.{i}"
            shapes |= {f"{here}.attention.w{k}.weight": (width, width) for k in "qkvo"}
            shapes |= {f"{here}.feed_forward.w{k}.weight": (16, width) for k in "13"} | {
                f"{here}.feed_forward.w2.weight": (width, 16)
            }
            shapes |= {
                f"{here}.attention_norm.weight": (width,),
                f"{here}.ffn_norm.weight": (width,),
            }
    here = "transitions.0"
    shapes |= {
        f"{here}.down_norm.weight": (8,),
        f"{here}.trans_down.weight": (12, 8),
        f"{here}.up_norm.weight": (12,),
    }
    return shapes | {
        f"{here}.trans_up.weight": (8, 12),
        f"{here}.indexed_linear.weight": (16, 8, 12),
    }


POOLING = dict(
    n_token=256,
    n_head=2,
    d_model=8,
    d_head=4,
    d_inner=12,
    dropout=0.1,
    dropatt=0.1,
    pre_lnorm=False,
    model_config="[1, (1,), 1]",
    activation_function="gelu",
    boundaries_type="gumbel",
    spikes_left=2,
    temp=0.5,
    prior=0.2,
    fixed_sf=2,
    whitespace_id=32,
    tgt_len=32,
    lr=0.00025,
)


def pooling_shapes():
    shapes = {
        "word_emb.weight": (256, 8),
        "final_cast.weight": (256, 8),
        "final_cast.bias": (256,),
        "null_group": (1, 1, 8),
    }
    shapes |= {
        "r_w_bias": (2, 4),
        "r_r_bias": (2, 4),
        "down_ln.weight": (8,),
        "down_ln.bias": (8,),
        "pos_emb.inv_freq": (4,),
    }
    for i in range(3):
        here = f"layers.{i}.0"
        for name, shape in (("qkv_net", (24, 8)), ("r_net", (8, 8)), ("o_net", (8, 8))):
            shapes |= {
                f"{here}.dec_attn.{name}.weight": shape,
                f"{here}.dec_attn.{name}.bias": shape[:1],
            }
        shapes |= {
            f"{here}.pos_ff.CoreNet.0.weight": (12, 8),
            f"{here}.pos_ff.CoreNet.0.bias": (12,),
        }
        shapes |= {
            f"{here}.pos_ff.CoreNet.3.weight": (8, 12),
            f"{here}.pos_ff.CoreNet.3.bias": (8,),
        }
        shapes |= {
            f"{here}.{part}.layer_norm.{kind}": (8,)
            for part in ("dec_attn", "pos_ff")
            for kind in ("weight", "bias")
        }
    here = "boundary_predictor.boundary_predictor"
    shapes |= {
        f"{here}.0.weight": (12, 8),
        f"{here}.0.bias": (12,),
        f"{here}.2.weight": (1, 12),
        f"{here}.2.bias": (1,),
    }
    return shapes


MEGABYTE = dict(
    num_tokens=256,
    dim=[8, 6],
    depth=[1, 1],
    max_seq_len=[8, 4],
    dim_head=4,
    heads=2,
    flash_attn=True,
    rel_pos=True,
    pos_emb=False,
)


def megabyte_shapes():
    shapes = {
        "start_tokens.0": (8,),
        "start_tokens.1": (6,),
        "token_embs.0.weight": (256, 6),
        "token_embs.1.0.weight": (256, 6),
    }
    shapes |= {
        "token_embs.1.2.weight": (24,),
        "token_embs.1.2.bias": (24,),
        "token_embs.1.3.weight": (8, 24),
    }
    shapes |= {
        "token_embs.1.3.bias": (8,),
        "token_embs.1.4.weight": (8,),
        "token_embs.1.4.bias": (8,),
    }
    for i, width in enumerate((8, 6)):
        here = f"transformers.{i}.layers.0"
        shapes |= {
            f"{here}.0.norm.g": (width,),
            f"{here}.0.to_q.weight": (8, width),
            f"{here}.0.to_kv.weight": (16, width),
        }
        shapes |= {
            f"{here}.0.to_out.weight": (width, 8),
            f"{here}.1.0.g": (width,),
            f"{here}.1.1.weight": (4 * width, width),
        }
        shapes |= {
            f"{here}.1.1.bias": (4 * width,),
            f"{here}.1.4.weight": (width, 4 * width),
            f"{here}.1.4.bias": (width,),
        }
        shapes |= {f"transformers.{i}.norm.g": (width,)}
    shapes |= {
        "to_next_transformer_projections.0.1.weight": (24, 8),
        "to_next_transformer_projections.0.1.bias": (24,),
    }
    return shapes | {"to_logits.weight": (256, 6), "to_logits.bias": (256,)}


SB = dict(
    vocab_size=256,
    BOS=255,
    tokenizer=None,
    d_model=8,
    context_size=16,
    d_key=4,
    d_ff_mult=2,
    n_layers=1,
    tie_embedding=False,
    qk_layer_norm=True,
    init="simple",
    nonlinear="ReLU",
    rope=True,
    position_encoding=True,
    attention_groups=None,
    attention_window=None,
    sparse_attention=None,
    layer_norm="LayerNorm",
)
SPACEBYTE = SB | dict(
    patch_method="utf8",
    global_context_size=8,
    d_local=4,
    n_initial_layers=1,
    n_local_layers=2,
    local_attention_window=8,
    print_patches=0,
)
SB_MEGABYTE = SB | dict(patch_size=4, d_local=4, n_local_layers=1, use_padding=True)


def sb_shapes(local, **blocks):
    """`blocks`: name of a stack -> its width."""
    shapes = {"logits.layer_norm.scale": (local,), "logits.logits_linear.weight": (256, local)}
    for name, width in blocks.items():
        here = f"{name}.0.attention"
        shapes |= {
            f"{here}.layer_norm.scale": (width,),
            f"{here}.QKV_linear.weight": (3 * width, width),
        }
        shapes |= {
            f"{here}.linear.weight": (width, width),
            f"{here}.Q_layer_norm.scale": (4,),
            f"{here}.K_layer_norm.scale": (4,),
        }
        here = f"{name}.0.feedforward"
        shapes |= {
            f"{here}.layer_norm.scale": (width,),
            f"{here}.linear_1.weight": (2 * width, width),
        }
        shapes |= {f"{here}.linear_2.weight": (width, 2 * width)}
    return shapes


def spacebyte_shapes():
    shapes = sb_shapes(4, initial_blocks=4, global_blocks=8, final_blocks=4)
    return shapes | {
        "token_embedding.weight": (256, 4),
        "local_position_encoding": (16, 4),
        "global_position_encoding": (8, 8),
    }


def sb_megabyte_shapes():
    shapes = sb_shapes(4, global_blocks=8, local_blocks=4) | {
        "local_token_embedding.weight": (256, 4)
    }
    shapes |= {
        "local_position_encoding": (4, 4),
        "local_pad": (4,),
        "global_token_embedding.weight": (256, 2),
        "global_pad": (8,),
    }
    return shapes | {
        "global_position_encoding": (16, 2),
        "global_to_local.weight": (4, 2),
        "global_to_local.bias": (4,),
    }


def sb_flat_shapes():
    return sb_shapes(8, blocks=8) | {
        "token_embedding.weight": (256, 8),
        "position_encoding": (16, 8),
    }


def made(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


CASES = {
    "llama": ("llama", llama(), lambda: made(llama_shapes())),
    "aunet": ("aunet", AUNET, lambda: made(aunet_shapes())),
    "blt": ("blt", test_blt.CONFIG, lambda: test_blt.weights()[0]),
    "blt_meta": ("blt", test_blt.META_CONFIG, lambda: test_blt.weights()[1]),
    "dynamic_pooling": ("dynamic_pooling", POOLING, lambda: made(pooling_shapes())),
    "hat": ("hat", test_tfree_hat.CONFIG, test_tfree_hat.weights),
    "hnet": ("hnet", test_port_hnet.CONFIG, test_port_hnet.weights),
    "megabyte": ("megabyte", MEGABYTE, lambda: made(megabyte_shapes())),
    "spacebyte": ("spacebyte", SPACEBYTE, lambda: made(spacebyte_shapes())),
    "sb_megabyte": ("spacebyte", SB_MEGABYTE, lambda: made(sb_megabyte_shapes())),
    "sb_flat": ("spacebyte", SB, lambda: made(sb_flat_shapes())),
}


def assert_one_model(a, b):
    assert a[0] == b[0]
    assert a[1] == b[1]
    jax.tree.map(np.testing.assert_array_equal, a[2], b[2])


def set_at(config, path, value):
    """A copy with another value at a path of keys."""
    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


def test_there_is_a_case_of_every_format():
    assert {format for format, *_ in CASES.values()} == set(FORMATS)


# --- rotary positions in both spellings

OLD = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}
NEW = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}
PARTS = {"llama": [()], "hat": [("encoder_config",), ("backbone_config",), ("decoder_config",)]}
PARTS["blt"] = [(f"{name}_config",) for name in ("encoder", "decoder", "global", "patcher")]


def with_rope(config, path, rope):
    config = copy.deepcopy(config)
    node = config
    for key in path:
        node = node[key]
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        node.pop(key, None)
    node |= rope
    return config


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, paths in PARTS.items() for path in paths]
)
@pytest.mark.parametrize(
    "same",
    [
        [OLD, NEW, OLD | NEW, {"rope_theta": 5e5, "rope_parameters": {"type": "llama3", **LLAMA3}}],
        [
            {"rope_theta": 5e5},
            {"rope_theta": 500000, "rope_scaling": None},
            {"rope_parameters": {"rope_theta": 5e5}},
            {
                "rope_parameters": {
                    "rope_theta": 5e5,
                    "rope_type": "default",
                    "partial_rotary_factor": 1.0,
                }
            },
        ],
    ],
)
def test_both_spellings_of_rotary_positions_are_one_model(name, path, same):
    format, config, weights = CASES[name]
    port = importlib.import_module(f"hlm.port.{format}")
    models = [port.model(with_rope(config, path, rope), weights()) for rope in same]
    assert all(other == models[0] for other in models)
    assert models[0] != port.model(with_rope(config, path, {"rope_theta": 1e4}), weights())
    assert "500000.0" in repr(models[0][0])
    if "rope_scaling" in same[0]:
        assert "factor=8.0" in repr(models[0][0])


def test_the_spelling_of_transformers_5_gives_other_logits():
    """The reproduction: theta and scaling used to be left out without a word."""
    weights = made(llama_shapes())
    text = "Call me Ishmael. Some years ago"
    nats = [
        hlm.from_foreign("llama", weights, with_rope(llama(), (), rope)).score(text)[0].nats
        for rope in ({}, OLD, NEW)
    ]
    assert nats[1] == nats[2]
    assert abs(nats[0] - nats[1]) > 1e-3


@pytest.mark.parametrize(
    "rope", [{"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, OLD, NEW]
)
def test_logits_are_those_of_a_slow_llama(rope):
    """Theta and scaling in either spelling, against loops in numpy that know one of them."""
    weights = {name: 0.5 * array for name, array in made(llama_shapes()).items()}
    model, _, params, _ = imported("llama", weights, with_rope(llama(), (), rope))
    x = np.random.default_rng(1).integers(0, 254, (1, 48)).astype(np.int32)
    ones, small = np.ones((1, 48), np.int32), np.ones((1, 48), np.uint8)
    batch = Batch(
        token=x, doc=ones, level=small, target=x, weight=np.ones((1, 48), np.float32), nbytes=small
    )
    logits = jax.jit(lambda p, b: model.apply({"params": p}, b, method="logits"))(
        params, jax.tree.map(jnp.asarray, batch)
    )
    slow = test_port.SIZES | {
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3 if "llama3" in str(rope) else None,
    }
    y = weights["model.embed_tokens.weight"][x[0]].astype(np.float64)
    for i in range(2):
        y = test_tfree_hat.llama(weights, f"model.layers.{i}", slow, y)
    y = test_tfree_hat.rms(y, weights["model.norm.weight"]) @ weights["lm_head.weight"].T
    np.testing.assert_allclose(logits[0, :, 0], y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_theta 10000.0 and .*rope_parameters.rope_theta 500000.0",
        ),
        (OLD | {"rope_parameters": {"rope_theta": 5e5}}, "rope_scaling .* and .*rope_parameters"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            r"rope_parameters.rope_type 'yarn' \(only 'default' or 'llama3'\)",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling.type 'linear'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling.type 'dynamic'"),
        ({"rope_parameters": {"factor": 4.0}}, "rope_parameters.factor 4.0"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope_parameters.full_attention",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        (
            {"rope_parameters": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 4.0}},
            "low_freq_factor 4.0",
        ),
        (
            {
                "rope_parameters": {"rope_type": "llama3"}
                | {k: v for k, v in LLAMA3.items() if k != "factor"}
            },
            "factor is missing",
        ),
        (
            {"original_max_position_embeddings": 16, **NEW},
            "original_max_position_embeddings 32 and .*embeddings 16",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 1]}},
            r"mrope_section \[1, 1\]",
        ),
        ({"rope_theta": 0}, "rope_theta 0"),
        ({"rope_theta": "1e4"}, "rope_theta '1e4'"),
        ({"rope_parameters": [1e4]}, r"rope_parameters \[10000.0\]"),
    ],
)
def test_other_rotary_positions_are_refused_by_name(rope, named):
    for name, paths in PARTS.items():
        format, config, weights = CASES[name]
        for path in paths:
            with pytest.raises(ValueError, match=named) as caught:
                imported(format, weights(), with_rope(config, path, rope))
            assert "\n" not in str(caught.value)
            assert ".".join(path) in str(caught.value)


# --- keys


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


def test_the_style_of_rotary_positions_is_read_where_the_released_code_reads_it():
    format, config, weights = CASES["hat"]
    outside = set_at(config, ("backbone_config", "is_neox_style"), False)
    inside = set_at(config, ("backbone_config", "rope_scaling", "is_neox_style"), False)
    assert_one_model(imported(format, weights(), outside), imported(format, weights(), inside))
    with pytest.raises(ValueError, match="is_neox_style"):
        imported(
            format,
            weights(),
            set_at(outside, ("backbone_config", "rope_scaling", "is_neox_style"), True),
        )


# --- nonsense

NONSENSE = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    10**6,
    10**9,
    1 << 70,
    10**5000,
    0.0,
    0.5,
    1.5,
    -2.5,
    1e-300,
    1e300,
]
NONSENSE += [
    float("nan"),
    float("inf"),
    "",
    "x",
    "12",
    "é\n",
    "[1, (1,), 1]",
    [],
    [1],
    [None],
    [0, 0],
    [[[[]]]],
    ["a", "b", "c"],
]
NONSENSE += [
    {},
    {"a": 1},
    {1: 2},
    b"x",
    1j,
    object(),
    (8, 12),
    {"rope_type": "llama3"},
    np.float32(2),
    np.arange(3),
    range(2),
]


def places(value, path=()):
    """Paths of all entries of a config's mappings and lists."""
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutated(config, rng):
    """(a config with one or two entries spoiled, what was done)."""
    config, done = copy.deepcopy(config), []
    for _ in range(rng.choice([1, 1, 1, 2])):
        path = rng.choice(list(places(config)))
        node = config
        for key in path[:-1]:
            node = node[key]
        what = rng.choice(["drop", "replace", "replace", "replace", "rename", "scale"])
        value = node[path[-1]]
        if what == "drop":
            del node[path[-1]]
        elif what == "rename" and isinstance(node, dict):
            node[str(path[-1]) + rng.choice(["_", "\n", "2"])] = node.pop(path[-1])
        elif what == "scale" and type(value) in (int, float):
            node[path[-1]] = rng.choice(
                [-value, value * 2, value * 3, value + 1, value - 1, str(value), [value]]
            )
        else:
            node[path[-1]] = rng.choice(NONSENSE)
        done.append(
            (
                what,
                path,
                keys.shown(node[path[-1]])
                if what in ("replace", "scale") and path[-1] in places_of(node)
                else "",
            )
        )
    return config, done


def places_of(node):
    return node if isinstance(node, dict) else range(len(node))


def words(format, config):
    """Every key that a message about this config may name."""
    module = importlib.import_module(f"hlm.port.{format}")
    names = {
        key
        for name in ("KEYS", "BASE", "SPACEBYTE", "MEGABYTE")
        for key in getattr(module, name, {})
    }
    return (
        names
        | {str(key) for path in places(config) for key in path if isinstance(key, str)}
        | {"weight", "config"}
    )


def refusal(format, weights, config, done):
    """The message with which this is refused, or None; all but a ValueError of one line fails."""
    try:
        imported(format, weights, config)
    except ValueError as error:
        text = str(error)
    except Exception as error:
        pytest.fail(f"{done} ended in {type(error).__name__}: {error}")
    else:
        return None
    if not text.isprintable() or len(text) > 4000:
        pytest.fail(f"{done} ended in several lines: {text}")
    return text


MUTATIONS = 25  # of each case


@pytest.mark.parametrize("name", CASES)
def test_mutated_configs_are_read_or_refused_in_one_line(name):
    format, config, weights = CASES[name]
    rng, weights, known = random.Random(name), weights(), words(*CASES[name][:2])
    refused = 0
    for _ in range(MUTATIONS):
        changed, done = mutated(config, rng)
        text = refusal(format, weights, changed, done)
        if text is not None:
            refused += 1
            assert any(word in text for word in known), (done, text)
    assert refused > MUTATIONS / 3


@pytest.mark.parametrize("config", [None, [], "x", 3, {}, {"args": 3}, {"args": {}}])
def test_what_is_no_config_is_refused(config):
    for format in FORMATS:
        with pytest.raises(ValueError, match="config: ") as caught:
            imported(format, {}, config)
        assert str(caught.value).isprintable()


# --- weights


SPOILERS = [
    lambda a: a[None],
    lambda a: a.reshape(-1),
    lambda a: np.concatenate([a, a]),
    lambda a: a[:-1],
    lambda a: a[:0],
    lambda a: np.float32(1),
    lambda a: np.full(a.shape, np.nan, np.float32),
    lambda a: np.full(a.shape, 1e300),
    lambda a: np.full(a.shape, "x"),
    lambda a: a.astype(np.int8),
    lambda a: a.astype(complex),
    lambda a: [[1.0], [2.0, 3.0]],
    lambda a: None,
]


@pytest.mark.parametrize("name", CASES)
def test_spoiled_weights_are_named_in_one_line(name):
    format, config, weights = CASES[name]
    rng = random.Random(name)
    buffers = [row for row in rows(name) if row.path is None]
    for spoil in rng.sample(SPOILERS, 4):
        spoiled = dict(weights())
        key = rng.choice(sorted(spoiled))
        before = np.asarray(spoiled[key])
        spoiled[key] = spoil(before)
        text = refusal(format, spoiled, config, key)
        if text is None:  # nothing is asked of it, or it holds the same numbers
            same = np.size(spoiled[key]) == before.size and np.array_equal(
                np.ravel(spoiled[key]), np.ravel(before)
            )
            assert same or any(row.match(key) is not None for row in buffers), key
        else:
            assert "weight" in text


def rows(name):
    format, config, weights = CASES[name]
    return importlib.import_module(f"hlm.port.{format}").rows(config, weights())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"model.layers.00.input_layernorm.weight": np.ones(8)},
            "unknown weight model.layers.00.input",
        ),
        ({"model.layers.٠.input_layernorm.weight": np.ones(8)}, "unknown weight model.layers"),
        ({3: np.ones(8)}, "unknown weight 3"),
        ({"a\nb": np.ones(8)}, r"unknown weight 'a\\nb'"),
        ({f"model.layers.{'9' * 6000}.mlp.up_proj.weight": np.ones(8)}, "unknown weight"),
    ],
)
def test_odd_names_of_weights_are_unknown(change, named):
    with pytest.raises(ValueError, match=named) as caught:
        imported("llama", made(llama_shapes()) | change, llama())
    assert str(caught.value).isprintable()


def test_two_weights_for_one_place_are_refused():
    extra = {"global_blocks.0.attention.Q_linear.weight": np.ones((8, 8), np.float32)}
    with pytest.raises(ValueError, match="second weight for trunk/backbone/block/mixer/q"):
        imported("spacebyte", made(spacebyte_shapes()) | extra, SPACEBYTE)


# --- the command


@pytest.mark.parametrize(
    ("text", "arguments", "named"),
    [
        ("{", [], "config.json is not JSON"),
        ("[1]", [], "config.json holds JSON, but no object"),
        ("[" * 100_000, [], "config.json is not JSON"),
        ("{}", [], "hidden_size is missing"),
        ("{}", ["--section", "model"], "config.json has no section 'model'"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", [], "git lfs pull"),
    ],
)
def test_configs_that_are_none_end_the_command_in_one_line(
    tmp_path, text, arguments, named, capsys, monkeypatch
):
    (tmp_path / "config.json").write_text(text)
    test_port.torch_save(tmp_path / "model.pt", made(llama_shapes()))
    command = ["-m", "llama", str(tmp_path / "model.pt"), str(tmp_path / "run"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        exec_module()
    assert named in str(caught.value.code)
    assert "\n" not in str(caught.value.code)
    assert not (tmp_path / "run").exists()


def exec_module():
    runpy.run_module("hlm.port", run_name="__main__")


def test_the_command_ends_with_status_1_and_without_a_traceback(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(llama() | {"hidden_size": -8}))
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    done = subprocess.run(
        [sys.executable, "-m", "hlm.port", "llama", str(tmp_path), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "model.safetensors" in done.stderr
