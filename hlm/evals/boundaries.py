"""Where a model ends its chunks: how often, at what, and how firmly.

Protocol: sentences of Universal Dependencies (parallel, PUD) by language, each alone, at the lowest
level of chunks; a flat model with a tokenizer is measured by its pieces. The end of the sentence
counts nowhere.

- `bytes_per_chunk`, `characters_per_chunk`: 1 over the rate.
- `word_f1` (precision, recall): ends against those of gold tokens; blanks are moved behind the end,
  so a chunk may own its blank or not. A rule that cuts everywhere has recall 1.
- `share_on_character_edges`: ends that break no UTF-8 character.
- `kept_with_more_text`: ends in a beginning of the sentence that are the same once the sentence
  goes on (common over all). Below 1, what the model reads at the end of a prompt is not what it
  learned from.
- `kept_under_typo`: the same outside of a gold token in which one letter became another.
- `first_byte_bits_change`: bits of first bytes of chunks relative to all bytes (boundary
  enrichment: SOMBRERO, arXiv 2601.22805); above 0, chunks begin where the model is surprised. Not
  for pieces of a tokenizer, whose bits are spread over their bytes.

Morphemes are those of SIGMORPHON 2022 (Batsuren et al.), words whose morphemes spelled together are
the word, read alone behind a blank; ends against the gold ones inside of the word.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hlm.evals.measure import Measure, change, ratio
from hlm.evals.shelf import Missing, Shelf, some
from hlm.evals.suite import Found, Grid, Setting, Suite
from hlm.infer.api import LanguageModel
from hlm.subwords import Subwords

USUAL = 40  # sentences of a language; ten times as many words
FOLDER, MORPHEMES = "ud-pud", "eval/sigmorphon2022seg"
Ends = set[int]  # in bytes, without that of the text
Span = tuple[int, int]


class Sentence(NamedTuple):
    text: bytes
    tokens: list[Span]  # gold ones, in bytes


class Boundaries(Suite):
    """For models with chunks or with a tokenizer, also those that look both ways."""

    def fits(self, lm: LanguageModel) -> bool:
        return bool(lm.budget.chunks) or isinstance(lm.codec, Subwords)

    def evaluate(self, lm: LanguageModel, setting: Setting) -> Found:
        shelf, most = setting.shelf, setting.most(USUAL)
        languages: Grid = {}
        for name in shelf.names(f"{FOLDER}/*.jsonl"):
            rows = some(shelf.rows(name), most, setting.seed)
            found = [aligned(row["text"], row["tokens"]) for row in rows]
            language = name.removeprefix(f"{FOLDER}/").removesuffix(".jsonl")
            languages[language] = measures(lm, [s for s in found if s.tokens], setting.seed)
        words: Grid = {}
        for name in shelf.names(f"{MORPHEMES}/*.word.dev.tsv"):
            spelled = some(list(morphemes(shelf, name)), most and 10 * most, setting.seed)
            language = name.removeprefix(f"{MORPHEMES}/").removesuffix(".word.dev.tsv")
            words[language] = of_morphemes(lm, spelled)
        if not languages and not words:
            raise Missing(f"no {FOLDER}/*.jsonl and no {MORPHEMES}/*.word.dev.tsv")
        grids = {"boundaries": languages, "boundaries of morphemes": words}
        return Found({title: grid for title, grid in grids.items() if grid})


def aligned(text: str, tokens: Sequence[str]) -> Sentence:
    """Tokens where they stand in the text; without tokens if one does not."""
    spans, at = [], 0
    for token in tokens:
        start = text.find(token, at)
        if start < 0 or text[at:start].strip():
            return Sentence(text.encode(), [])
        at = start + len(token)
        spans.append((len(text[:start].encode()), len(text[:at].encode())))
    return Sentence(text.encode(), spans)


def ends(lm: LanguageModel, texts: Sequence[bytes]) -> list[Ends]:
    """Where chunks or pieces stop, in all texts at once."""
    if lm.budget.chunks:
        stops = [found for found, _ in lm.cut(list(texts))]
    else:
        stops = [np.cumsum(lm.codec.encode(text).nbytes, dtype=np.int64).tolist() for text in texts]
    return [{s for s in found if s < len(t)} for found, t in zip(stops, texts, strict=True)]


def behind_blanks(text: bytes, at: Ends) -> Ends:
    """Ends moved behind the blanks that follow."""
    moved = (len(text) - len(text[a:].lstrip()) for a in at)
    return {a for a in moved if 0 < a < len(text)}


def measures(lm: LanguageModel, found: Sequence[Sentence], seed: int) -> dict[str, Measure]:
    texts = [sentence.text for sentence in found]
    cut = ends(lm, texts)
    gold = [behind_blanks(s.text, {stop for _, stop in s.tokens}) for s in found]
    mine = [behind_blanks(text, each) for text, each in zip(texts, cut, strict=True)]
    hits = np.array([len(a & b) for a, b in zip(mine, gold, strict=True)])
    sizes = [np.array([len(a) for a in sets]) for sets in (mine, gold)]
    chunks = [len(each) + 1 for each in cut]
    edges = [sum((text[a] & 0xC0) != 0x80 for a in e) for text, e in zip(texts, cut, strict=True)]
    out = {
        "bytes_per_chunk": ratio([len(text) for text in texts], chunks),
        "characters_per_chunk": ratio([len(text.decode()) for text in texts], chunks),
        "word_f1": ratio(2 * hits, sizes[0] + sizes[1]),
        "word_precision": ratio(hits, sizes[0]),
        "word_recall": ratio(hits, sizes[1]),
        "share_on_character_edges": ratio(edges, [len(each) for each in cut]),
        "kept_with_more_text": with_more_text(lm, texts, cut, seed),
        "kept_under_typo": under_typos(lm, found, cut, seed),
    }
    if lm.model.causal and lm.budget.chunks:
        out["first_byte_bits_change"] = enrichment(lm, texts, cut)
    return out


def kept(pairs: Iterator[tuple[Ends, Ends]]) -> Measure:
    """Ends in common over all ends."""
    sizes = [(len(a & b), len(a | b)) for a, b in pairs]
    return ratio([size for size, _ in sizes], [size for _, size in sizes])


def with_more_text(
    lm: LanguageModel, texts: Sequence[bytes], cut: Sequence[Ends], seed: int
) -> Measure:
    """Each text is cut off somewhere, between characters, and read again."""
    rng = np.random.default_rng([seed, 0])
    stops = []
    for text in texts:
        edges = [i for i in range(1, len(text)) if (text[i] & 0xC0) != 0x80]
        stops.append(int(rng.choice(edges)) if edges else len(text))
    again = ends(lm, [text[:stop] for text, stop in zip(texts, stops, strict=True)])
    return kept(
        ({a for a in before if a < stop}, after)
        for before, after, stop in zip(cut, again, stops, strict=True)
    )


def under_typos(
    lm: LanguageModel, found: Sequence[Sentence], cut: Sequence[Ends], seed: int
) -> Measure:
    """In each sentence a letter becomes another of as many bytes that stands in it."""
    rng = np.random.default_rng([seed, 1])
    typos, spans = [], []
    for sentence in found:
        text, span = typo(sentence, rng)
        typos.append(text)
        spans.append(span)
    again = ends(lm, typos)
    return kept(
        ({a for a in before if not s < a < e}, {a for a in after if not s < a < e})
        for before, after, (s, e) in zip(cut, again, spans, strict=True)
    )


def typo(sentence: Sentence, rng: np.random.Generator) -> tuple[bytes, Span]:
    """The text with a typo, and the token that has it."""
    text = sentence.text.decode()
    letters = sorted({c for c in text if c.isalpha()})
    for which in rng.permutation(len(sentence.tokens)):
        start, stop = sentence.tokens[which]
        token = sentence.text[start:stop].decode()
        places = [i for i, c in enumerate(token) if c.isalpha()]
        if len(places) < 2:
            continue
        at = int(rng.choice(places))
        size = len(token[at].encode())
        others = [c for c in letters if c != token[at] and len(c.encode()) == size]
        if others:
            new = token[:at] + str(rng.choice(others)) + token[at + 1 :]
            return sentence.text[:start] + new.encode() + sentence.text[stop:], (start, stop)
    return sentence.text, (0, 0)


def enrichment(lm: LanguageModel, texts: Sequence[bytes], cut: Sequence[Ends]) -> Measure:
    first, counts, every, sizes = [], [], [], []
    for score, each in zip(lm.score(list(texts), complete=False), cut, strict=True):
        bits = score.per_byte / np.log(2)
        first.append(bits[sorted(each)].sum() if each else 0.0)
        counts.append(len(each))
        every.append(bits.sum())
        sizes.append(len(bits))
    return change(ratio(first, counts), ratio(every, sizes))


def morphemes(shelf: Shelf, name: str) -> Iterator[tuple[str, Ends]]:
    """Words with the ends of their morphemes, in bytes, the last one left out."""
    for line in shelf.lines(name):
        word, _, rest = line.partition("\t")
        parts = [part.removeprefix("@@") for part in rest.split("\t")[0].split(" ")]
        if "".join(parts) == word:
            sizes = np.cumsum([len(part.encode()) for part in parts])
            yield word, set(sizes[:-1].tolist())


def of_morphemes(lm: LanguageModel, words: Sequence[tuple[str, Ends]]) -> dict[str, Measure]:
    cut = ends(lm, [b" " + word.encode() for word, _ in words])
    mine = [{a - 1 for a in each if a > 1} for each in cut]
    rows: list[Any] = [(len(a & b), len(a), len(b)) for a, (_, b) in zip(mine, words, strict=True)]
    hits, own, gold = np.array(rows, np.float64).reshape(-1, 3).T
    return {
        "morpheme_f1": ratio(2 * hits, own + gold),
        "morpheme_precision": ratio(hits, own),
        "morpheme_recall": ratio(hits, gold),
        "chunks_per_word": ratio(own + 1, np.ones(len(words))),
    }
