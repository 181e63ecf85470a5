"""A trained model in a notebook: `lm = hlm.load(path)`, then score, generate, chunks, embed. Text
may be str or bytes.
"""

import codecs
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hlm import checkpoint, exported, sharding
from hlm.config import Experiment
from hlm.data.pack import Budget, Row, Window, empty_row, stack, windows
from hlm.fim import FIMCodec, Infill
from hlm.infer.continued import MOST_ROWS, Continuation, Stats, continued
from hlm.infer.drafts import ChunkDrafts, Drafter, HeadDrafts
from hlm.infer.loop import Loop
from hlm.infer.next_byte import next_byte
from hlm.infer.sampling import Sampling
from hlm.model.hierarchy import capacities
from hlm.model.lm import LM
from hlm.seq import Batch, Boundaries
from hlm.vocab import Encoded

Text = str | bytes
Prompt = Text | Infill
SLICE, STREAM_SLICE = 64, 8  # steps of generation between two looks of the host


@dataclasses.dataclass(frozen=True)
class Score:
    """The likelihood of one text.

    `nats` covers every predicted symbol, end of document and end-of-word symbols included.
    """

    nats: float
    nbytes: int
    # float64 [nbytes], nats; a symbol of several bytes is spread evenly, one of none goes to the
    # byte before
    per_byte: np.ndarray
    # bool [nbytes]: the symbol that this byte is part of was the model's best guess
    hits: np.ndarray
    symbols: int  # symbols predicted
    chunks: int  # backbone steps at level 1, BOS included once; symbols for flat models

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * max(self.nbytes, 1))


def load(
    path: str, step: int | None = None, mesh: jax.sharding.Mesh | None = None
) -> "LanguageModel":
    """A model from the folder of a training run (its --workdir) or of an export, which is all that
    is needed.

    Of a run it is the newest sound step by default.
    """
    mesh = mesh or sharding.Mesh().make(jax.devices()[:1])
    step, experiment, params = checkpoint.load_params(str(path), step, mesh)
    return LanguageModel(experiment, params, mesh, step)


def export(lm: "LanguageModel", path: str) -> None:
    """Write a model as two plain files, path/model.safetensors and path/config.json; `load(path)`
    gives the same bits back.
    """
    exported.write(str(path), lm.step, lm.experiment, lm.params)


