"""Configs and shapes of weights of a made-up checkpoint of every format, for the tests of ports."""

import copy

import jax
import numpy as np

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
