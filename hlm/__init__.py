"""Tokenization-free hierarchical language models.

The names at the top are what a config of the core needs and what a notebook needs; the rest is in
rooms: `hlm.split.Words`, `hlm.pool.Mean`, `hlm.schedule.Linear`, and one for each published system,
such as `hlm.blt.Entropy`.
"""

# isort: off
# --- before jax: memory allocation
import hlm.host  # noqa: F401

# --- in a notebook
from hlm.infer.api import LanguageModel, Score, export, load
from hlm.infer.entropy import fit_threshold
from hlm.look.picture import show
from hlm.port import from_foreign
from hlm.fim import Infill

# --- an experiment: data, optimizer, devices
from hlm.config import Every, Experiment
from hlm.data.pipeline import Data
from hlm.data.source import ArrayRecord, Arrow, JsonLines, Parquet, TextFiles, Tfds
from hlm.data.source import Beginning, Mixture, Streamed
from hlm.fim import FIM, FIMCodec
from hlm.sharding import Mesh
from hlm.subwords import BPE, Unigram
from hlm.train.average import EMA
from hlm.train.guard import Rewind, Skip, SpikeGuard
from hlm.train.optim import AdamW, Muon
from hlm.vocab import Bytes

# --- a model
from hlm.model.embed import Embed
from hlm.model.heads import Heads
from hlm.model.hierarchy import Hierarchy
from hlm.model.lm import LM
from hlm.model.segment import Level
from hlm.nn.attention import Attention
from hlm.nn.basic import LayerNorm, RMSNorm, Rope
from hlm.nn.feed_forward import SwiGLU
from hlm.nn.position import Positions, WordPositions
from hlm.nn.recurrence import Mamba2
from hlm.nn.stack import Block, Chain, PostNormBlock, Stack

# --- rooms: parts of the core
from hlm import split
from hlm.model import objective, pool, segment, unpool
from hlm.nn import feed_forward
from hlm.train import schedule

# --- rooms: one for each published system
from hlm.papers import aunet, blt, byte2word, chunk_mtp, dynamic_pooling, hnet, lyt
from hlm.papers import masked, megabyte, mutor, tfree_hat, toucan

# fmt: off
__all__ = [  # noqa: RUF022  (by what they are for)
    # in a notebook
    "load", "export", "from_foreign", "show", "LanguageModel", "Score", "Infill",
    "fit_threshold",
    # an experiment
    "Experiment", "Every", "Data", "TextFiles", "JsonLines", "Parquet", "Arrow",
    "ArrayRecord", "Tfds", "Mixture", "Streamed", "Beginning", "FIM", "AdamW", "Mesh",
    "Muon", "EMA", "SpikeGuard", "Skip", "Rewind",
    # a model
    "LM", "Bytes", "BPE", "Unigram", "FIMCodec", "Embed", "Heads", "Hierarchy", "Level", "Stack",
    "Chain", "Block", "PostNormBlock", "Attention", "Mamba2", "SwiGLU", "RMSNorm", "LayerNorm",
    "Rope", "Positions", "WordPositions",
    # rooms of the core
    "split", "segment", "pool", "unpool", "objective", "feed_forward", "schedule",
    # rooms of published systems
    "aunet", "blt", "byte2word", "chunk_mtp", "dynamic_pooling", "hnet", "lyt", "masked",
    "megabyte", "mutor", "tfree_hat", "toucan",
]
# fmt: on
