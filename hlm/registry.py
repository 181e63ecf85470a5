"""The class registry: a config as JSON, as it stands in every checkpoint, and back.

`{"_": "Stack", "depth": 2, ...}` is a dataclass by the name of its class. Names are looked up in
one table, never imported: a checkpoint runs no code. Names and fields of older versions are read as
what they are called today (`OLD`).

A class of one's own stands there as "module:Class". It is found again once its module is imported.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import pathlib
import sys
import typing
from collections.abc import Callable
from typing import Any

from hlm import fim, sharding, subwords, vocab
from hlm.config import Every, Experiment, fields
from hlm.data import pipeline, source, unchosen
from hlm.model import embed, heads, hierarchy, lm, objective, pool, segment, unpool
from hlm.nn import (
    attention,
    basic,
    cross,
    feed_forward,
    position,
    recurrence,
    relative,
    rope,
    stack,
)
from hlm.nn.kernels import best, blocks, splash
from hlm.papers import (
    aunet,
    blt,
    byte2word,
    chunk_mtp,
    dynamic_pooling,
    hnet,
    lyt,
    masked,
    megabyte,
    mutor,
    tfree_hat,
    toucan,
)
from hlm.split import After, Fixed, HatSplitter, SpaceLike, Unsplit, WordGroups, Words
from hlm.train import average, guard, optim, schedule

# fmt: off
KNOWN: tuple[type, ...] = (
    # experiments
    Experiment, Every, sharding.Mesh, optim.AdamW, optim.Muon, schedule.Cosine, schedule.Linear,
    schedule.Constant, schedule.WarmupStableDecay, average.EMA, guard.SpikeGuard, guard.Skip,
    guard.Rewind,
    # data
    pipeline.Data, source.TextFiles, source.JsonLines, source.Parquet, source.Arrow,
    source.ArrayRecord, source.Tfds, source.Mixture, source.Streamed, source.Beginning, fim.FIM,
    unchosen.Unchosen,
    # symbols
    vocab.Bytes, vocab.Renumbered, vocab.Characters, subwords.BPE, subwords.Unigram,
    subwords.Pieces, subwords.WordPieces, fim.FIMCodec, Words, SpaceLike, WordGroups, HatSplitter,
    Fixed, After, Unsplit,
    # layers
    basic.RMSNorm, basic.LayerNorm, basic.Normal, basic.Rope, rope.Llama3Rope,
    feed_forward.SwiGLU, feed_forward.MLP, feed_forward.GELU, attention.Attention,
    best.Best, blocks.Blocks, splash.Splash,
    relative.RelativeAttention, relative.RelativeBias, recurrence.Mamba2,
    cross.CrossAttentionBlock, position.Positions, position.WordPositions, stack.Block,
    stack.PostNormBlock, stack.Stack, stack.Chain,
    # the core
    lm.LM, embed.Embed, heads.Heads, hierarchy.Hierarchy, segment.Level, segment.SeenLater,
    segment.SeenWithin, pool.Select, pool.Mean, pool.Attend, unpool.Keep, unpool.Repeat,
    unpool.Prefix, unpool.Scatter, unpool.Broadcast, objective.Ahead,
    # papers
    aunet.Offset, blt.Entropy, blt.NgramEmbed, blt.CrossAttentionPool, cross.ChunkMemory,
    byte2word.PieceHeads, chunk_mtp.DraftingHierarchy, chunk_mtp.ChunkMTP,
    chunk_mtp.ChunkMTPLoss, dynamic_pooling.Gumbel, dynamic_pooling.Predicted,
    dynamic_pooling.Spikes, dynamic_pooling.GivenEnds, hnet.Router, hnet.Widen, hnet.Smooth,
    lyt.MultiVectorBackbone, lyt.PrefixVectors, masked.MaskedLM, masked.WholeWords,
    masked.Spell, megabyte.Lookup, megabyte.Concat, megabyte.Split, megabyte.Unfold,
    megabyte.StartTokens, megabyte.ShiftBlock, mutor.Registers, tfree_hat.LateWords,
    tfree_hat.LatentQuery, tfree_hat.NewestChunk, tfree_hat.SingleKeyCrossAttention,
    toucan.EndSlots, toucan.EndHeads, toucan.ChunkEnds,
)
# fmt: on
CLASSES: dict[str, type] = {cls.__name__: cls for cls in KNOWN}
NAMES: dict[type, str] = {cls: name for name, cls in CLASSES.items()}
assert len(NAMES) == len(KNOWN), "two classes of one name"


def to_json(node: Any) -> Any:
    """A config as JSON values: dataclasses become {"_": class name, ...fields}."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {"_": name_of(type(node))} | {
            name: to_json(getattr(node, name)) for name in fields(node)
        }
    if isinstance(node, (tuple, list)):
        return [to_json(x) for x in node]
    if isinstance(node, typing.Mapping):
        return {key: to_json(value) for key, value in node.items()}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(
        f"{node!r} cannot be kept in a config: use numbers, strings, tuples, dicts or dataclasses"
    )


