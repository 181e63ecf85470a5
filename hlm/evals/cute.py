"""CUTE (Edman et al. 2024, arXiv 2409.15452): spelling, containing, similarity and manipulation of
letters in words and of words in sentences.

Protocol: four worked examples, which are other rows of the same file, then the question; the answer
stands in quotes. Where there are two possible answers (contains, orth, sem) they are compared by
log-likelihood, chance is a half. Else the answer counts if greedy decoding writes it, with its
closing quote, as the published exact match. Files with `_rand` use random letters for words. Scores
of 7B models: Llama-2 0.08 on ins_char, Bolmo 78.6 on average; `sem` needs knowledge, not letters.
"""

import numpy as np

from hlm.evals.choice import Item
from hlm.evals.shelf import Shelf

SHOTS = 4
Row = dict[str, str]
# The question of each file, of the columns before its label.
ASK = {
    "spell": 'Spell out the word "{input1}" with a space between its letters.',
    "spell_inverse": 'Write the word that is spelled out "{input1}".',
    "contains_char": 'Is there a "{input1}" in the word "{input2}"?',
    "contains_word": 'Is there a "{input1}" in the sentence "{input2}"?',
    "orth": 'Which is spelled more like "{input1}": "{input2}" or "{input3}"?',
    "sem": 'Which means more nearly the same as "{input1}": "{input2}" or "{input3}"?',
    "ins_char": 'Put "{input1}" behind every "{input2}" in the word "{input3}".',
    "ins_word": 'Put "{input1}" behind every "{input2}" in the sentence "{input3}".',
    "del_char": 'Delete every "{input1}" from the word "{input2}".',
    "del_word": 'Delete every "{input1}" from the sentence "{input2}".',
    "sub_char": 'Write "{input2}" for every "{input1}" in the word "{input3}".',
    "sub_word": 'Write "{input2}" for every "{input1}" in the sentence "{input3}".',
    "swap_char": 'Swap every "{input1}" and "{input2}" in the word "{input3}".',
    "swap_word": 'Swap every "{input1}" and "{input2}" in the sentence "{input3}".',
}


def options(name: str, row: Row) -> list[str] | None:
    """The two possible answers; None where any text may be the answer."""
    if name.startswith("contains"):
        return ["Yes", "No"]
    return [row["input2"], row["input3"]] if name.startswith(("orth", "sem")) else None


def read(name: str, shelf: Shelf, most: int | None, rng: np.random.Generator) -> list[Item]:
    """Questions of a file eval/cute/NAME.tsv."""
    file = f"eval/cute/{name}.tsv"
    header, *lines = (line.split("\t") for line in shelf.lines(file))
    for i, line in enumerate(lines, 2):
        if header[-1] != "label" or len(line) != len(header):
            raise ValueError(
                f"{file}:{i}: {len(line)} columns; expected {header}, label at the end"
            )
    if len(lines) <= SHOTS:
        raise ValueError(f"{file}: {len(lines)} rows, but {SHOTS} are needed for examples alone")
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    return [item(name, rows, int(i), rng) for i in np.sort(rng.permutation(len(rows))[:most])]


def question(name: str, row: Row) -> str:
    return f'{ASK[name.removesuffix("_rand")].format_map(row)} Answer: "'


def item(name: str, rows: list[Row], which: int, rng: np.random.Generator) -> Item:
    others = np.delete(np.arange(len(rows)), which)
    shown = [rows[i] for i in rng.choice(others, SHOTS, replace=False)]
    row = rows[which]
    context = "".join(f'{question(name, r)}{r["label"]}"\n' for r in shown) + question(name, row)
    possible = options(name, row)
    if possible is None:
        return Item(((context, f'{row["label"]}"'),), 0)
    answer = possible.index(row["label"])
    return Item(tuple((context, f'{option}"') for option in possible), answer, str(answer))
