"""The runner finds what is wrong, on a case made here: a Llama written down once more in numpy."""

import json

import numpy as np
import pytest

from tests.parity.__main__ import main
from tests.parity.common import gradient

D, H, L, FF, T = 8, 2, 2, 12, 9


def made() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"emb": (256, D), "nf": (D,), "head": (256, D)}
    for i in range(L):
        shapes |= {
            f"qkv.{i}": (3 * D, D),
            f"o.{i}": (D, D),
            f"gu.{i}": (2 * FF, D),
            f"dn.{i}": (D, FF),
            f"n1.{i}": (D,),
            f"n2.{i}": (D,),
        }
    w = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x = rng.integers(0, 256, (2, T + 1))
    logits = forward(w, x[:, :-1])
    chosen = np.take_along_axis(logits, x[:, 1:, None], -1)[..., 0]
    loss = (np.log(np.exp(logits).sum(-1)) - chosen).mean()
    numbers = {
        "logits64": logits,
        "logits32": logits.astype(np.float32),
        "loss64": loss,
        "loss32": np.float32(loss),
    }
    return {"x": x, **numbers, **{f"sd/{k}.weight": a.astype(np.float32) for k, a in w.items()}}


def forward(w, token):
    y = w["emb"][token]
    for i in range(L):
        q, k, v = np.split(norm(y) * w[f"n1.{i}"] @ w[f"qkv.{i}"].T, 3, -1)
        out = [
            attend(*(a[..., h * D // H : (h + 1) * D // H] for a in (q, k, v))) for h in range(H)
        ]
        y = y + np.concatenate(out, -1) @ w[f"o.{i}"].T
        gate, up = np.split(norm(y) * w[f"n2.{i}"] @ w[f"gu.{i}"].T, 2, -1)
        y = y + gate / (1 + np.exp(-gate)) * up @ w[f"dn.{i}"].T
    return norm(y) * w["nf"] @ w["head"].T


def norm(y):
    return y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5)


def attend(q, k, v):
    n = q.shape[-1] // 2
    angle = np.arange(T)[:, None] * 10000.0 ** (-np.arange(n) / n)
    turn = np.exp(1j * angle)

    def turned(a):
        z = (a[..., :n] + 1j * a[..., n:]) * turn
        return np.concatenate([z.real, z.imag], -1)

    score = turned(q) @ turned(k).swapaxes(1, 2) / np.sqrt(2 * n)
    score = np.where(np.tri(T, dtype=bool), score, -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True) @ v


def write(folder, name, arrays, peer):
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(
        json.dumps({"peer": peer, "config": {"d": D, "L": L, "H": H, "ff": FF, "vocab": 256}})
    )


def test_a_folder_of_cases(tmp_path, capsys):
    arrays = made()
    write(tmp_path, "good", arrays, "nano_other_seed")
    assert main(tmp_path, ()) == 0
    assert "1 cases, 0 failures" in capsys.readouterr().out
    write(
        tmp_path,
        "bad",
        arrays | {"logits64": arrays["logits64"] + 2e-4, "logits32": arrays["logits32"] + 2e-4},
        "nano",
    )
    write(tmp_path, "short", {k: a for k, a in arrays.items() if k != "sd/nf.weight"}, "nano")
    write(tmp_path, "orphan", arrays, "unheard-of")
    assert main(tmp_path, ("good",)) == 0
    capsys.readouterr()
    assert main(tmp_path, ()) == 1
    out = capsys.readouterr().out
    assert "4 cases, 3 failures" in out
    assert "missing weight model.norm.weight" in out
    assert "no handler for unheard-of" in out
    assert main(tmp_path, ("nothing",)) == 1


@pytest.mark.parametrize(("change", "ok"), [(0.9e-4, True), (1.1e-4, False), (np.nan, False)])
def test_gradients_are_compared_relative_to_their_own_size(change, ok):
    theirs = {"large": np.ones(3), "small": np.full(3, 0.01), "negligible": np.full(3, 1e-6)}
    ours = {**theirs, "small": theirs["small"] * (1 + change)}
    assert gradient(ours, theirs).ok is ok
    assert gradient({**theirs, "negligible": np.full(3, 1.05e-6)}, theirs).ok