def name_of(cls: type) -> str:
    """The name of a class in JSON. ValueError if it could not be found again by that name."""
    if cls in NAMES:
        return NAMES[cls]
    module = cls.__module__
    try:
        importable = module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        importable = False
    if not importable or getattr(sys.modules.get(module), cls.__qualname__, None) is not cls:
        raise ValueError(
            "config: a checkpoint could not be loaded again, since the class "
            f"{cls.__qualname__} of {module!r} cannot be imported; "
            "define it at the top of a module that can be imported, and import it in the config"
        )
    return f"{module}:{cls.__qualname__}"


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, list):
        return tuple(from_json(x) for x in value)
    if not isinstance(value, dict):
        return value
    if "_" not in value:
        return {key: from_json(x) for key, x in value.items()}
    if not isinstance(value["_"], str):
        raise ValueError(f"config names the class {value['_']!r}; a name is a string")
    while (change := OLD.get(value["_"])) is not None and (changed := change(value)) != value:
        value = changed
    cls = class_of(value["_"])
    given = {key: from_json(x) for key, x in value.items() if key != "_"}
    unknown = set(given) - set(fields(cls))
    if unknown:
        raise ValueError(
            f"{value['_']} has no field {', '.join(sorted(unknown))}: the config is from "
            "another version of hlm"
        )
    return cls(**given)


