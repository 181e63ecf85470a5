"""TFree-HAT from foreign weights against a slow one: loops over words and bytes, in numpy, by the
words of the splitter's own package.
"""

import functools

import jax
import numpy as np
import pytest
from hat_splitter import HATSplitter as Package

from hlm import Rope, config
from hlm.nn.rope import Llama3Rope
from hlm.port import imported
from hlm.seq import Batch

CLOSE = 2e-4
EPS = 1e-5
TEXTS = ("Hello, world! It's 3.14 o'clock", "naïve 漢字 äöü — δ, x\n\ny", "a")
LLAMA3 = dict(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def part(width, layers, heads, kv_heads, **more):
    sizes = dict(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    return (
        sizes
        | dict(rms_norm_eps=EPS, intermediate_size=2 * width, rope_theta=100.0, rope_scaling=None)
        | more
    )


CONFIG = {
    "encoder_config": part(
        8,
        2,
        2,
        1,
        sliding_window=6,
        cross_attention_config=dict(
            hidden_size=16,
            hidden_size_q=16,
            hidden_size_kv=8,
            num_attention_heads=4,
            attention_num_kv_heads=2,
        ),
    ),
    "backbone_config": part(16, 2, 4, 2, rope_scaling=LLAMA3),
    "decoder_config": part(
        8,
        2,
        2,
        2,
        sliding_window=5,
        vocab_size=256,
        cross_attn_every_layer=True,
        cross_attention_config=dict(
            hidden_size=8,
            hidden_size_q=8,
            hidden_size_kv=16,
            num_attention_heads=2,
            attention_num_kv_heads=1,
        ),
    ),
    "eos_token_id": 192,
    "special_token_dict": {"<|eot_id|>": 192, "<|begin_of_text|>": 193},
    "max_word_size": 100,
    "max_position_embeddings": 64,
}


def names():
    """Foreign name -> shape."""
    encoder, backbone, decoder = (CONFIG[f"{p}_config"] for p in ("encoder", "backbone", "decoder"))
    shapes = {
        "encoder.embedding_layer.weight": (256, 8),
        "layer_norm.weight": (8,),
        "lm_head.weight": (256, 8),
    }
    shapes |= {
        "encoder_connector.latent_query": (1, 1, 16),
        "decoder_connector.first_word_embedding": (1, 1, 16),
    }

    def llama(prefix, c):
        width, kv = (
            c["hidden_size"],
            c["hidden_size"] * c["num_key_value_heads"] // c["num_attention_heads"],
        )
        for name, shape in (
            ("q", (width, width)),
            ("k", (kv, width)),
            ("v", (kv, width)),
            ("o", (width, width)),
        ):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = shape
        for name, shape in (
            ("gate", (2 * width, width)),
            ("up", (2 * width, width)),
            ("down", (width, 2 * width)),
        ):
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = shape
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[
            f"{prefix}.post_attention_layernorm.weight"
        ] = (width,)

    def cross(prefix, c):
        kv = c["hidden_size"] * c["attention_num_kv_heads"] // c["num_attention_heads"]
        shapes[f"{prefix}.q_proj.weight"] = (c["hidden_size"], c["hidden_size_q"])
        shapes[f"{prefix}.k_proj.weight"] = shapes[f"{prefix}.v_proj.weight"] = (
            kv,
            c["hidden_size_kv"],
        )
        shapes[f"{prefix}.o_proj.weight"] = (c["hidden_size_q"], c["hidden_size"])

    for i in range(2):
        llama(f"encoder.layers.{i}", encoder)
        llama(f"backbone.layers.{i}", backbone)
        llama(f"decoder.decoder_layers.{i}.llama_layer", decoder)
        cross(f"decoder.decoder_layers.{i}.cross_attention", decoder["cross_attention_config"])
        shapes |= {
            f"decoder.decoder_layers.{i}.query_norm.weight": (8,),
            f"decoder.decoder_layers.{i}.kv_norm.weight": (16,),
        }
    cross("encoder_connector.cross_attention_encoder_connector", encoder["cross_attention_config"])
    return shapes


@functools.cache
def weights():
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) * 0.5 + name.endswith("norm.weight")).astype(np.float32)
        for name, shape in names().items()
    }


