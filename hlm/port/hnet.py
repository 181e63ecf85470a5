"""H-Net checkpoints of goombalab/hnet: config keys as in its `configs/*.json`.

Our moving average is exact where the released kernel computes it in bfloat16. Rows and their chunks
have our sizes, see `LENGTH`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hlm.model.embed import Embed
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.nn.attention import Attention
from hlm.nn.basic import RMSNorm, Rope
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.recurrence import Mamba2
from hlm.nn.stack import Block, Chain, Stack
from hlm.papers.hnet import Router, Smooth, Widen
from hlm.port.keys import (
    DEEPEST,
    Check,
    Key,
    Wrong,
    agree,
    checked,
    divides,
    harmless,
    maybe,
    only,
    section,
    several,
    shown,
    whole,
)
from hlm.port.table import Row, head, into_heads, matrix, out_of_heads, shape
from hlm.split import Unsplit
from hlm.vocab import utf8

LENGTH = 8192  # bytes in a row
STAGES = 8  # at most
TARGETS = {1: 6.0, 2: 3.0}  # elements in a chunk in models of one and two stages


def layout(name: str, value: Any) -> Any:
    """Text for a stack; a list of one stack, or of an encoder, a layout and a decoder."""
    if isinstance(value, str):
        if sum(depth for _, depth in pairs(value)) > DEEPEST:
            raise Wrong(f"{name} {shown(value)} (at most {DEEPEST} layers)")
        return value
    if isinstance(value, list | tuple) and len(value) in (1, 3) and name.count("[") < STAGES:
        inside = len(value) // 2
        parts = [layout(f"{name}[{i}]", part) for i, part in enumerate(value)]
        if all(
            isinstance(part, str) is (i != inside or len(value) == 1)
            for i, part in enumerate(parts)
        ):
            return parts
    raise Wrong(f"{name} {shown(value)} (only such as ['T26'] or ['m4', ['T26'], 'm4'])")


def sizes_of(check: Check) -> Check:
    """One for each stage."""
    return several(check, 1, STAGES)


KEYS = {
    # The loss is our Router's own, and our moving average is exact.
    **harmless("ratio_loss dechunk_dtype"),
    "arch_layout": Key(layout),
    "d_model": Key(sizes_of(whole())),
    "d_intermediate": Key(maybe(sizes_of(whole(least=0))), None),
    "vocab_size": Key(only(256), 256),
    "tie_embeddings": Key(only(False), False),
    "ssm_cfg": Key(
        section(
            {
                "chunk_size": Key(whole()),
                "d_conv": Key(whole(most=64)),
                "d_state": Key(whole()),
                "expand": Key(whole(most=64)),
            }
        )
    ),
    "attn_cfg": Key(
        section(
            {
                "num_heads": Key(sizes_of(whole())),
                "rotary_emb_dim": Key(sizes_of(whole(least=0))),
                "window_size": Key(sizes_of(whole(least=-1))),
            }
        )
    ),
}


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The checked config; every list has as many stages as its layout, or more."""
    c = checked(config, KEYS)
    layouts = stages(c["arch_layout"])
    attention = {f"attn_cfg.{name}": value for name, value in c["attn_cfg"].items()}
    for name, value in (
        {"d_model": c["d_model"], "d_intermediate": c["d_intermediate"]} | attention
    ).items():
        if value is not None and len(value) < len(layouts):
            raise ValueError(
                f"config: {name} {shown(value)} (only with an entry for each of the "
                f"{len(layouts)} stages)"
            )
    for i, width in enumerate(c["d_model"][: len(layouts)]):
        if i and width < c["d_model"][i - 1]:
            raise ValueError(f"config: d_model {shown(c['d_model'])} (only rising)")
        if any(letter in "tT" for layout in layouts[i] for letter in layout):
            heads, turned = c["attn_cfg"]["num_heads"][i], c["attn_cfg"]["rotary_emb_dim"][i]
            head_dim = divides(f"attn_cfg.num_heads[{i}]", heads, f"d_model[{i}]", width)
            if turned % 2 or turned > head_dim:
                raise ValueError(
                    f"config: attn_cfg.rotary_emb_dim[{i}] {turned} (only even numbers to the "
                    f"head's width {head_dim})"
                )
    return c