def class_of(name: Any) -> Any:
    if isinstance(name, str) and name in CLASSES:
        return CLASSES[name]
    module, colon, qualname = str(name).partition(":")
    if not colon:
        raise ValueError(
            f"config names the class {name!r}, which this version of hlm does not have"
        )
    found = getattr(sys.modules.get(module), qualname, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(
            f"config names the class {qualname!r} of the module {module!r}: import {module} "
            "first, from where it is"
        )
    return found


def from_file(path: str, where: str) -> Any:
    """The object of a JSON file: of what is too long for the command line, a learned codec, say."""
    try:
        return from_json(json.loads(pathlib.Path(path).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {path}: {' '.join(str(error).split())}") from error


def expression(text: str, where: str) -> Any:
    """An object as text, for the command line: `Tfds("c4/en", split="train[:1%]")`.

    Names are those of this registry and arguments are literals or further such objects: the text is
    parsed, never run.
    """
    try:
        return made(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{where}: {text!r}: {reason}; write it like Tfds('c4/en') or "
            "TextFiles(paths=('a.txt',))"
        ) from error


def made(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            if name not in CLASSES:
                close = difflib.get_close_matches(name, CLASSES, 3)
                raise ValueError(
                    f"no public class {name}"
                    + (f"; did you mean {' or '.join(close)}?" if close else "")
                )
            if any(keyword.arg is None for keyword in node.keywords):
                raise ValueError("** is not read here")
            given = {keyword.arg: made(keyword.value) for keyword in node.keywords}
            if unknown := set(map(str, given)) - set(fields(CLASSES[name])):
                raise ValueError(
                    f"{name} has no field {', '.join(sorted(unknown))}; it has "
                    f"{', '.join(fields(CLASSES[name]))}"
                )
            return CLASSES[name](*map(made, node.args), **given)  # pyright: ignore[reportCallIssue]
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return tuple(map(made, elements))
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {
                made(key): made(value)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no literal") from None


# --- what older versions wrote: class name -> its JSON in today's words


Json = dict[str, Any]


def renamed(new: str, drop: tuple[str, ...] = (), **changes: Any) -> Callable[[Json], Json]:
    """Another class name, without the fields `drop`, and with the fields `changes`."""

    def change(old: Json) -> Json:
        return (
            {"_": new}
            | {key: value for key, value in old.items() if key not in ("_", *drop)}
            | changes
        )

    return change


def fields_renamed(**names: str) -> Callable[[Json], Json]:
    """Fields by other names; "" for one that is gone."""

    def change(old: Json) -> Json:
        return {names.get(key, key): value for key, value in old.items() if names.get(key, key)}

    return change


def gone(**harmless: Any) -> Callable[[Json], Json]:
    """Fields that this version has not. ValueError where they meant something else than
    `harmless`.
    """

    def change(old: Json) -> Json:
        for name, value in harmless.items():
            if old.get(name, value) != value:
                raise ValueError(
                    f"{old['_']}.{name}: {old[name]}, which this version of hlm cannot do; load it "
                    "with the version that wrote it"
                )
        return {key: value for key, value in old.items() if key not in harmless}

    return change


def old_hierarchy(old: Json) -> Json:
    """`late` and `shortcut` were fields of every Hierarchy."""
    new = {key: value for key, value in old.items() if key not in ("late", "shortcut")}
    if old.get("late"):
        new["segmenter"] = {"_": "SeenLater", "segmenter": old["segmenter"]}
    if old.get("shortcut"):
        new |= {"_": "DraftingHierarchy", "shortcut": old["shortcut"]}
    return new


def both_ways(old: Json) -> Json:
    return old | {"_": "Hierarchy", "segmenter": {"_": "SeenWithin", "segmenter": old["segmenter"]}}


def old_lm(old: Json) -> Json:
    """Objectives were fields of LM, of its heads and of its trunk."""
    if "objectives" in old:
        return old
    heads, trunk = old["heads"], old["trunk"]
    objectives = [o for o in (old.get("teacher"), old.get("registers")) if o]
    guesses = heads.get("heads", heads)  # EndHeads wrap them
    if guesses.get("ahead", 1) > 1:
        objectives.append({"_": "Ahead", "loss_weight": guesses.get("extra", 0.2)})
    if heads["_"] == "EndHeads":
        objectives.append({"_": "ChunkEnds"})
    if trunk.get("shortcut"):
        objectives.append(
            {"_": "ChunkMTPLoss", "loss_weight": trunk["shortcut"].get("loss_weight", 0.1)}
        )
    return {key: value for key, value in old.items() if key not in ("teacher", "registers")} | {
        "objectives": objectives
    }


OLD: dict[str, Callable[[Json], Json]] = {
    "Added": renamed("SingleKeyCrossAttention"),
    "BothWays": both_ways,
    "Bytes": fields_renamed(examples="labels"),
    "Bytes258": renamed("Renumbered", size=258, first=0, begin=256, end=257),
    "FillIn": renamed("FIMCodec"),
    "FirstWord": renamed("NewestChunk"),
    "Gaps": renamed("FIM"),
    "Guide": renamed("ChunkMemory"),
    "Guided": renamed("CrossAttentionBlock"),
    "Heads": fields_renamed(extra=""),
    "Hierarchy": old_hierarchy,
    "LM": old_lm,
    "Latents": renamed("CrossAttentionPool"),
    "MLP": gone(squared=False),
    "Opened": renamed("StartTokens"),
    "Prefixed": renamed("PrefixVectors"),
    "Several": renamed("MultiVectorBackbone"),
    "Shortcut": renamed("ChunkMTP", drop=("loss_weight",)),
    "Renumbered": fields_renamed(examples="labels"),
    "Slots": renamed("PieceHeads"),
    "Stack": fields_renamed(lone_start="isolate_bos", unroll=""),
    "Utf8": renamed("Renumbered", size=256, first=0, begin=254, end=255),
    "Utf8Mark": renamed("Renumbered", size=256, first=0, begin=255, end=255),
    "WordPositions": gone(level=1),
    "Characters": fields_renamed(examples="labels"),
    "Data": fields_renamed(gaps="fim"),
}
