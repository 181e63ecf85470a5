"""A trained model in a notebook: `lm = hlm.load(path)`, then score, generate, chunks, embed, show.

Text is str or bytes. What is given is checked by hlm/infer/given.py, before anything is run.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hlm import checkpoint, exported, sharding
from hlm.config import Experiment
from hlm.data.pack import Budget, Row, Window, empty_row, stack
from hlm.fim import FIMCodec, Infill
from hlm.infer import given
from hlm.infer.continued import MOST_ROWS, Continuation, Made, Stats, continued
from hlm.infer.cut import captured, closed, cut, program
from hlm.infer.drafts import ChunkDrafts, Drafter, HeadDrafts
from hlm.infer.given import Text
from hlm.infer.loop import Loop
from hlm.infer.next_byte import next_byte
from hlm.infer.rows import at_once
from hlm.infer.sampling import Sampling
from hlm.infer.score import Score, Scorer, scored
from hlm.infer.stream import Stream
from hlm.look import about, picture
from hlm.model.hierarchy import capacities, levels_of
from hlm.model.lm import LM
from hlm.seq import Batch
from hlm.vocab import Encoded

Prompt = Text | Infill
SLICE, STREAM_SLICE = 64, 8  # steps of generation between two looks of the host


def load(
    path: str | os.PathLike[str],
    step: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    average: bool = False,
    rows: int | None = None,
) -> "LanguageModel":
    """A model from the folder of a training run (its --workdir) or of an export, which is all that
    is needed.

    Of a run it is the newest sound step by default; RUN@STEP is another, as `step` is. `average`:
    with the average of the weights, if the run had `average=EMA()`. `mesh`: devices to split rows
    and parameters over, such as `hlm.Mesh(model=4).make()`; the first one alone by default. `rows`:
    read at once, on all of them; see `LanguageModel`.
    """
    found, at = checkpoint.run_and_step(located(path))
    if step is not None:
        step = given.whole(step, "step")
        if at not in (None, step):
            raise ValueError(f"step: {step}, but the path {found}@{at} says {at}; give one of them")
    mesh = mesh or sharding.Mesh().make(jax.devices()[:1])
    average = given.flag(average, "average")
    at = at if step is None else step
    step, experiment, params = checkpoint.load_params(found, at, mesh, average)
    return LanguageModel(experiment, params, mesh, step, origin=found, rows=rows)


def export(lm: "LanguageModel", path: str | os.PathLike[str]) -> None:
    """Write a model as two plain files, path/model.safetensors and path/config.json; `load(path)`
    gives the same bits back.
    """
    exported.write(located(path), lm.step, lm.experiment, lm.params)


def located(path: Any) -> str:
    """A path as text, `~` being the home folder."""
    found = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(found, str) or not found:
        raise ValueError(f"path: {given.shown(path)} is no path; give that of a folder")
    return os.path.expanduser(found)


class LanguageModel:
    """A model with its parameters. Rows are those of its training: length and chunk capacities
    come from its config.

    It reads `rows` of them at once, over all devices of its mesh; None is a micro-batch of
    training, but at most 65,536 elements a device (hlm/infer/rows.py).

    Texts longer than a row are read in windows: each sees up to `context` symbols of the text
    before its first scored one. That is an eighth of a row, so that reading them again costs a
    seventh; half a row for models that look both ways.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: Any,
        mesh: jax.sharding.Mesh,
        step: int = 0,
        origin: str = "",
        rows: int | None = None,
    ):
        self.experiment, self.params, self.mesh, self.step = experiment, params, mesh, step
        self.origin = origin  # where it was loaded from: a path, or FORMAT:PATH
        self.model: LM = experiment.model
        self.codec = self.model.codec
        self.budget = Budget(experiment.data.length, capacities(self.model.trunk))
        self.context = self.budget.length // (8 if self.model.causal else 2)
        self.rows = at_once(rows, experiment, mesh)
        self.stats = Stats()  # of generation; assign a new one to begin anew
        self._loops: dict[tuple[int, Drafter | None], Loop] = {}

    @property
    def name(self) -> str:
        """Short: the last part of `origin`, and the step."""
        return about.name_of(self)

    def __repr__(self) -> str:
        return about.line(self)

    def _repr_html_(self) -> str:
        return about.table(self)

    def show(self, text: Prompt, most: int = picture.MOST) -> picture.Picture:
        """Chunks and surprise drawn below a text, in a notebook, a browser or a terminal;
        `hlm.show` draws several models below the same text.

        `most`: bytes of the text that are read and drawn.
        """
        return picture.show(self, text, most)

    def score(
        self,
        texts: Prompt | Sequence[Prompt],
        complete: bool = True,
        context: int | None = None,
    ) -> list[Score]:
        """Likelihood of each text after BOS; `complete`: the end of the document is part of it,
        in a field of its own.

        `context`: symbols that each window of a text longer than a row reads again before those
        that it scores; None: an eighth of a row. Of an `Infill` it is that of its two parts, which
        are read, and stand in `per_byte`, suffix first.
        """
        self._must_be_causal("score")
        complete = given.flag(complete, "complete")
        read_again = self._context(context)
        prompts = given.prompts(texts, "texts")
        encoded = (self.encode(text, complete) for text in prompts)
        return list(scored(self._score, encoded, self.codec.eos, read_again))

    def _context(self, asked: int | None) -> int:
        if asked is None:
            return self.context
        most = self.budget.length - 1
        return given.whole(asked, "context", 0, most, "; None: an eighth of a row")

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
    ) -> list[Made]:
        """Continue each prompt until the end of the document, a `stop` (left out) or `max_bytes`.

        Each result is bytes, and its `ended` says why it ended: "eos", "stop", "length", or "full"
        where a layer without a window has no more room. A prompt that has no room itself, being
        longer than a row, gets b"" and "full"; it is not cut to fit, and the others go on. Models
        whose layers all have windows read prompts of any length and go on without end.

        `speculate`: symbols drafted in each step, past the backbone if the model can, or else by
        further heads; or a drafter (hlm/infer/drafts.py). What is made is the same, whatever the
        drafts.

        A prompt may end inside a word or a character; with codec=FIMCodec it may be an
        `Infill(prefix, suffix)`, between which the text belongs. Temperature 0 is greedy. A text's
        randomness depends on its index and `seed` only, or on its own of several seeds: whole
        numbers of 0 to 2**32 - 1. `stats` adds up what it cost.
        """
        texts, how = given.prompts(prompts, "prompts"), Sampling(temperature, top_p, top_k)
        seeds, made = given.seeds(seed, len(texts)), []
        run = self._continuing(max_bytes, how, stop, SLICE, speculate)
        encoded = [self.encode(text, False) for text in texts]
        for first in range(0, len(texts), MOST_ROWS):
            part = slice(first, first + MOST_ROWS)
            *_, rows = run(encoded[part], first, seeds[part])
            made += [Made(row.text, row.ended) for row in rows]
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
    ) -> Stream:
        """As `generate` for one prompt, in pieces of whole characters while they are made; invalid
        UTF-8 becomes U+FFFD.

        The iterator's `ended` says why it ended.
        """
        text = prompt if isinstance(prompt, Infill) else given.text(prompt, "prompt")
        encoded, seeds = self.encode(text, False), [given.seed(seed)]
        how = Sampling(temperature, top_p, top_k)
        run = self._continuing(max_bytes, how, stop, STREAM_SLICE, speculate)
        before = given.text(text.prefix, "prefix") if isinstance(text, Infill) else text
        return Stream(run([encoded], 0, seeds), before)

    def encode(self, prompt: bytes | Infill, complete: bool = True) -> Encoded:
        """Symbols as the model reads them; of an `Infill`, its suffix first."""
        if not isinstance(prompt, Infill):
            return self.codec.encode(prompt, complete)
        if not isinstance(self.codec, FIMCodec):
            raise ValueError(
                "prompt: an Infill, but the model was not made to fill any: its codec is "
                f"{type(self.codec).__name__}, not FIMCodec; "
                "train one such as configs/hat.py:tiny_gaps"
            )
        parts = given.text(prompt.prefix, "prefix"), given.text(prompt.suffix, "suffix")
        return self.codec.encode_infill(*parts, complete)

    def _continuing(
        self,
        max_bytes: int,
        how: Sampling,
        stop: Text | Sequence[Text],
        steps: int,
        drafts: int | Drafter,
    ) -> Any:
        """(prompts, number of the first, seeds) -> rows after each slice of steps; see
        hlm/infer/continued.py.
        """
        self._must_be_causal("generate")
        most, stops = given.most_bytes(max_bytes), given.stops(stop)
        drafter = self._drafter(drafts)
        loop = Loop(self.model, (self.budget.length, *self.budget.chunks), steps, drafter)
        loop = self._loops.setdefault((steps, drafter), loop)

        def run(
            prompts: list[Encoded], first: int, seeds: Sequence[int]
        ) -> Iterator[list[Continuation]]:
            slices = continued(
                loop, self.params, prompts, first, most, how, seeds, stops, self.stats
            )
            while True:
                with jax.set_mesh(self.mesh):  # not while suspended: the caller has a mesh, too
                    rows = next(slices, None)
                if rows is None:
                    return
                yield rows

        return run

    def _drafter(self, asked: int | Drafter) -> Drafter | None:
        """That of so many drafts, which suits the model; None: none."""
        if isinstance(asked, Drafter):
            return asked
        count = given.whole(asked, "speculate", fix=", or a drafter")
        kind = ChunkDrafts if self.model.trunk.can_draft else HeadDrafts
        return kind(count) if count else None

    def next_byte(self, prefixes: Text | Sequence[Text]) -> list[np.ndarray]:
        """Log-probabilities of the 256 bytes that may follow each open text, and of its end:
        float64 [257], exact for any codec.

        A model over subwords is summed over all encodings that the text may turn out to have
        (hlm/infer/next_byte.py).
        """
        texts = given.texts(prefixes, "prefixes")
        return [next_byte(self.codec, self.log_p, text) for text in texts]

    def log_p(self, streams: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities [n, V] of what follows each symbol of streams [n] that begin with BOS
        and fit into a row.
        """
        self._must_be_causal("log_p")
        streams = given.streams(streams, self.codec.bos, self.codec.size)
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
        """The text cut as the model cuts it at `level`; joined, the chunks are the text.

        None is empty, BOS is in none, and the end of the text ends the last one at every level. So
        they are as many as the vectors of `embed(text, level)[0]`, in the same order.
        """
        raw = given.text(text, "text")
        ((stops, _),) = self.cut([raw], level)
        return [raw[a:b] for a, b in zip([0, *stops], stops, strict=False)]

    def embed(self, texts: Text | Sequence[Text], level: int = 1) -> list[np.ndarray]:
        """What the backbone above `level` makes of each of `chunks(text, level)`, in their order:
        float32 [chunks, width] per text.

        BOS, which is a chunk to the model, has no vector here. The last chunk is read as one that
        ends with the text, also where the model might have gone on with it. In a text longer than a
        row, each vector is that of the window that scores what follows it (`score`).
        """
        return [vectors for _, vectors in self.cut(texts, level)]

    def cut(
        self, texts: Text | Sequence[Text], level: int = 1
    ) -> list[tuple[list[int], np.ndarray]]:
        """`chunks` and `embed` of many texts at once: of each, where its chunks of `level` stop, in
        bytes, and their vectors, float32 [chunks, width].
        """
        raws = given.texts(texts, "texts")
        depth = len(self.budget.chunks)
        level = given.whole(level, "level", 1)
        if level > depth:
            raise ValueError(f"level: {level} but this model has {depth} levels of chunks")
        return [(stops[-1], vectors) for stops, vectors in self._cut(raws, level)]

    def ends(self, texts: Prompt | Sequence[Prompt]) -> list[list[list[int]]]:
        """Of each text and each level, lowest first, where its chunks stop, in bytes; of an
        `Infill` in its suffix followed by its prefix, as the model reads it.
        """
        prompts = given.prompts(texts, "texts")
        depth = len(self.budget.chunks)
        return [stops for stops, _ in self._cut(prompts, depth)] if depth else [[] for _ in prompts]

    def _cut(
        self, prompts: Sequence[bytes | Infill], level: int
    ) -> list[tuple[list[list[int]], np.ndarray]]:
        """Of each text, where the chunks of all levels up to `level` stop, and the vectors of
        those of `level`.
        """
        encoded = [closed(self.encode(text), self.codec.eos, level) for text in prompts]
        look = functools.partial(self._look, level=level)
        return cut(encoded, level, self.budget, self.context, lambda jobs: self._run(jobs, look))

    def _must_be_causal(self, method: str) -> None:
        if not self.model.causal:
            raise ValueError(
                f"{method}: a {type(self.model).__name__} looks both ways, so it gives texts "
                "no likelihood and writes none; "
                "use chunks, embed, and for its pseudo-likelihood eval.py --suite masked "
                "(hlm.evals.masked)"
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
                out = jax.device_get(call(self.params, batch))
            yield part, out

    @functools.cached_property
    def _score(self) -> Scorer:
        learned = [not level.segmenter.from_levels for level in levels_of(self.model.trunk)]

        @functools.partial(jax.jit, out_shardings=sharding.everywhere(self.mesh))
        def run(params: Any, batch: Batch) -> dict[str, jax.Array]:
            out, cuts = captured(self.model, params, batch, self.model.__class__.__call__)
            ends = cuts[0][0].ends if cuts else batch.doc > 0
            full_B = jnp.zeros(batch.doc.shape[0], bool)
            for (b, _), found_by_model in zip(cuts, learned, strict=True):
                if found_by_model:
                    full_B |= b.used[:, -1]
            return {"nll": out.nll_BLN[:, :, 0], "hit": out.hit_BL, "ends": ends, "full": full_B}

        def begin(rows: list[Row]) -> Any:
            with jax.set_mesh(self.mesh):
                return run(self.params, sharding.spread(Batch(**stack(rows)), self.mesh))

        return Scorer(begin, self.budget, self.rows)

    @functools.cached_property
    def _log_p(self) -> Any:
        @functools.partial(jax.jit, out_shardings=sharding.everywhere(self.mesh))
        def run(params: Any, batch: Batch) -> jax.Array:
            logits_BLNV: Any = self.model.apply({"params": params}, batch, method="logits")
            return jax.nn.log_softmax(logits_BLNV[:, :, 0], axis=-1)

        return run

    @functools.cached_property
    def _look(self) -> Any:
        return program(self.model, self.mesh)
