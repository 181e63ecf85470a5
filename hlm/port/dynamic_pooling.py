"""Checkpoints of PiotrNawrot/dynamic-pooling (`hourglass.py`); config keys as in the `model` part
of its YAML files.

The released models have no symbols but their characters. Here BOS stands first: its chunk is the
learned null vector, it meets no byte, and it predicts the first one, which the released models
never do. Biases of keys and distances are dropped: softmax does not see them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.pool import Mean
from hlm.model.segment import Level
from hlm.model.unpool import Broadcast
from hlm.nn.basic import LayerNorm
from hlm.nn.feed_forward import GELU
from hlm.nn.relative import RelativeAttention, RelativeBias
from hlm.nn.stack import PostNormBlock, Stack
from hlm.papers.dynamic_pooling import Gumbel, Predicted, Spikes
from hlm.port.keys import (
    LONGEST,
    Key,
    Wrong,
    checked,
    divides,
    harmless,
    maybe,
    only,
    real,
    shown,
    whole,
)
from hlm.port.table import Row, head, into_heads, matrix, out_of_heads
from hlm.split import After, Fixed, Unsplit
from hlm.vocab import Characters

LENGTH = 2048  # characters in a row of the released training, unless the config has `tgt_len`
MODEL_CONFIG = re.compile(
    r"\[\s*(\d{1,4})\s*,\s*\(\s*(\d{1,4})\s*,\s*\)\s*,\s*(\d{1,4})\s*\]", re.ASCII
)
RULES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "fixed": lambda c: Fixed(c["fixed_sf"], first=1),
    "whitespaces": lambda c: After((c["whitespace_id"],)),
}
LEARNED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "gumbel": lambda c: Gumbel(c["d_inner"], prior=c["prior"], temperature=c["temp"]),
    "entropy": lambda c: Predicted(c["d_inner"], squashed=True),
}
NEEDS = {
    "fixed": ("fixed_sf",),
    "whitespaces": ("whitespace_id",),
    "gumbel": ("prior", "temp"),
    "entropy": ("spikes_left",),
}


def depths(name: str, value: Any) -> tuple[int, int, int]:
    """Depths before, inside and behind the shortened part."""
    found = (
        MODEL_CONFIG.fullmatch(value.strip())
        if isinstance(value, str) and len(value) < 100
        else None
    )
    if found is None:
        raise Wrong(f"{name} {shown(value)} (only text such as '[2, (8,), 2]')")
    before, inside, behind = (int(depth) for depth in found.groups())
    return before, inside, behind


KEYS = {
    # Texts, training and evaluation, which stand beside the model in the YAML files.
    **harmless(
        """
        adam_b1 adam_b2 adam_eps batch_chunk batch_size clip cuda data dataset dropatt dropout
        eval_interval eval_max_steps eval_tgt_len eval_total_len fp16 log_interval lr max_step
        nw optim roll scheduler seed shuffle tokenizer_path warmup_step weight_decay work_dir
 """
    ),
    "n_token": Key(whole(most=256)),
    "n_head": Key(whole(most=1 << 12)),
    "d_model": Key(whole(least=2)),
    "d_head": Key(whole()),
    "d_inner": Key(whole()),
    "pre_lnorm": Key(only(False)),
    "activation_function": Key(only("gelu")),
    "model_config": Key(depths),
    "boundaries_type": Key(only("none", *RULES, *LEARNED)),
    "fixed_sf": Key(maybe(whole(most=1 << 12)), None),
    "whitespace_id": Key(maybe(whole(least=0, most=255)), None),
    "prior": Key(maybe(real(1e-6, 1)), None),
    "temp": Key(maybe(real(1e-6, 1e6)), None),
    "spikes_left": Key(maybe(whole(most=1 << 12)), None),
    "tgt_len": Key(whole(most=LONGEST - 1), LENGTH),
}


def sizes(config: Any) -> dict[str, Any]:
    """The checked config, with what its kind of boundaries needs."""
    c = checked(config, KEYS)
    kind, (before, inside, behind) = c["boundaries_type"], c["model_config"]
    for name in NEEDS.get(kind, ()):
        if c[name] is None:
            raise ValueError(f"config: {name} is missing, which boundaries_type {kind!r} needs")
    if kind == "none" and (inside or behind):
        raise ValueError(
            f"config: model_config {(before, inside, behind)} has a shortened part, but "
            "boundaries_type is 'none'"
        )
    divides("2", 2, "d_model", c["d_model"])
    return c


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    c = sizes(config)
    kind = c["boundaries_type"]
    length = 1 + c["tgt_len"]
    codec = Characters(split=RULES[kind](c) if kind in RULES else Unsplit(), known=c["n_token"])

    def stack(depth: int, isolate_bos: bool) -> Stack:
        mixer = RelativeAttention(c["n_head"], c["d_head"])
        return Stack(
            depth,
            PostNormBlock(mixer, GELU(c["d_inner"])) if depth else None,
            isolate_bos=isolate_bos,
        )

    before, inside, behind = c["model_config"]
    trunk = stack(before, True)
    if kind != "none":
        trunk = Hierarchy(
            encoder=trunk,
            segmenter=Level(1) if kind in RULES else LEARNED[kind](c),
            pool=Mean(None, norm=LayerNorm(), null=True),
            backbone=stack(inside, False),
            unpool=Broadcast(project=False),
            decoder=stack(behind, True),
            capacity=length,
        )
    lm = LM(
        codec=codec,
        embed=Embed(c["d_model"], size=codec.size, std=0.02),
        trunk=trunk,
        heads=Heads(bias=True),
        norm=None,
        shared=RelativeBias(c["n_head"], c["d_head"]),
        objectives=(Spikes(c["spikes_left"]),) if kind == "entropy" else (),
    )
    return lm, length


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    c = sizes(config)
    size, shape = Characters(Unsplit()).size, (c["n_head"], c["d_head"])

    def table(w: np.ndarray) -> np.ndarray:  # symbols that the released model does not have: BOS
        return np.pad(w, ((0, size - len(w)), (0, 0)))

    out = [
        Row("pos_emb.inv_freq", None),
        Row("word_emb.weight", "embed/embedding", table),
        Row("final_cast.weight", "heads/head", lambda w: head(table(w))),
        Row("final_cast.bias", "heads/bias", lambda b: table(b[:, None]).T),
        Row("r_w_bias", "shared/content_bias"),
        Row("r_r_bias", "shared/distance_bias"),
    ]
    if c["boundaries_type"] == "none":
        return out + block("layers.0", "trunk", shape)
    for i, part in enumerate(("encoder", "backbone", "decoder")):
        out += block(f"layers.{i}", f"trunk/{part}", shape)
    out += [
        Row("null_group", "trunk/pool/start", np.ravel),
        Row("down_ln.weight", "trunk/pool/pool_scale"),
        Row("down_ln.bias", "trunk/pool/pool_bias"),
    ]
    if c["boundaries_type"] in LEARNED:
        source, path = "boundary_predictor.boundary_predictor", "trunk/segmenter/end"
        for number, name in ((0, "in"), (2, "out")):
            out += [
                Row(f"{source}.{number}.weight", f"{path}/{name}/kernel", matrix),
                Row(f"{source}.{number}.bias", f"{path}/{name}/bias"),
            ]
    return out


def block(source: str, path: str, shape: tuple[int, int]) -> list[Row]:
    """A layer of relative attention and one of feed-forward, each with its norm behind."""
    attention, forward, path = (
        f"{source}.{{layer}}.dec_attn",
        f"{source}.{{layer}}.pos_ff",
        f"{path}/block",
    )
    split = into_heads(shape[0])

    def q_and_v(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, _, v = b.reshape(3, *shape)
        return q, v

    return [
        Row(
            f"{attention}.qkv_net.weight",
            (f"{path}/mixer/q", f"{path}/mixer/k", f"{path}/mixer/v"),
            lambda w: [split(part) for part in np.split(w, 3)],
        ),
        Row(f"{attention}.qkv_net.bias", (f"{path}/mixer/q_bias", f"{path}/mixer/v_bias"), q_and_v),
        Row(f"{attention}.r_net.weight", f"{path}/mixer/r", split),
        Row(f"{attention}.r_net.bias", None),
        Row(f"{attention}.o_net.weight", f"{path}/mixer/o", out_of_heads(shape[0])),
        Row(f"{attention}.o_net.bias", f"{path}/mixer/o_bias"),
        Row(f"{attention}.layer_norm.weight", f"{path}/mixer_scale"),
        Row(f"{attention}.layer_norm.bias", f"{path}/mixer_bias"),
        Row(f"{forward}.CoreNet.0.weight", f"{path}/mlp/up", matrix),
        Row(f"{forward}.CoreNet.0.bias", f"{path}/mlp/up_bias"),
        Row(f"{forward}.CoreNet.3.weight", f"{path}/mlp/down", matrix),
        Row(f"{forward}.CoreNet.3.bias", f"{path}/mlp/down_bias"),
        Row(f"{forward}.layer_norm.weight", f"{path}/mlp_scale"),
        Row(f"{forward}.layer_norm.bias", f"{path}/mlp_bias"),
    ]
