"""Tokenization-free hierarchical language models. The public names; every class here may stand in a config."""

from hlm.config import Every, Experiment
from hlm.data.pipeline import Data
from hlm.data.records import ArrayRecord, Tfds
from hlm.data.source import JsonLines, Mixture, TextFiles
from hlm.data.split import After, Fixed, HatSplitter, SpaceLike, Unsplit, WordGroups, Words
from hlm.gaps import FillIn, Gap, Gaps
from hlm.infer.api import LanguageModel, Score, export, load
from hlm.infer.entropy import fit_threshold
from hlm.model.chunking import Router, Smooth, Widen
from hlm.model.embed import Embed, Lookup
from hlm.model.endings import EndHeads, EndSlots
from hlm.model.entropy import Entropy
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy
from hlm.model.latents import Guide, Latents
from hlm.model.lm import LM
from hlm.model.masked import BothWays, MaskedLM, Spell, WholeWords
from hlm.model.ngram import NgramEmbed
from hlm.model.opened import Opened
from hlm.model.piece_heads import Slots
from hlm.model.pool import Attend, Concat, Mean, Select
from hlm.model.predicted import GivenEnds, Gumbel, Predicted, Spikes
from hlm.model.registers import Registers
from hlm.model.segment import Level
from hlm.model.shortcut import Shortcut
from hlm.model.slots import Prefixed, Several
from hlm.model.unpool import Broadcast, Keep, Offset, Prefix, Repeat, Scatter, Split, Unfold
from hlm.model.words import Added, FirstWord, LatentQuery, LateWords
from hlm.nn.attention import Attention
from hlm.nn.basic import GELU, MLP, LayerNorm, Normal, RMSNorm, Rope, SwiGLU
from hlm.nn.cross import Guided
from hlm.nn.position import Positions, WordPositions
from hlm.nn.recurrence import Mamba2
from hlm.nn.relative import RelativeAttention, RelativeBias
from hlm.nn.rope import Llama3Rope
from hlm.nn.shift import ShiftBlock
from hlm.nn.stack import Block, Chain, PostNormBlock, Stack
from hlm.port import from_foreign
from hlm.sharding import Mesh
from hlm.subwords import BPE, Pieces, WordPieces
from hlm.train.optim import AdamW, Constant, Cosine, Linear, WarmupStableDecay
from hlm.vocab import Bytes, Bytes258, Characters, Renumbered, Utf8, Utf8Mark

__all__ = [
    "BPE",
    "GELU",
    "LM",
    "MLP",
    "AdamW",
    "Added",
    "After",
    "ArrayRecord",
    "Attend",
    "Attention",
    "Block",
    "BothWays",
    "Broadcast",
    "Bytes",
    "Bytes258",
    "Chain",
    "Characters",
    "Concat",
    "Constant",
    "Cosine",
    "Data",
    "Embed",
    "EndHeads",
    "EndSlots",
    "Entropy",
    "Every",
    "Experiment",
    "FillIn",
    "FirstWord",
    "Fixed",
    "Gap",
    "Gaps",
    "GivenEnds",
    "Guide",
    "Guided",
    "Gumbel",
    "HatSplitter",
    "Heads",
    "Hierarchy",
    "JsonLines",
    "Keep",
    "LanguageModel",
    "LateWords",
    "LatentQuery",
    "Latents",
    "LayerNorm",
    "Level",
    "Linear",
    "Llama3Rope",
    "Lookup",
    "Mamba2",
    "MaskedLM",
    "Mean",
    "Mesh",
    "Mixture",
    "NgramEmbed",
    "Normal",
    "Offset",
    "Opened",
    "Pieces",
    "Positions",
    "PostNormBlock",
    "Predicted",
    "Prefix",
    "Prefixed",
    "RMSNorm",
    "Registers",
    "RelativeAttention",
    "RelativeBias",
    "Renumbered",
    "Repeat",
    "Rope",
    "Router",
    "Scatter",
    "Score",
    "Select",
    "Several",
    "ShiftBlock",
    "Shortcut",
    "Slots",
    "Smooth",
    "SpaceLike",
    "Spell",
    "Spikes",
    "Split",
    "Stack",
    "SwiGLU",
    "TextFiles",
    "Tfds",
    "Unfold",
    "Unsplit",
    "Utf8",
    "Utf8Mark",
    "WarmupStableDecay",
    "WholeWords",
    "Widen",
    "WordGroups",
    "WordPieces",
    "WordPositions",
    "Words",
    "export",
    "fit_threshold",
    "from_foreign",
    "load",
]