# --- the slow one


def rms(x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + EPS) * scale


def turned(x_HK, position, c):
    half = x_HK.shape[-1] // 2
    frequency = c["rope_theta"] ** (-np.arange(half) / half)
    if c["rope_scaling"]:
        s, scaled = c["rope_scaling"], []
        for f in frequency:
            wave = 2 * np.pi / f
            old = s["original_max_position_embeddings"]
            smooth = (old / wave - s["low_freq_factor"]) / (
                s["high_freq_factor"] - s["low_freq_factor"]
            )
            if wave > old / s["low_freq_factor"]:
                f = f / s["factor"]
            elif wave >= old / s["high_freq_factor"]:
                f = (1 - smooth) * f / s["factor"] + smooth * f
            scaled.append(f)
        frequency = np.array(scaled)
    a, b = x_HK[:, :half], x_HK[:, half:]
    cos, sin = np.cos(position * frequency), np.sin(position * frequency)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q_HK, k_TGK, v_TGK):
    """One query over some keys."""
    repeat = q_HK.shape[0] // k_TGK.shape[1]
    k, v = np.repeat(k_TGK, repeat, 1), np.repeat(v_TGK, repeat, 1)
    score_TH = np.einsum("hk,thk->th", q_HK, k) / np.sqrt(q_HK.shape[-1])
    share_TH = np.exp(score_TH - score_TH.max(0))
    return np.einsum("th,thk->hk", share_TH / share_TH.sum(0), v).reshape(-1)