class LanguageModel:
    """A model with its parameters. Rows are those of its training: length, chunk capacities and
    batch size come from its config.

    Texts longer than a row are read in windows: each sees up to half a row of text before its first
    scored symbol (`context`).
    """

    def __init__(self, experiment: Experiment, params: Any, mesh: jax.sharding.Mesh, step: int = 0):
        self.experiment, self.params, self.mesh, self.step = experiment, params, mesh, step
        self.model: LM = experiment.model
        self.codec = self.model.codec
        self.budget = Budget(experiment.data.length, capacities(self.model.trunk))
        self.context = self.budget.length // 2
        self.rows = experiment.rows // experiment.accumulate
        self.stats = Stats()  # of generation; assign a new one to begin anew
        self._loops: dict[tuple[int, Drafter | None], Loop] = {}

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return f"LanguageModel({count:,} parameters, step {self.step}, {self.budget})"

    def score(self, texts: Prompt | Sequence[Prompt], complete: bool = True) -> list[Score]:
        """Likelihood of each text after BOS; `complete`: the end of the document is part of it.

        Of an `Infill` it is that of its two parts, which are read, and stand in `per_byte`, suffix
        first.
        """
        self._must_be_causal("score")
        encoded = [self._encode(t, complete) for t in listed(texts)]
        nats = [np.zeros(len(e.token)) for e in encoded]
        hits = [np.zeros(len(e.token), bool) for e in encoded]
        chunks = [1] * len(encoded)
        jobs = [
            (i, w) for i, e in enumerate(encoded) for w in windows(e, self.budget, self.context)
        ]
        for part, out in self._run(jobs, self._score):
            for row, (i, w) in enumerate(part):
                size = np.count_nonzero(w.row["doc"])
                scored = slice(size - (w.stop - w.start), size)
                nats[i][w.start : w.stop] = np.where(w.row["weight"] > 0, out["nll"][row], 0.0)[
                    scored
                ]
                hits[i][w.start : w.stop] = out["hit"][row][scored]
                # A chunk counts in the window that scores what follows it; BOS of a later window is
                # no chunk of the text.
                chunks[i] += int(np.sum(out["ends"][row][scored])) - int(scored.start == 0)
        return [
            _score_of(e, n, h, c) for e, n, h, c in zip(encoded, nats, hits, chunks, strict=True)
        ]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        max_bytes: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        top_k: int | None = None,
        stop: Text | Sequence[Text] = (),
        speculate: int | Drafter = 0,
    ) -> list[bytes]:
        """Continue each prompt until the end of the document, a `stop` (left out) or `max_bytes`.

        `speculate`: symbols drafted in each step, past the backbone if the model can, or else by
        further heads; or a drafter (hlm/infer/drafts.py). What is made is the same, whatever the
        drafts.

        A prompt may end inside a word or a character; with codec=FIMCodec it may be an
        `Infill(prefix, suffix)`, between which the text belongs. Temperature 0 is greedy. A text's
        randomness depends on its index and `seed` only, or on its own of several seeds. `stats`
        adds up what it cost. Raises ContextFull where a layer without a window has no more room:
        models whose layers all have windows go on without end.
        """
        texts, made = [self._encode(p, False) for p in listed(prompts)], []
        how, seeds = Sampling(temperature, top_p, top_k), np.atleast_1d(seed).tolist()
        if np.ndim(seed) == 0:
            seeds *= len(texts)
        if len(seeds) != len(texts):
            raise ValueError(
                f"seed: {len(seeds)} seeds for {len(texts)} prompts; give one number, or one "
                "for each prompt"
            )
        for first in range(0, len(texts), MOST_ROWS):
            part = slice(first, first + MOST_ROWS)
            *_, rows = self._continued(
                texts[part], first, max_bytes, how, seeds[part], stop, SLICE, speculate
            )
            made += [row.text for row in rows]
        return made

    def stream(
        self,
        prompt: Prompt,
        max_bytes: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        top_k: int | None = None,
        stop: Text | Sequence[Text] = (),
        speculate: int | Drafter = 0,
    ) -> Iterator[str]:
        """As `generate` for one prompt, in pieces of whole characters while they are made; invalid
        UTF-8 becomes U+FFFD.
        """
        how, decoder, told = (
            Sampling(temperature, top_p, top_k),
            codecs.getincrementaldecoder("utf-8")("replace"),
            0,
        )
        for (row,) in self._continued(
            [self._encode(prompt, False)], 0, max_bytes, how, [seed], stop, STREAM_SLICE, speculate
        ):
            if piece := decoder.decode(row.streamable[told:], final=not row.open):
                yield piece
            told = len(row.streamable)

    def _encode(self, prompt: Prompt, complete: bool) -> Encoded:
        if not isinstance(prompt, Infill):
            return self.codec.encode(as_bytes(prompt), complete)
        if not isinstance(self.codec, FIMCodec):
            raise ValueError(
                "prompt: an Infill, but the model was not made to fill any: its codec is "
                f"{type(self.codec).__name__}, not FIMCodec; "
                "train one such as configs/hat.py:tiny_gaps"
            )
        return self.codec.encode_infill(as_bytes(prompt.prefix), as_bytes(prompt.suffix), complete)

    def _continued(
        self,
        texts: list[Encoded],
        first: int,
        max_bytes: int,
        how: Sampling,
        seeds: Sequence[int],
        stop: Text | Sequence[Text],
        steps: int,
        drafts: int | Drafter,
    ) -> Iterator[list[Continuation]]:
        self._must_be_causal("generate")
        stops = [as_bytes(s) for s in listed(stop)]
        if not all(stops):
            raise ValueError("stop: an empty text stops nothing; leave it out")
        drafter = self._drafter(drafts)
        loop = Loop(self.model, (self.budget.length, *self.budget.chunks), steps, drafter)
        loop = self._loops.setdefault((steps, drafter), loop)
        with jax.set_mesh(self.mesh):
            yield from continued(
                loop, self.params, texts, first, max_bytes, how, seeds, stops, self.stats
            )

    def _drafter(self, asked: int | Drafter) -> Drafter | None:
        """That of so many drafts, which suits the model; None: none."""
        if isinstance(asked, Drafter) or not asked:
            return asked or None
        return ChunkDrafts(asked) if self.model.trunk.can_draft else HeadDrafts(asked)

    def next_byte(self, prefixes: Text | Sequence[Text]) -> list[np.ndarray]:
        """Log-probabilities of the 256 bytes that may follow each open text, and of its end:
        float64 [257], exact for any codec.

        A model over subwords is summed over all encodings that the text may turn out to have
        (hlm/infer/next_byte.py).
        """
        return [next_byte(self.codec, self.log_p, as_bytes(text)) for text in listed(prefixes)]

    def log_p(self, streams: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities [n, V] of what follows each symbol of streams [n] that begin with BOS
        and fit into a row.
        """
        self._must_be_causal("log_p")
        rows = []
        for stream in streams:
            if len(stream) > self.budget.length:
                raise ValueError(
                    f"streams: {len(stream)} symbols do not fit into a row of "
                    f"{self.budget.length}; shorten the text"
                )
            level = self.codec.levels(stream)
            for k, most in enumerate(self.budget.chunks, 1):
                if np.count_nonzero(level >= k) > most:
                    raise ValueError(
                        f"streams: more than the {most} chunks of level {k} that a row holds; "
                        "shorten the text"
                    )
            row = empty_row(self.budget)
            row["token"][: len(stream)], row["level"][: len(stream)], row["doc"][: len(stream)] = (
                stream,
                level,
                1,
            )
            rows.append((len(rows), Window(row, 0, 0)))
        out = [
            log_p_LV
            for part, log_p_BLV in self._run(rows, self._log_p)
            for log_p_LV in log_p_BLV[: len(part)]
        ]
        return [log_p_LV[: len(stream)] for log_p_LV, stream in zip(out, streams, strict=True)]

    def chunks(self, text: Text, level: int = 1) -> list[bytes]:
        """The text cut as the model cuts it at `level`; joined, the chunks are the text."""
        raw = as_bytes(text)
        encoded = self.codec.encode(raw, complete=True)
        position = np.cumsum(encoded.nbytes)  # bytes read after each symbol
        ends = {0, len(raw)}
        for i, boundaries in self._inspect(encoded, level):
            ends |= {int(position[j]) for j in i[boundaries.ends]}
        cuts = sorted(ends)
        return [raw[a:b] for a, b in itertools.pairwise(cuts)]

    def embed(self, texts: Text | Sequence[Text], level: int = 1) -> list[np.ndarray]:
        """What the backbone above `level` makes of each chunk: float32 [chunks, width] per text,
        the first one for BOS.
        """
        out = []
        for text in listed(texts):
            encoded = self.codec.encode(as_bytes(text), complete=True)
            found = [
                b.vectors[np.isin(b.at, np.flatnonzero(i >= 0))]
                for i, b in self._inspect(encoded, level)
            ]
            out.append(np.concatenate(found))
        return out

    def _must_be_causal(self, method: str) -> None:
        if not self.model.causal:
            raise ValueError(
                f"{method}: a {type(self.model).__name__} looks both ways, so it gives texts "
                "no likelihood and writes none; "
                "use chunks, embed, and for its pseudo-likelihood eval.py --suite masked "
                "(hlm.evals.masked)"
            )

    def _inspect(self, encoded: Encoded, level: int) -> Iterator[tuple[np.ndarray, "_Cut"]]:
        """For each window: the symbol index of each element (-1: repeated context or padding), and
        how it was cut at `level`.
        """
        depth = len(capacities(self.model.trunk))
        if not 1 <= level <= depth:
            raise ValueError(f"level: {level} but this model has {depth} levels of chunks")
        jobs = [(0, w) for w in windows(encoded, self.budget, self.context)]
        for part, out in self._run(jobs, functools.partial(self._look, level=level)):
            for row, (_, w) in enumerate(part):
                index = np.full(self.budget.length, -1)
                scored = np.flatnonzero(w.row["weight"] > 0)
                # element k of a window is the symbol before its target
                index[scored] = np.arange(w.start - 1, w.stop - 1)
                if w.start > 1 and scored[0] == 0:
                    index[0] = -1  # a later window's BOS
                used = out["used"][row]
                ends = np.zeros(self.budget.length, bool)
                ends[out["at"][row][used]] = True
                yield (
                    index,
                    _Cut(ends & (index >= 0), out["at"][row][used], out["vectors"][row][used]),
                )

    def _run(
        self, jobs: list[tuple[int, Window]], call: Any
    ) -> Iterator[tuple[list[tuple[int, Window]], Any]]:
        """`call(batch)` over batches of `self.rows` rows, the last one filled up with empty
        rows.
        """
        for k in range(0, len(jobs), self.rows):
            part = jobs[k : k + self.rows]
            rows: list[Row] = [w.row for _, w in part] + [empty_row(self.budget)] * (
                self.rows - len(part)
            )
            batch = sharding.spread(Batch(**stack(rows)), self.mesh)
            with jax.set_mesh(self.mesh):
                yield part, jax.device_get(call(self.params, batch))

    @functools.cached_property
    def _score(self) -> Any:
        @functools.partial(jax.jit, out_shardings=sharding.everywhere(self.mesh))
        def run(params: Any, batch: Batch) -> dict[str, jax.Array]:
            out, cuts = self._captured(params, batch, self.model.__class__.__call__)
            ends = cuts[0][0].ends if cuts else batch.doc > 0
            return {"nll": out.nll_BLN[:, :, 0], "hit": out.hit_BL, "ends": ends}

        return run

    @functools.cached_property
    def _log_p(self) -> Any:
        @functools.partial(jax.jit, out_shardings=sharding.everywhere(self.mesh))
        def run(params: Any, batch: Batch) -> jax.Array:
            logits_BLNV: Any = self.model.apply({"params": params}, batch, method="logits")
            return jax.nn.log_softmax(logits_BLNV[:, :, 0], axis=-1)

        return run

    @functools.cached_property
    def _look(self) -> Any:
        @functools.partial(
            jax.jit, out_shardings=sharding.everywhere(self.mesh), static_argnames="level"
        )
        def run(params: Any, batch: Batch, level: int) -> dict[str, jax.Array]:
            _, cuts = self._captured(params, batch, self.model.__class__.hidden)
            b, z_BSE = cuts[level - 1]
            at = b.at
            # from elements of that level down to symbols
            for below, _ in reversed(cuts[: level - 1]):
                at = jnp.take_along_axis(below.at, at, axis=1)
            return {"used": b.used, "at": at, "vectors": z_BSE.astype(jnp.float32)}

        return run

    def _captured(
        self, params: Any, batch: Batch, method: Any
    ) -> tuple[Any, list[tuple[Boundaries, jax.Array]]]:
        """The method's result, and for each level (boundaries, the backbone's output [B, S, E])."""

        def wanted(module: Any, name: str) -> bool:
            return name == "cut" or (module.name == "backbone" and name == "__call__")

        captured: Any = self.model.apply(
            {"params": params}, batch, method=method, capture_intermediates=wanted
        )
        out, state = captured
        tree, cuts = state.get("intermediates", {}).get("trunk", {}), []
        while "cut" in tree:
            cuts.append((tree["cut"][0][0], tree["backbone"]["__call__"][0][0]))
            tree = tree["backbone"]
        return out, cuts


@dataclasses.dataclass
class _Cut:
    ends: np.ndarray  # bool [L]: symbols that end a chunk
    at: np.ndarray  # [chunks]: element that ends each chunk
    vectors: np.ndarray  # [chunks, E]


def as_bytes(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else text


def listed(texts: Any) -> list[Any]:
    """One text or prompt, or several of them, as a list."""
    return [texts] if isinstance(texts, (str, bytes, Infill)) else list(texts)


def _score_of(encoded: Encoded, nats: np.ndarray, hits: np.ndarray, chunks: int) -> Score:
    nbytes = encoded.nbytes.astype(np.int64)
    total = int(nbytes.sum())
    # the last byte of each symbol, or the byte before a symbol without bytes
    owner = np.maximum(np.cumsum(nbytes) - 1, 0)
    per_byte = np.zeros(max(total, 1))
    plain = nbytes > 0
    np.add.at(per_byte, owner[~plain], nats[~plain])
    spread = np.repeat(np.where(plain, nats / np.maximum(nbytes, 1), 0.0), nbytes)
    per_byte[: len(spread)] += spread
    return Score(
        nats=float(nats.sum()),
        nbytes=total,
        per_byte=per_byte[:total],
        hits=np.repeat(hits, nbytes),
        symbols=len(nats) - 1,
        chunks=chunks,
    )