def model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[LM, int]:
    config = sizes(config)
    layouts = stages(config["arch_layout"])
    attention, ssm = config["attn_cfg"], config["ssm_cfg"]
    target = TARGETS.get(len(layouts) - 1, 3.0)

    def block(name: str, letter: str, i: int) -> Block:
        if letter in "mM":
            inner, (heads,) = (
                ssm["expand"] * config["d_model"][i],
                shape(weights, f"{name}.mixer.dt_bias", 1),
            )
            divides(
                f"weights: {name}.mixer.dt_bias of", heads, f"ssm_cfg.expand * d_model[{i}]", inner
            )
            mixer = Mamba2(
                ssm["d_state"],
                inner // heads,
                ssm["expand"],
                ssm["d_conv"],
                min(ssm["chunk_size"], 128),
            )
        else:
            back = attention["window_size"][i]  # how many elements besides itself an element sees
            rope = (
                Rope(dims=attention["rotary_emb_dim"][i])
                if attention["rotary_emb_dim"][i]
                else None
            )
            mixer = Attention(
                attention["num_heads"][i], window=None if back < 0 else back + 1, rope=rope
            )
        width = shape(weights, f"{name}.mlp.fc2.weight", 2)[1] if letter.isupper() else None
        if width and config["d_intermediate"]:
            agree(
                (f"d_intermediate[{i}]", config["d_intermediate"][i] or None),
                (f"that of weight {name}.mlp.fc2.weight", width),
            )
        return Block(mixer, SwiGLU(width) if width else None)

    def stack(name: str, layout: str, i: int) -> Stack | Chain:
        parts = [
            Stack(len(at), block(f"{name}.layers.{at[0]}", letter, i))
            for letter, at in runs(layout)
        ]
        if len(parts) > 1:
            return Chain(tuple(parts), norm=RMSNorm())
        return Stack(parts[0].depth, parts[0].block, norm=RMSNorm())

    def trunk(i: int) -> Stack | Chain | Hierarchy:
        name = "backbone" + ".main_network" * i
        if i == len(layouts) - 1:
            return stack(f"{name}.main_network", layouts[i][0], i)
        return Hierarchy(
            encoder=stack(f"{name}.encoder", layouts[i][0], i),
            segmenter=Router(target=target),
            pool=Widen(config["d_model"][i + 1]),
            backbone=trunk(i + 1),
            unpool=Smooth(),
            decoder=stack(f"{name}.decoder", layouts[i][1], i),
            capacity=LENGTH // 2 ** (i + 1),
        )

    width = config["d_model"][0]
    return LM(
        codec=utf8(Unsplit()),
        embed=Embed(width, size=config["vocab_size"]),
        trunk=trunk(0),
        heads=Heads(),
        norm=None,
    ), LENGTH


