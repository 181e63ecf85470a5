"""The parts of BLT against loops, its symbols, its thresholds, and its checkpoints under both sets
of names.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import Attention, Block, Bytes, Embed, Stack, SwiGLU
from hlm.checkpoint import graft
from hlm.nn.cross import ChunkMemory, CrossAttentionBlock, Memory
from hlm.papers.blt import PRIMES, CrossAttentionPool, NgramEmbed, bucket, peaks, threshold_for
from hlm.port import imported
from hlm.seq import Seq, boundaries, index_in_document
from hlm.split import Unsplit, Words
from hlm.train.optim import AdamW
from hlm.vocab import Renumbered

CLOSE = 1e-5
DOC = np.array([[1] * 9 + [2] * 8 + [0] * 3, [1] * 20])


def packed(seed=0, symbols=256):
    rng = np.random.default_rng(seed)
    doc = jnp.asarray(DOC, jnp.int32)
    return Seq(
        jnp.asarray(rng.integers(0, symbols, DOC.shape), jnp.int32),
        doc,
        index_in_document(doc),
        jnp.zeros(DOC.shape, jnp.uint8),
    )


def random_params(module, *arguments):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))["params"]
    return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape) * 0.4, a.dtype), shapes)


def rms(x, scale, eps=1e-5):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * scale


def attention(q_HK, k_THK, v_THK):
    """One query."""
    score_TH = np.einsum("hk,thk->th", q_HK, k_THK) / np.sqrt(q_HK.shape[-1])
    share_TH = np.exp(score_TH) / np.exp(score_TH).sum(0)
    return np.einsum("th,thk->hk", share_TH, v_THK)


# --- n-grams


@pytest.mark.parametrize(
    ("n", "prime", "buckets"),
    [(1, PRIMES[0], 97), (3, PRIMES[1], 500_002), (8, PRIMES[6], 2_000_000)],
)
def test_hashes_wrap_like_64_bit_integers(n, prime, buckets):
    """Against Python's integers; negative values come from bit 63. No n-gram reaches into another
    document.
    """
    seq = packed(symbols=260)
    ours, negative = (
        np.asarray(bucket(jnp.pad(seq.token, ((0, 0), (n - 1, 0))), seq.pos, n, prime, buckets)),
        0,
    )
    for row, (doc, token) in enumerate(zip(DOC, np.asarray(seq.token), strict=True)):
        for t in range(len(doc)):
            start = int(np.argmax(doc == doc[t]))
            window = [int(token[i]) if i >= start else 0 for i in range(t - n + 1, t + 1)]
            value = sum(symbol * prime**i for i, symbol in enumerate(window)) % 2**64
            value -= 2**64 * (value >= 2**63)
            negative += value < 0
            assert ours[row, t] == value % buckets
    assert negative > 5 or n == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"buckets": 2_000_001}, "buckets"),
        ({"ngrams": (0,)}, "ngrams"),
        ({"functions": 12}, "functions"),
    ],
)
def test_n_grams_out_of_range_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        NgramEmbed(4, **changes).init(jax.random.key(0), packed(), "float32")


# --- attention between elements and chunks


def cuts(seq):
    ends = np.random.default_rng(2).random(DOC.shape) < 0.4
    return boundaries(jnp.asarray(ends), seq, 12)[0]


def test_latents_read_their_chunk():
    seq, N, D = packed(), 3, 8
    b, pool = cuts(seq), CrossAttentionPool(3, 2, width=5, residuals=2)
    h = np.random.default_rng(3).standard_normal((*DOC.shape, D)).astype(np.float32)
    p = jax.tree.map(np.asarray, random_params(pool, h, b))
    ours = pool.apply({"params": p}, jnp.asarray(h), b)
    assert int(b.used.sum()) > 8
    for row, s in np.argwhere(b.used):
        x = h[row][np.asarray(b.member[row]) == s]
        z = (x.max(0) @ p["linear"]["kernel"]).reshape(N, D)
        q = np.einsum("nd,dhk->nhk", rms(z, p["query_scale"]), p["q"])
        k, v = (np.einsum("td,dhk->thk", rms(x, p["pool_scale"]), p[name]) for name in "kv")
        read = np.stack([np.einsum("hk,hkd->d", attention(q[i], k, v), p["o"]) for i in range(N)])
        np.testing.assert_allclose(
            ours[row, s],
            (2 * z + read).reshape(-1) @ p["project"]["kernel"],
            rtol=CLOSE,
            atol=CLOSE,
        )


def test_gradients_of_latents_are_finite_with_unused_chunks():
    seq = packed()
    b, pool, h = cuts(seq), CrossAttentionPool(2, 2), jnp.ones((*DOC.shape, 8))
    grads = jax.grad(lambda h: pool.apply({"params": random_params(pool, h, b)}, h, b).sum())(h)  # pyright: ignore
    assert not b.used.all()
    assert np.isfinite(grads).all()


def test_guided_elements_read_the_newest_visible_chunk():
    seq, N, D, E = packed(), 3, 8, 6
    b, block = cuts(seq), CrossAttentionBlock(2, Block(Attention(2), SwiGLU(4)), residuals=2)
    rng = np.random.default_rng(4)
    x, z = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((*DOC.shape, D), (2, 12, E))
    )
    guide = ChunkMemory(N, D)
    gp = random_params(guide, z, b)
    memory: Memory = guide.apply({"params": gp}, z, b)  # pyright: ignore[reportAssignmentType]
    p = jax.tree.map(np.asarray, random_params(block, x, seq, seq.doc, memory))
    # The block behind it does nothing.
    still = p | {"block": jax.tree.map(np.zeros_like, p["block"])}
    ours = block.apply({"params": still}, jnp.asarray(x), seq, seq.doc, memory)
    for row, t in np.argwhere(DOC > 0):
        slots = (z[row, b.seen[row, t]] @ np.asarray(gp["linear"]["kernel"])).reshape(N, D)
        q = np.einsum("d,dhk->hk", rms(x[row, t], p["query_scale"]), p["q"])
        k, v = (np.einsum("td,dhk->thk", rms(slots, p["slot_scale"]), p[name]) for name in "kv")
        expected = 2 * x[row, t] + np.einsum("hk,hkd->d", attention(q, k, v), p["o"])
        np.testing.assert_allclose(ours[row, t], expected, rtol=CLOSE, atol=CLOSE)
    # but it is there
    assert (
        np.abs(block.apply({"params": p}, jnp.asarray(x), seq, seq.doc, memory) - ours).max() > 0.1
    )


# --- entropy


def test_a_fitted_threshold_gives_the_wanted_size():
    entropy = np.random.default_rng(5).gamma(2.0, size=(1, 4000)).astype(np.float32)
    seq = Seq(
        *(jnp.asarray(a, jnp.int32) for a in (entropy * 0, entropy * 0 + 1, np.arange(4000)[None])),
        jnp.zeros((1, 4000), jnp.uint8),
    )
    for size in (1.5, 4.5, 8.0):
        ends = peaks(jnp.asarray(entropy), seq, threshold_for(entropy, size))
        assert 4000 / int(ends.sum()) == pytest.approx(size, rel=0.01)
    with pytest.raises(ValueError, match="size"):
        threshold_for(entropy, 0.5)


def test_no_chunk_is_longer_than_the_longest():
    seq = packed()
    ends = np.asarray(peaks(jnp.zeros(DOC.shape), seq, 1.0, longest=3))
    expected = np.isin(np.asarray(seq.pos) % 3, [0])
    assert np.array_equal(ends[DOC > 0], expected[DOC > 0])


def test_frozen_parameters_do_not_change():
    tree = {"segmenter": {"frozen": {"kernel": jnp.ones((2, 2))}}, "kernel": jnp.ones((2, 2))}
    optimizer = AdamW(peak=1.0, warmup=0).build(10)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
    assert not updates["segmenter"]["frozen"]["kernel"].any()
    assert updates["kernel"].all()


def test_parameters_are_put_at_a_part():
    old = {"a": {"b": {"x": jnp.zeros(2)}}, "c": jnp.zeros(3)}
    new = graft(old, "a/b", {"x": jnp.ones(2)})
    assert new["a"]["b"]["x"].all()
    assert not new["c"].any()
    with pytest.raises(ValueError, match="no 'd'"):
        graft(old, "a/d", {})
    with pytest.raises(ValueError, match="do not fit"):
        graft(old, "a/b", {"x": jnp.ones(3)})


# --- symbols and names


@pytest.mark.parametrize("text", [b"", b"a b", bytes(range(256))])
def test_renumbered_bytes(text):
    renumbered, plain = (codec(Words(longest=5)) for codec in (Renumbered, Bytes))
    for complete in (True, False):
        ours, reference = renumbered.encode(text, complete), plain.encode(text, complete)
        assert ours.token[0] == 1
        assert ours.token[-1] == 2 or not complete
        assert np.array_equal(
            ours.token[1 : len(text) + 1], np.frombuffer(text, np.uint8).astype(int) + 4
        )
        assert np.array_equal(ours.level, reference.level)
        assert np.array_equal(ours.nbytes, reference.nbytes)
        assert renumbered.decode(ours.token) == text
        if not complete:
            assert np.array_equal(renumbered.levels(ours.token), reference.level)
    with pytest.raises(ValueError, match="split"):
        Renumbered(Words(eow=True))


# (transformers' name, Meta's, shape); d = 4 bytes, D = 6 chunks, k = 2, so that there is a
# projection 8 -> 6
NAMES = [
    ("lm_head", "local_decoder.output", (260, 4)),
    ("model.local_encoder.embed_tokens", "local_encoder.tok_embeddings", (260, 4)),
    (
        "model.local_encoder.patch_embedding_projection",
        "local_encoder.patch_embedding_projection",
        (8, 4),
    ),
    (
        "model.local_decoder.patch_embedding_projection",
        "local_decoder.patch_embedding_projection",
        (8, 6),
    ),
    ("model.local_decoder.norm", "local_decoder.norm", (4,)),
    (
        "model.global_transformer.token_embedding_projection",
        "global_transformer.token_embedding_projection",
        (6, 8),
    ),
    ("model.patcher.embed_tokens", "patcher.tok_embeddings", (260, 2)),
    ("model.patcher.norm", "patcher.norm", (2,)),
    ("model.patcher.lm_head", "patcher.output", (260, 2)),
]
for stack, depth, width in (
    ("local_encoder", 1, 4),
    ("local_decoder", 2, 4),
    ("global_transformer", 1, 6),
    ("patcher", 1, 2),
):
    for i in range(depth):
        for theirs, metas, shape in (
            ("self_attn.q_proj", "attention.wq", (width, width)),
            ("self_attn.k_proj", "attention.wk", (width, width)),
            ("self_attn.v_proj", "attention.wv", (width, width)),
            ("self_attn.o_proj", "attention.wo", (width, width)),
            ("mlp.gate_proj", "feed_forward.w1", (16, width)),
            ("mlp.up_proj", "feed_forward.w3", (16, width)),
            ("mlp.down_proj", "feed_forward.w2", (width, 16)),
            ("input_layernorm", "attention_norm", (width,)),
            ("post_attention_layernorm", "ffn_norm", (width,)),
        ):
            NAMES.append(
                (f"model.{stack}.layers.{i}.{theirs}", f"{stack}.layers.{i}.{metas}", shape)
            )
        if stack.startswith("local"):
            for theirs, metas in (
                ("q_proj", "wq"),
                ("k_proj", "wk"),
                ("v_proj", "wv"),
                ("o_proj", "wo"),
            ):
                here = f"{stack}.cross_attn_layers.{i}"
                NAMES.append((f"model.{here}.{theirs}", f"{here}.{metas}", (4, 4)))
            NAMES.append((f"model.{here}.q_norm", f"{here}.cross_attn_norm_q", (4,)))
            NAMES.append((f"model.{here}.k_norm", f"{here}.cross_attn_norm_kv", (4,)))

META_CONFIG = {
    "args": {
        "vocab_size": 260,
        "max_encoder_seq_length": 64,
        "cross_attn_k": 2,
        "cross_attn_all_layers_decoder": True,
        "cross_attn_all_layers_encoder": False,
        "encoder_hash_byte_group_size": [3, 5],
        "encoder_hash_byte_group_vocab": 7,
        "encoder_hash_byte_group_nb_functions": 1,
        "dim_local_encoder": 4,
        "dim_local_decoder": 4,
        "dim_global": 6,
        "n_layers_local_encoder": 1,
        "n_layers_local_decoder": 2,
        "n_layers_global": 1,
        "n_heads_local_encoder": 1,
        "n_heads_local_decoder": 1,
        "n_heads_global": 1,
        "multiple_of": 16,
        "rope_theta": 500000.0,
        "local_attention_window_len": 8,
    },
    "entropy_model": {
        "vocab_size": 260,
        "dim": 2,
        "n_layers": 1,
        "n_heads": 1,
        "multiple_of": 16,
        "rope_theta": 10000.0,
        "sliding_window": 4,
    },
    "data": {
        "patcher_args": {"threshold": 1.3, "max_patch_length": None, "patching_mode": "entropy"}
    },
}


def part(width, layers, theta=500000.0, **more):
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "intermediate_size": 16,
        "rope_parameters": {"rope_theta": theta},
        **more,
    }


CONFIG = {
    "vocab_size": 260,
    "max_position_embeddings": 64,
    "patching_mode": "entropy",
    "patching_threshold": 1.3,
    "cross_attn_k": 2,
    "encoder_hash_byte_group_size": [3, 5],
    "encoder_hash_byte_group_vocab": 7,
    "encoder_hash_byte_group_nb_functions": 1,
    "encoder_config": part(4, 1, sliding_window=8, cross_attn_all_layers=False),
    "decoder_config": part(4, 2, cross_attn_all_layers=True),
    "global_config": part(6, 1),
    "patcher_config": part(2, 1, 10000.0, vocab_size=260, sliding_window=4),
}


def weights():
    rng = np.random.default_rng(6)
    arrays = {
        names: rng.standard_normal(shape).astype(np.float32)
        for *names_, shape in NAMES
        for names in [tuple(names_)]
    }
    ngrams = rng.standard_normal((2, 7, 4)).astype(np.float32)
    theirs = {f"{a}.weight": w for (a, _), w in arrays.items()} | {
        "model.encoder_hash_tok_embedding.weight": ngrams.reshape(14, 4)
    }
    metas = {f"{b}.weight": w for (_, b), w in arrays.items()}
    return theirs, metas | {f"encoder_hash_tok_embedding.{i}.weight": ngrams[i] for i in range(2)}


def test_both_sets_of_names_give_one_model():
    theirs, metas = weights()
    model, length, params, _ = imported("blt", theirs, CONFIG)
    other, other_length, other_params, _ = imported("blt", metas, META_CONFIG)
    assert model == other
    assert length == other_length == 64
    jax.tree.map(np.testing.assert_array_equal, params, other_params)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"patching_mode": "space"}, "patching_mode"),
        ({"patch_in_forward": False}, "patch_in_forward"),
        ({"decoder_config": part(4, 2, cross_attn_all_layers=False)}, "cross_attn_all_layers"),
        ({"decoder_config": part(6, 2)}, "hidden_size"),
    ],
)
def test_what_cannot_be_imported_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        imported("blt", weights()[0], CONFIG | changes)


def test_the_frozen_model_can_stand_alone():
    """The entropy model's parameters are those of a flat LM of the same sizes, so one can be
    trained alone and put in.
    """
    model, *_ = imported("blt", weights()[0], CONFIG)
    flat = model.trunk.segmenter.frozen  # pyright: ignore
    assert isinstance(flat.embed, Embed)
    assert isinstance(flat.trunk, Stack)
    assert flat.codec == Renumbered(Unsplit())
