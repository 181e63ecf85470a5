"""H-Net of goombalab, its kernels in float32.

Routers and moving averages are compared one by one, too.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hlm import Hierarchy, Mamba2, config
from hlm.papers.hnet import Router, Smooth, Widen, balance
from hlm.port import hnet, table
from hlm.seq import Seq, boundaries, index_in_document
from tests.parity.common import (
    Check,
    Subject,
    gradient,
    largest,
    rows_of,
    subject_of,
    under,
    unequal,
)

CASES = ("hnet",)
UNITS = ("units_hnet", "hnet_lr", "units_hnet_lr")
UNIT = 1e-5  # outputs of single operations
ANOTHER_MODEL = (
    "a third-party variant with another router (cosine with the next key, learned start key); not "
    "one of our models"
)


def subject(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Subject:
    length = arrays["x"].shape[1] - 1
    stated = re.search(r"N=([\d.]+), weight ([\d.]+)", meta["config"].get("ratio_loss", ""))
    ratio = dict(target=float(stated[1]), loss_weight=float(stated[2])) if stated else {}

    def roomy(trunk: Any) -> Any:
        """With room for every chunk, as the reference has."""
        if not isinstance(trunk, Hierarchy):
            return trunk
        router = config.replace(trunk.segmenter, **ratio)
        return config.replace(
            trunk, capacity=length, segmenter=router, backbone=roomy(trunk.backbone)
        )

    def aux(batch: Any) -> Iterable[Check]:
        kept = functools.partial(model.apply, capture_intermediates=lambda _, name: name == "cut")
        state: Any = jax.jit(kept)({"params": s.params}, batch)[1]
        tree = state["intermediates"]["trunk"]
        for mask in sorted(name for name in arrays if name.startswith("aux/boundary_mask")):
            b = tree["cut"][0][0]
            theirs, p_BL = arrays[mask], arrays[mask.replace("mask", "prob")][..., 1]
            n = theirs.shape[1]
            yield unequal(mask.removeprefix("aux/"), b.ends[:, :n], theirs)
            yield Check(
                mask.removeprefix("aux/").replace("mask", "prob"),
                largest(b.prob[:, :n], p_BL),
                UNIT,
            )
            tree = tree.get("backbone", {})
        if "aux/logits_packed" in arrays:  # all rows behind each other
            x = arrays["x"]
            row = jax.tree.map(lambda a: a.reshape(1, -1), batch)
            row = row.replace(doc=jnp.repeat(jnp.arange(1, len(x) + 1), length)[None])
            wide = config.replace(
                model, trunk=config.replace(model.trunk, capacity=length * len(x))
            )
            logits: Any = jax.jit(functools.partial(wide.apply, method="logits"))(
                {"params": s.params}, row
            )
            yield Check(
                "packed logits",
                largest(
                    logits.reshape(arrays["aux/logits_packed"].shape), arrays["aux/logits_packed"]
                ),
                1e-4,
            )

    s = subject_of("hnet", arrays, meta["config"], batch=rows_of, aux=aux)
    model = config.replace(s.model, trunk=roomy(s.model.trunk))
    return config.replace(s, model=model)


def units(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterable[Check]:
    if "q" not in arrays:
        yield Check("not compared", 0, 0, ANOTHER_MODEL)
        return
    yield from routing({k: jnp.asarray(a) for k, a in arrays.items()})
    yield from mamba(under("mamba2/", arrays))


def routing(a: Mapping[str, Any]) -> Iterable[Check]:
    """Rows of one document and padding."""
    real, doc = np.asarray(a["mask"]), jnp.asarray(a["mask"], jnp.int32)
    seq = Seq(token=doc, doc=doc, pos=index_in_document(doc), level=doc.astype(jnp.uint8))
    router: Any = Router().apply(
        {"params": {"q_kernel": a["q"].T, "k_kernel": a["k"].T}}, a["h"], seq
    )
    ends_BL, p_BL, _ = router
    S, D = a["chunked"].shape[1:]
    b, _ = boundaries(ends_BL, seq, S, p_BL)
    yield unequal("boundaries", b.ends, a["bmask"])
    yield Check("probabilities", largest(p_BL[real], a["prob"][..., 1][real]), UNIT)
    yield unequal("chunks used", b.used, a["next_mask"])
    used = np.asarray(b.used)
    yield Check("chunks", largest(Widen(D).apply({}, a["h"], b)[used], a["chunked"][used]), UNIT)
    nothing = {"kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
    smooth: Any = Smooth().apply({"params": nothing}, a["hc"], jnp.zeros_like(a["h"]), b)
    yield Check("smoothing", largest(smooth[real], a["dechunk"][real]), UNIT)
    yield Check(
        "smoothing, released kernel",
        largest(smooth[real], a["dechunk_bf16"][real]),
        2e-2,
        "it computes in bfloat16",
    )
    loss = balance(jnp.mean(a["bmask"], dtype=jnp.float32), jnp.mean(a["prob"][..., 1]), 6.0)
    yield Check(
        "ratio loss",
        largest(loss, a["ratio_loss_N6"]),
        UNIT,
        "of the means of all elements; ours leaves out padding",
    )


def mamba(a: Mapping[str, np.ndarray]) -> Iterable[Check]:
    """The mixer alone, in chunks that do not divide the row, and the gradients of its squared
    outputs' sum.
    """
    weights, foreign = under("sd/", a), under("grad/", a)
    inner, heads, u = weights["norm.weight"].shape[0], weights["D"].shape[0], jnp.asarray(a["u"])
    state = (weights["conv1d.bias"].shape[0] - inner) // 2
    mixer = Mamba2(
        state, inner // heads, inner // u.shape[-1], weights["conv1d.weight"].shape[-1], chunk=8
    )
    doc = jnp.ones(u.shape[:2], jnp.int32)
    seq = Seq(token=doc, doc=doc, pos=index_in_document(doc), level=doc.astype(jnp.uint8))

    def convert(arrays: Mapping[str, np.ndarray]) -> Any:
        return table.convert(
            {f"m.{name}": array for name, array in arrays.items()},
            hnet.mamba("m", "m", inner),
            {"m": shapes},
        )["m"]

    def squares(params: Any, u: Any) -> Any:
        y: Any = mixer.apply({"params": params}, u, seq, doc)
        return jnp.sum(y * y), y

    shapes = jax.eval_shape(lambda: mixer.init(jax.random.key(0), u, seq, doc)["params"])
    (grads, du), y = jax.jit(jax.grad(squares, (0, 1), has_aux=True))(convert(weights), u)
    yield Check("Mamba-2", largest(y, a["y"]), UNIT)
    yield gradient(grads | {"u": du}, convert(foreign) | {"u": a["du"]})