def llama(w, prefix, c, x_TD):
    heads, window = c["num_attention_heads"], c.get("sliding_window") or len(x_TD)
    y = rms(x_TD, w[f"{prefix}.input_layernorm.weight"])
    q, k, v = (
        (y @ w[f"{prefix}.self_attn.{n}_proj.weight"].T).reshape(
            len(x_TD), -1, c["hidden_size"] // heads
        )
        for n in ("q", "k", "v")
    )
    q, k = (np.stack([turned(row, t, c) for t, row in enumerate(a)]) for a in (q, k))
    o = np.stack(
        [
            attend(q[t], *(a[max(0, t - window + 1) : t + 1] for a in (k, v)))
            for t in range(len(x_TD))
        ]
    )
    x_TD = x_TD + o @ w[f"{prefix}.self_attn.o_proj.weight"].T
    y = rms(x_TD, w[f"{prefix}.post_attention_layernorm.weight"])
    gate, up = (y @ w[f"{prefix}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
    return x_TD + (gate / (1 + np.exp(-gate)) * up) @ w[f"{prefix}.mlp.down_proj.weight"].T


def slow(w, words):
    """Logits [bytes, 256] for words of symbols; the first byte of a word is guided from its first
    character's last byte on.
    """
    encoder, backbone, decoder = (CONFIG[f"{p}_config"] for p in ("encoder", "backbone", "decoder"))
    tokens = [t for word in words for t in word]
    h = w["encoder.embedding_layer.weight"][tokens]
    for i in range(2):
        h = llama(w, f"encoder.layers.{i}", encoder, h)
    at, z = 0, []
    name = "encoder_connector.cross_attention_encoder_connector"
    for j, word in enumerate(words):
        x = h[at : at + len(word)]
        q = turned(
            (w[f"{name}.q_proj.weight"] @ w["encoder_connector.latent_query"][0, 0]).reshape(4, 4),
            j,
            encoder,
        )
        k, v = ((x @ w[f"{name}.{n}_proj.weight"].T).reshape(len(word), 2, 4) for n in ("k", "v"))
        k = np.stack([turned(row, at + t, encoder) for t, row in enumerate(k)])
        z.append(w[f"{name}.o_proj.weight"] @ attend(q, k, v))
        at += len(word)
    z = np.stack(z)
    for i in range(2):
        z = llama(w, f"backbone.layers.{i}", backbone, z)
    guides = np.concatenate([w["decoder_connector.first_word_embedding"][0], z])
    seen = []
    for j, word in enumerate(words):
        first = (
            next((i for i in range(1, len(word)) if not 0x80 <= word[i] < 0xC0), len(word))
            if word[0] < 256
            else 1
        )
        # The word behind BOS is known to begin there.
        seen += [j - (i < first - 1 and j > 1) for i in range(len(word))]
    guide = guides[seen]
    for i in range(2):
        here = f"decoder.decoder_layers.{i}"
        v = rms(guide, w[f"{here}.kv_norm.weight"]) @ w[f"{here}.cross_attention.v_proj.weight"].T
        # one head's values for both heads
        h = h + np.concatenate([v, v], -1) @ w[f"{here}.cross_attention.o_proj.weight"].T
        h = llama(w, f"{here}.llama_layer", decoder, h)
    return rms(h, w["layer_norm.weight"]) @ w["lm_head.weight"].T


@functools.cache
def ours():
    model, length, params, _ = imported("hat", weights(), CONFIG)
    model = config.replace(model, trunk=config.replace(model.trunk, capacity=length))
    return (
        model,
        length,
        params,
        jax.jit(lambda params, batch: model.apply({"params": params}, batch, method="logits")),
    )


def batch(rows, length):
    """Rows of encoded texts."""
    fields = {
        f: np.zeros((len(rows), length), t)
        for f, t in (("token", np.int32), ("doc", np.int32), ("level", np.uint8))
    }
    for i, row in enumerate(rows):
        at = 0
        for number, encoded in enumerate(row, 1):
            n = len(encoded.token)
            for field, values in (
                ("token", encoded.token),
                ("level", encoded.level),
                ("doc", number),
            ):
                fields[field][i, at : at + n] = values
            at += n
    zero = np.zeros((len(rows), length))
    return Batch(
        **fields,
        target=zero.astype(np.int32),
        weight=zero.astype(np.float32),
        nbytes=zero.astype(np.uint8),
    )


def test_imported_model_is_the_slow_one():
    """Texts with characters of one, two and three bytes at words' beginnings; one row holds two
    texts.
    """
    model, length, params, run = ours()
    encoded = [model.codec.encode(text.encode(), complete=False) for text in TEXTS]
    logits = np.asarray(run(params, batch([[encoded[0]], [encoded[1], encoded[2]]], length)))[
        :, :, 0
    ]
    n = len(encoded[1].token)
    found = (
        logits[0, : len(encoded[0].token)],
        logits[1, :n],
        logits[1, n : n + len(encoded[2].token)],
    )
    for text, got in zip(TEXTS, found, strict=True):
        words = [[193], *(list(word) for word in Package().split_with_limit(text, 100))]
        np.testing.assert_allclose(
            got, slow(weights(), words), atol=CLOSE, rtol=CLOSE, err_msg=text
        )


def test_texts_with_marks_are_refused():
    with pytest.raises(ValueError, match="byte 192"):
        ours()[0].codec.encode(b"a\xc0")


def test_low_frequencies_are_stretched():
    """At positions far behind the first training, as many turns as within it."""
    plain, long = Rope(1e6), Llama3Rope(1e6, factor=8.0, length=512)
    ratio = np.asarray(plain.frequencies(16) / long.frequencies(16))
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(8)
    assert np.all(np.diff(ratio) >= 0)


@pytest.mark.parametrize(
    ("where", "change", "named"),
    [
        ("decoder_config", {"cross_attn_every_layer": False}, "cross_attn_every_layer"),
        ("encoder_config", {"key_query_norm": True}, "key_query_norm"),
        ("backbone_config", {"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
    ],
)
def test_what_cannot_be_imported_is_refused(where, change, named):
    with pytest.raises(ValueError, match=named):
        imported("hat", weights(), CONFIG | {where: CONFIG[where] | change})
