"""The table of a Llama block's weights, under the names of `transformers` or under Meta's."""

from collections.abc import Callable

import numpy as np

from hlm.port.table import Row, into_heads, into_rotated_heads, matrix, out_of_heads

TRANSFORMERS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "mixer": "input_layernorm",
    "mlp": "post_attention_layernorm",
}
META = {
    "q": "attention.wq",
    "k": "attention.wk",
    "v": "attention.wv",
    "o": "attention.wo",
    "gate": "feed_forward.w1",
    "up": "feed_forward.w3",
    "down": "feed_forward.w2",
    "mixer": "attention_norm",
    "mlp": "ffn_norm",
}
Turned = Callable[[int], Callable[[np.ndarray], np.ndarray]]


def block(
    source: str,
    path: str,
    heads: int,
    kv_heads: int,
    turned: Turned = into_rotated_heads,
    names: dict[str, str] = TRANSFORMERS,
) -> list[Row]:
    """Attention and feed-forward.

    `turned`: converts queries and keys, by default from rotary positions on neighbouring pairs.
    """
    into = {
        "q": (f"{path}/mixer/q", turned(heads)),
        "k": (f"{path}/mixer/k", turned(kv_heads)),
        "v": (f"{path}/mixer/v", into_heads(kv_heads)),
        "o": (f"{path}/mixer/o", out_of_heads(heads)),
        "gate": (f"{path}/mlp/gate", matrix),
        "up": (f"{path}/mlp/up", matrix),
        "down": (f"{path}/mlp/down", matrix),
        "mixer": (f"{path}/mixer_scale",),
        "mlp": (f"{path}/mlp_scale",),
    }
    return [Row(f"{source}.{names[part]}.weight", *to) for part, to in into.items()]
