"""Nonsense for the public API: each call gives a result or an error of one line (endure.py)."""

import random
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import hlm
from hlm import Embed, Level, Mesh, split
from hlm.model.lm import init_params
from hlm.model.pool import Select
from hlm.model.unpool import Prefix

LENGTH = 32


def tiny(trunk: Any, codec: Any) -> hlm.LanguageModel:
    model = hlm.LM(codec, Embed(16), trunk)
    text = hlm.TextFiles(("corpus:mobydick/test.txt",))
    data = hlm.Data(text, LENGTH)
    exp = hlm.Experiment(model, data, text, text, hlm.AdamW(1e-3, 0), steps=1, rows=2)
    return hlm.LanguageModel(exp, init_params(model, LENGTH, 0), Mesh().make(jax.devices()[:1]))


def stack(window: int | None = None, per_chunk: bool = False) -> Any:
    block = hlm.Block(hlm.Attention(2, window=window), hlm.SwiGLU(16))
    return hlm.Stack(1, block, per_chunk=per_chunk)


def models() -> list[hlm.LanguageModel]:
    words = hlm.Bytes(split.Words(longest=8))
    hierarchy = hlm.Hierarchy(
        stack(9, True), Level(1), Select(24), stack(), Prefix(), stack(9, True), 16, True
    )
    return [
        tiny(stack(), hlm.Bytes(split.Unsplit())),
        tiny(hierarchy, hlm.FIMCodec(words)),
    ]


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("cannot be\nshown")


def values(rng: random.Random) -> list[Callable[[], Any]]:
    """What may be given for any argument: sense, and mostly nonsense."""
    texts = [
        "",
        "a",
        "The whale ",
        "é",
        "\ud800",
        "\0" * 5,
        "漢字",
        "x" * 100,
        b"\xff\xfe",
        b"\xc3",
    ]
    numbers = [0, 1, 3, -1, 2**31, 2**32, 2**63, 10**30, 1.5, -0.0, 1e-300, 1e308]
    others = [None, True, [], {}, set(), (), object, len, Ellipsis, 1j, "5", b"5", float("nan")]
    arrays = [np.zeros(0), np.zeros((2, 2)), np.arange(3), np.array("a"), np.array([b"a"])]
    arrays += [np.array([None]), np.int8(3), np.uint64(2**63), np.float16(0.5), np.bool_(True)]
    plain = [*texts, *numbers, *others, *arrays, float("inf"), range(3), memoryview(b"ab")]

    def infill() -> Any:
        return hlm.Infill(rng.choice(plain), rng.choice(plain))  # type: ignore

    def several() -> Any:
        return [rng.choice(plain) for _ in range(rng.randint(0, 3))]

    def keys(given: list[Any]) -> Any:
        return dict.fromkeys(map(str, given))

    def made() -> Any:
        kind = rng.choice([iter, tuple, list, keys, lambda x: np.array(x, object)])
        return kind([rng.choice(texts) for _ in range(rng.randint(0, 3))])

    def fine() -> Any:
        return rng.choice(["It was", b"a whale", "", ["a", b"b"], hlm.Infill("a ", " b")])

    return [lambda: rng.choice(plain)] * 4 + [infill, several, made, Odd, fine, fine]


ARGUMENTS = {
    "score": ("texts", "complete"),
    "generate": (
        "prompts", "max_bytes", "temperature", "top_p", "seed", "top_k", "stop", "speculate",
    ),
    "stream": (
        "prompt", "max_bytes", "temperature", "top_p", "seed", "top_k", "stop", "speculate",
    ),
    "next_byte": ("prefixes",),
    "chunks": ("text", "level"),
    "embed": ("texts", "level"),
    "log_p": ("streams",),
    "load": ("path", "step"),
}  # fmt: skip
SENSE: dict[str, Any] = {
    "max_bytes": 3, "temperature": 0.5, "top_p": 0.9, "seed": 1, "top_k": 5, "stop": ".",
    "complete": False, "level": 1, "speculate": 0, "step": 1,
}  # fmt: skip


def calls(count: int, seed: int, until: float) -> tuple[int, list[str]]:
    """(number tried, what went wrong)."""
    rng, lms, lost = random.Random(seed), models(), []
    some = values(rng)
    for n in range(count):
        if time.monotonic() > until:
            return n, lost
        name = rng.choice(list(ARGUMENTS))
        first, *rest = ARGUMENTS[name]
        given = {first: rng.choice(some)()}
        for argument in rest:
            if rng.random() < 0.25:
                given[argument] = rng.choice(some)()
            elif rng.random() < 0.5 or argument == "max_bytes":
                given[argument] = SENSE[argument]
        if isinstance(given.get("max_bytes"), int) and given["max_bytes"] > 100:
            given["temperature"] = "hot"  # it would be taken, and take days
        lm = rng.choice(lms)
        try:
            result: Any = hlm.load(**given) if name == "load" else getattr(lm, name)(**given)
            if name == "stream":
                list(result)
        except (ValueError, TypeError, OSError) as error:
            if "\n" in str(error) or not str(error) or (name != "load" and type(error) is OSError):
                lost.append(f"{name}: {type(error).__name__}: {error!r}"[:500])
        except Exception as error:
            lost.append(f"{name}({sorted(given)}): {type(error).__name__}: {error}"[:500])
    return count, lost
