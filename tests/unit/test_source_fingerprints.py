"""Fingerprints tell the contents of sources apart, and not their places."""

import json

import numpy as np

from hlm.data.contents import fingerprint
from hlm.data.records import ArrayRecord
from hlm.data.source import JsonLines, Mixture, Record, Records, TextFiles
from tests.unit.source_files import LINES, PLAIN, array_record, write


def test_fingerprints_tell_contents_not_places(tmp_path):
    rng = np.random.default_rng(0)
    small, big = PLAIN, rng.integers(32, 127, 300_000, np.uint8).tobytes()

    def of(folder, *contents, **options):
        paths = tuple(
            write(tmp_path, f"{folder}/{i}.txt", content) for i, content in enumerate(contents)
        )
        return fingerprint(TextFiles(paths, **options))

    first = of("a", small, big)
    assert first == of("b", small, big) == of("b", small, big, piece=99)
    changed = [
        of("c", big, small),
        of("c", small),
        of("c", small[:-1] + b"!", big),
        of("c", small, b"!" + big[1:]),
        of("c", small, big[:-1] + b"!"),
        of("c", small, big + b"!"),
        of("c", small, big[:100_000] + bytes(100_000) + big[200_000:]),
        of("c", small + big),
    ]
    assert len({json.dumps(f) for f in [first, *changed]}) == 1 + len(changed)
    lines = write(tmp_path, "a.jsonl", LINES)
    one, two = JsonLines((lines,)), TextFiles((write(tmp_path, "a.txt", PLAIN),))
    both = fingerprint(Mixture((one, Mixture((two, one), (1, 1))), (1, 1)))
    assert list(both) == [
        "source.sources[0]",
        "source.sources[1].sources[0]",
        "source.sources[1].sources[1]",
    ]
    assert (
        both["source.sources[0]"]
        == both["source.sources[1].sources[1]"]
        == fingerprint(one)["source"]
    )
    assert fingerprint(ArrayRecord((array_record(tmp_path, [b"a"]),))) != fingerprint(
        ArrayRecord((array_record(tmp_path, [b"b"]),))
    )


def test_fingerprints_of_sources_without_files():
    class Own(Records):
        def __init__(self, texts):
            self.texts = texts

        def open(self):
            return self

        def __len__(self):
            return len(self.texts)

        def __getitem__(self, index):
            return Record(self.texts[index], True)

        def name(self, index):
            return str(index)

    found = [
        fingerprint(Own(texts))
        for texts in ([b"a", b"b"], [b"ab"], [b"a", b"c"], [b"a"] * 100, [b"a"] * 101, [])
    ]
    assert len({json.dumps(f) for f in found}) == len(found)
    assert fingerprint(Own([b"a", b"b"])) == found[0]
