"""Import of H-Net in two stages against a slow H-Net on the weights' own names, one element after
the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hlm import config
from hlm.port import imported
from hlm.seq import Batch

CONFIG = {
    "arch_layout": ["m1T1", ["T1M2", ["t1T1"], "m1t2"], "M1"],
    "d_model": [16, 16, 24],
    "d_intermediate": [24, 40, 40],
    "vocab_size": 256,
    "ssm_cfg": {"chunk_size": 8, "d_conv": 3, "d_state": 4, "expand": 2},
    "attn_cfg": {"num_heads": [2, 4, 2], "rotary_emb_dim": [4, 2, 6], "window_size": [5, 3, -1]},
}
HEADS = 4  # of each Mamba-2
T = 24


def letters(layout):
    return [a for a, n in zip(layout[::2], layout[1::2], strict=True) for _ in range(int(n))]


def weights(seed=0):
    rng, out = np.random.default_rng(seed), {}

    def add(name, *shape, around=0.0):
        out[name] = (around + rng.normal(0, 0.3, shape)).astype(np.float32)

    def stack(name, layout, i):
        D, inner, N = CONFIG["d_model"][i], 2 * CONFIG["d_model"][i], CONFIG["ssm_cfg"]["d_state"]
        for n, letter in enumerate(letters(layout)):
            at = f"{name}.layers.{n}"
            add(f"{at}.norm1.weight", D, around=1)
            if letter in "mM":
                add(f"{at}.mixer.in_proj.weight", 2 * inner + 2 * N + HEADS, D)
                add(f"{at}.mixer.conv1d.weight", inner + 2 * N, 1, CONFIG["ssm_cfg"]["d_conv"])
                add(f"{at}.mixer.conv1d.bias", inner + 2 * N)
                for key in ("dt_bias", "A_log", "D"):
                    add(f"{at}.mixer.{key}", HEADS)
                add(f"{at}.mixer.norm.weight", inner, around=1)
                add(f"{at}.mixer.out_proj.weight", D, inner)
            else:
                add(f"{at}.mixer.Wqkv.weight", 3 * D, D)
                add(f"{at}.mixer.out_proj.weight", D, D)
            if letter.isupper():
                add(f"{at}.norm2.weight", D, around=1)
                add(f"{at}.mlp.fc1.weight", 2 * CONFIG["d_intermediate"][i], D)
                add(f"{at}.mlp.fc2.weight", D, CONFIG["d_intermediate"][i])
        add(f"{name}.rmsnorm.weight", D, around=1)

    def stage(name, layout, i):
        D = CONFIG["d_model"][i]
        if i and CONFIG["d_model"][i - 1] < D:
            add(f"{name}.pad_dimension", D - CONFIG["d_model"][i - 1])
        if len(layout) == 1:
            stack(f"{name}.main_network", layout[0], i)
            return
        stack(f"{name}.encoder", layout[0], i)
        stack(f"{name}.decoder", layout[2], i)
        for key in ("routing_module.q_proj_layer", "routing_module.k_proj_layer", "residual_proj"):
            add(f"{name}.{key}.weight", D, D)
        add(f"{name}.residual_proj.bias", D)
        stage(f"{name}.main_network", layout[1], i + 1)

    add("embeddings.weight", 256, CONFIG["d_model"][0])
    add("lm_head.weight", 256, CONFIG["d_model"][0])
    stage("backbone", CONFIG["arch_layout"], 0)
    return out


def silu(x):
    return x / (1 + np.exp(-x))


def rms(x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-5) * scale


def mamba(w, at, x):
    inner, N = 2 * x.shape[1], CONFIG["ssm_cfg"]["d_state"]
    z, mixed, dt = np.split(x @ w[f"{at}.in_proj.weight"].T, [inner, 2 * inner + 2 * N], axis=1)
    tap = w[f"{at}.conv1d.weight"][:, 0]
    padded = np.pad(mixed, ((tap.shape[1] - 1, 0), (0, 0)))
    mixed = silu(
        w[f"{at}.conv1d.bias"]
        + sum(padded[k : k + len(x)] * tap[:, k] for k in range(tap.shape[1]))
    )
    dt, h, y = np.log1p(np.exp(dt + w[f"{at}.dt_bias"])), np.zeros((HEADS, inner // HEADS, N)), []
    for t, (v, b, c) in enumerate(zip(*np.split(mixed, [inner, inner + N], axis=1), strict=True)):
        v = v.reshape(HEADS, -1)
        h = (
            np.exp(-dt[t] * np.exp(w[f"{at}.A_log"]))[:, None, None] * h
            + dt[t][:, None, None] * v[..., None] * b
        )
        y.append((h @ c + w[f"{at}.D"][:, None] * v).ravel())
    return rms(np.array(y) * silu(z), w[f"{at}.norm.weight"]) @ w[f"{at}.out_proj.weight"].T


def attention(w, at, x, i):
    H, r, back = (
        CONFIG["attn_cfg"][key][i] for key in ("num_heads", "rotary_emb_dim", "window_size")
    )
    q, k, v = (a.reshape(len(x), H, -1) for a in np.split(x @ w[f"{at}.Wqkv.weight"].T, 3, axis=1))
    angle = np.arange(len(x))[:, None, None] * 10000.0 ** (-np.arange(0, r, 2) / r)

    def turn(a):
        a1, a2 = a[..., : r // 2], a[..., r // 2 : r]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a1 * cos - a2 * sin, a2 * cos + a1 * sin, a[..., r:]], -1)

    score = np.einsum("qhk,thk->hqt", turn(q), turn(k)) / np.sqrt(q.shape[-1])
    behind = np.arange(len(x))[:, None] - np.arange(len(x))
    score = np.where((behind >= 0) & ((back < 0) | (behind <= back)), score, -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    out = np.einsum("hqt,thk->qhk", share / share.sum(-1, keepdims=True), v)
    return out.reshape(len(x), -1) @ w[f"{at}.out_proj.weight"].T


def stack(w, name, layout, x, i):
    for n, letter in enumerate(letters(layout)):
        at = f"{name}.layers.{n}"
        h = rms(x, w[f"{at}.norm1.weight"])
        x = x + (
            mamba(w, f"{at}.mixer", h) if letter in "mM" else attention(w, f"{at}.mixer", h, i)
        )
        if letter.isupper():
            up, gate = np.split(
                rms(x, w[f"{at}.norm2.weight"]) @ w[f"{at}.mlp.fc1.weight"].T, 2, axis=1
            )
            x = x + (up * silu(gate)) @ w[f"{at}.mlp.fc2.weight"].T
    return rms(x, w[f"{name}.rmsnorm.weight"])


def stage(w, name, layout, x, i, counts):
    D = x.shape[1]
    if f"{name}.pad_dimension" in w:
        x = np.concatenate([x, np.tile(w[f"{name}.pad_dimension"], (len(x), 1))], axis=1)
    counts.append(len(x))
    if len(layout) == 1:
        return stack(w, f"{name}.main_network", layout[0], x, i)[:, :D]
    h = stack(w, f"{name}.encoder", layout[0], x, i)
    q, k = (h @ w[f"{name}.routing_module.{key}_proj_layer.weight"].T for key in "qk")
    q, k = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, k))
    p = np.concatenate([[1.0], (1 - np.sum(q[:-1] * k[1:], axis=1)) / 2])
    z = stage(w, f"{name}.main_network", layout[1], h[p > 0.5], i + 1, counts)
    mean, means = np.zeros(z.shape[1]), []
    for share, chunk in zip(np.clip(p[p > 0.5], 1e-4, 1 - 1e-4), z, strict=True):
        mean = share * chunk + (1 - share) * mean
        means.append(mean)
    out = (
        np.array(means)[np.cumsum(p > 0.5) - 1]
        + h @ w[f"{name}.residual_proj.weight"].T
        + w[f"{name}.residual_proj.bias"]
    )
    return stack(w, f"{name}.decoder", layout[2], out, i)[:, :D]


def test_two_stages_of_unequal_blocks():
    w = weights()
    model, _, params, _ = imported("hnet", w, CONFIG)
    inner = config.replace(model.trunk.backbone, capacity=T)
    model = config.replace(model, trunk=config.replace(model.trunk, capacity=T, backbone=inner))
    x = np.random.default_rng(1).integers(0, 254, (1, T)).astype(np.int32)
    ones, small = np.ones((1, T), np.int32), np.ones((1, T), np.uint8)
    batch = Batch(
        token=x, doc=ones, level=small, target=x, weight=np.ones((1, T), np.float32), nbytes=small
    )
    logits = jax.jit(lambda p, b: model.apply({"params": p}, b, method="logits"))(
        params, jax.tree.map(jnp.asarray, batch)
    )
    double, counts = {name: a.astype(np.float64) for name, a in w.items()}, []
    y = stage(
        double, "backbone", CONFIG["arch_layout"], double["embeddings.weight"][x[0]], 0, counts
    )
    assert T > counts[1] > counts[2] > 1
    np.testing.assert_allclose(
        logits[0, :, 0], y @ double["lm_head.weight"].T, rtol=1e-4, atol=1e-4
    )


def test_a_layout_of_other_letters_is_refused():
    with pytest.raises(ValueError, match="arch_layout: 'x4'"):
        imported("hnet", weights(), CONFIG | {"arch_layout": ["x4", ["T1"], "m1"]})
