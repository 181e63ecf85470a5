"""Tokenization-free hierarchical language models. The public names; every class here may stand in a config."""

from hlm.config import Every, Experiment
from hlm.data.pipeline import Data
from hlm.data.source import ArrayRecord, JsonLines, Mixture, TextFiles, Tfds
from hlm.data.split import Fixed, HatSplitter, SpaceLike, Unsplit, WordGroups, Words
from hlm.infer.api import LanguageModel, Score, load
from hlm.model.embed import Embed, Lookup
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.pool import Attend, Concat, Mean, Select
from hlm.model.segment import Level
from hlm.model.unpool import Broadcast, Offset, Prefix, Scatter, Split
from hlm.nn.attention import Attention
from hlm.nn.basic import GELU, MLP, LayerNorm, RMSNorm, Rope, SwiGLU
from hlm.nn.stack import Block, Stack
from hlm.sharding import Mesh
from hlm.train.optim import AdamW, Cosine, Linear
from hlm.vocab import BPE, Bytes

__all__ = [
    "BPE",
    "GELU",
    "LM",
    "MLP",
    "AdamW",
    "ArrayRecord",
    "Attend",
    "Attention",
    "Block",
    "Broadcast",
    "Bytes",
    "Concat",
    "Cosine",
    "Data",
    "Embed",
    "Every",
    "Experiment",
    "Fixed",
    "HatSplitter",
    "Heads",
    "Hierarchy",
    "JsonLines",
    "LanguageModel",
    "LayerNorm",
    "Level",
    "Linear",
    "Lookup",
    "Mean",
    "Mesh",
    "Mixture",
    "Offset",
    "Prefix",
    "RMSNorm",
    "Rope",
    "Scatter",
    "Score",
    "Select",
    "SpaceLike",
    "Split",
    "Stack",
    "SwiGLU",
    "TextFiles",
    "Tfds",
    "Unsplit",
    "WordGroups",
    "Words",
    "load",
]