def rows(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> list[Row]:
    config = sizes(config)
    layouts, widths = stages(config["arch_layout"]), config["d_model"]
    table = [Row("embeddings.weight", "embed/embedding"), Row("lm_head.weight", "heads/head", head)]
    for i, layout in enumerate(layouts):
        name, here = "backbone" + ".main_network" * i, "trunk" + "/backbone" * i
        inner = config["attn_cfg"]["num_heads"][i], config["ssm_cfg"]["expand"] * widths[i]
        if i == len(layouts) - 1:
            table += stack(f"{name}.main_network", here, layout[0], *inner)
            break
        table += stack(f"{name}.encoder", f"{here}/encoder", layout[0], *inner)
        table += stack(f"{name}.decoder", f"{here}/decoder", layout[1], *inner)
        table += [
            Row(f"{name}.routing_module.q_proj_layer.weight", f"{here}/segmenter/q_kernel", matrix),
            Row(f"{name}.routing_module.k_proj_layer.weight", f"{here}/segmenter/k_kernel", matrix),
            Row(f"{name}.residual_proj.weight", f"{here}/unpool/kernel", matrix),
            Row(f"{name}.residual_proj.bias", f"{here}/unpool/bias"),
        ]
        if widths[i + 1] > widths[i]:
            table += [Row(f"{name}.main_network.pad_dimension", f"{here}/pool/pad_bias")]
    return table


def stages(layout: list[Any]) -> list[list[str]]:
    """["m4", ["T1m4", ["T26"], "m4T1"], "m4"] -> [["m4", "m4"], ["T1m4", "m4T1"], ["T26"]]."""
    if len(layout) == 1:
        return [[layout[0]]]
    encoder, inside, decoder = layout
    return [[encoder, decoder], *stages(inside)]


def runs(layout: str) -> list[tuple[str, range]]:
    """T1m4 -> [("T", range(0, 1)), ("m", range(1, 5))]: kinds of blocks and the numbers of their
    layers.
    """
    found, start = [], 0
    for letter, depth in pairs(layout):
        found.append((letter, range(start, start + depth)))
        start += depth
    return found


def pairs(layout: str) -> list[tuple[str, int]]:
    """T1m4 -> [("T", 1), ("m", 4)]. Raises Wrong."""
    if len(layout) > 100 or not re.fullmatch("([mMtT][1-9][0-9]{0,5})+", layout):
        raise Wrong(
            f"arch_layout: {shown(layout)} is not of the form m4 or T1m4, with the letters m, "
            "M, t and T"
        )
    return [(letter, int(depth)) for letter, depth in re.findall("([mMtT])([0-9]+)", layout)]


def stack(source: str, path: str, layout: str, heads: int, inner: int) -> list[Row]:
    """Blocks of a stack, and its last norm.

    Fused matrices are cut: query, key, value; gate, x, B and C with the steps.
    """
    table = [Row(f"{source}.rmsnorm.weight", f"{path}/out_scale")]
    kinds = runs(layout)
    for part, (letter, layers) in enumerate(kinds):
        at = f"{source}.layers.{{layer}}"
        to = f"{path}/parts_{part}/block" if len(kinds) > 1 else f"{path}/block"
        mixer = (
            mamba(f"{at}.mixer", f"{to}/mixer", inner)
            if letter in "mM"
            else attention(f"{at}.mixer", f"{to}/mixer", heads)
        )
        mixer += [Row(f"{at}.norm1.weight", f"{to}/mixer_scale")]
        if letter.isupper():
            mixer += [
                Row(f"{at}.norm2.weight", f"{to}/mlp_scale"),
                Row(
                    f"{at}.mlp.fc1.weight",
                    (f"{to}/mlp/up", f"{to}/mlp/gate"),
                    lambda w: np.split(w.T, 2, axis=1),
                ),
                Row(f"{at}.mlp.fc2.weight", f"{to}/mlp/down", matrix),
            ]
        table += [Row(row.source, row.path, row.convert, layers) for row in mixer]
    return table


def attention(source: str, path: str, heads: int) -> list[Row]:
    return [
        Row(
            f"{source}.Wqkv.weight",
            (f"{path}/q", f"{path}/k", f"{path}/v"),
            lambda w: [into_heads(heads)(p) for p in np.split(w, 3)],
        ),
        Row(f"{source}.out_proj.weight", f"{path}/o", out_of_heads(heads)),
    ]


def mamba(source: str, path: str, inner: int) -> list[Row]:
    """`in_proj` gives z, x, B, C and the steps, in this order."""
    cut: Callable[[np.ndarray], Any] = lambda w: np.split(w.T, [inner, 2 * inner], axis=1)  # noqa: E731
    return [
        Row(f"{source}.in_proj.weight", (f"{path}/gate", f"{path}/up", f"{path}/kernel"), cut),
        Row(f"{source}.conv1d.weight", f"{path}/conv", lambda w: w[:, 0].T),
        Row(f"{source}.conv1d.bias", f"{path}/conv_bias"),
        Row(f"{source}.dt_bias", f"{path}/step_bias"),
        Row(f"{source}.A_log", f"{path}/rate_log"),
        Row(f"{source}.D", f"{path}/skip_scale"),
        Row(f"{source}.norm.weight", f"{path}/gated_scale"),
        Row(f"{source}.out_proj.weight", f"{path}/down", matrix),
    ]
