"""The law of deals: a run goes on with any number of processes and workers, and no record comes
twice in an epoch nor is left out, whether records are read at random or file by file.
"""

import gzip
import io
import itertools
import json
import re

import grain
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hlm.data import in_order
from hlm.data.deal import Deal, Dealt, OtherDeal
from hlm.data.in_order import InOrder
from hlm.data.pack import Budget
from hlm.data.parts import Behind, Part, dealt
from hlm.data.pipeline import Data, batches
from hlm.data.source import JsonLines, Mixture, Parquet, Streamed, TextFiles
from hlm.split import Words
from hlm.vocab import Bytes

CODEC, BUDGET, ROWS = Bytes(Words()), Budget(48, (16,)), 2


def json_lines(texts):
    return "\n".join(json.dumps({"text": text}) for text in texts).encode()


def parquet(texts):
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), out, row_group_size=5)
    return out.getvalue()


FORMATS = {
    "gz": (JsonLines, "jsonl.gz", lambda texts: gzip.compress(json_lines(texts))),
    "zst": (JsonLines, "jsonl.zst", lambda texts: zstandard.compress(json_lines(texts))),
    "plain": (lambda paths, **o: Streamed(JsonLines(paths, **o)), "jsonl", json_lines),
    "parquet": (Parquet, "parquet", parquet),
    "text": (
        lambda paths, **o: TextFiles(paths, "|", **o),
        "txt.gz",
        lambda texts: gzip.compress("|".join(texts).encode()),
    ),
    "at random": (
        lambda paths, **o: TextFiles(paths, "|", **o),
        "txt",
        lambda texts: "|".join(texts).encode(),
    ),
}


def in_files(folder, kind, texts, cuts, **options):
    """A source of texts, in files that end at these places."""
    make, ending, pack = FORMATS[kind]
    for i, (start, stop) in enumerate(itertools.pairwise([0, *cuts, len(texts)])):
        (folder / f"{i:02}.{ending}").write_bytes(pack(texts[start:stop]))
    return make((f"{folder}/*.{ending}",), **options)


# --- readers


def take(iterator, n):
    return list(itertools.islice(iterator, n))


def readers(stream, order, deals, process, processes, workers):
    """(place, record), without end, of each worker of a process."""
    for worker in range(workers):
        data = InOrder(
            stream, order, process, processes, "source", deals, [d.begun[0] for d in deals]
        )
        data.set_slice(slice(worker, None, workers))
        yield iter(data)


CASES = [
    # files, records that are shuffled together (None: in order), most processes, most workers
    (9, 7, 3, 2),
    (9, 5000, 3, 2),  # a window holds all
    (12, None, 2, 3),
    (2, 7, 3, 3),  # files are fewer than readers
    (1, None, 2, 3),
    (1, 11, 3, 2),
    (40, 4, 2, 2),  # files are shorter than windows
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ["gz", "parquet"])
def test_every_record_of_files_in_order_is_dealt_once(tmp_path, kind, case, seed, monkeypatch):
    """Readers that have read unequally far, dealt anew four times: all of the epoch comes, the
    first one or a later one, each record once.
    """
    files, window, *most = case
    rng = np.random.default_rng([seed, files])
    monkeypatch.setattr(in_order, "WINDOW", window)
    # in pieces, no two alike
    texts = [
        " ".join(f"{i:03}{piece}" for piece in "abcdefgh"[: int(n)])
        for i, n in enumerate(rng.integers(1, 9, 90))
    ]
    cuts = np.sort(rng.choice(np.arange(1, len(texts)), files - 1, replace=False))
    opened = in_files(tmp_path, kind, texts, cuts.tolist(), piece=12).open()
    everything = sorted(record.text for record in opened)
    deals, seen, before = [], [], seed % 2  # epochs that all have read
    for turn in range(5):
        processes, workers = (int(rng.integers(1, n + 1)) for n in most)
        begun = [[Behind(before)] * workers for _ in range(processes)]
        for p in range(processes):
            run = readers(opened, None if window is None else seed, deals, p, processes, workers)
            for w, reader in enumerate(run):
                left = len(everything) if turn == 4 else int(rng.integers(len(everything) // 16))
                for (worker, *place), record in reader:
                    place = Behind(*place)
                    if place.epoch < before:
                        continue
                    if place.epoch > before or not left:
                        break
                    assert (worker, begun[p][w] < place) == (w, True)
                    begun[p][w], left = place, left - 1
                    seen.append(record.text)
        assert len(seen) == len(set(seen)) > 0
        deals.append(Deal(*json.loads(json.dumps(Deal(processes, workers, [begun])))))
        before = 0
    assert sorted(seen) == everything


def test_readers_in_several_epochs(tmp_path, monkeypatch):
    """Each leaves what it has not read of its own; the next epoch is whole again."""
    monkeypatch.setattr(in_order, "WINDOW", 6)
    texts = [f"{i}" for i in range(50)]
    opened = in_files(tmp_path, "gz", texts, [10]).open()
    begun, read = [], []
    for p, count in enumerate((25, 18)):  # of 10 and of 40
        [reader] = readers(opened, 3, [], p, 2, 1)
        *_, (place, _) = some = take(reader, count)
        read.append([record.text.decode() for _, record in some])
        begun.append([Behind(*place[1:])])
    assert [place.epoch for [place] in begun] == [2, 0]
    [reader] = readers(opened, 3, [Deal(2, 1, [begun])], 0, 1, 1)
    rest, whole = ([record.text.decode() for _, record in take(reader, n)] for n in (27, 50))
    assert sorted(read[0][20:] + read[1] + rest) == sorted(texts)
    assert sorted(whole) == sorted(texts)


@pytest.mark.parametrize("seed", range(5))
def test_every_record_read_at_random_is_dealt_once(seed):
    """The same of records that are read at random."""
    rng = np.random.default_rng(seed)
    deals, orders, seen = [], None, []
    for turn in range(5):
        processes, workers = (int(n) for n in rng.integers(1, 5, 2))
        if orders is None:
            orders = [
                grain.MapDataset.range(600)[p::processes].shuffle(seed=p) for p in range(processes)
            ]
        begun = [[int(n) for n in rng.integers(0, 9, workers)] for _ in range(processes)]
        for p in range(processes):
            first = [orders[p]] if turn == 0 else orders
            order = Dealt(first, deals, [deal.begun[0] for deal in deals], p, processes, workers)
            if turn == 4:  # on, until the slowest stream has come to its end
                seen += [order[m][1] for m in range(1200 // processes)]
                continue
            for w in range(workers):
                part = [order.slice(slice(w, None, workers))[j] for j in range(begun[p][w])]
                assert [place for place, _ in part] == [(w, j + 1) for j in range(begun[p][w])]
                seen += [n for _, n in part]
        deals.append(Deal(processes, workers, [begun]))
        assert turn == 4 or len(seen) == len(set(seen))
    assert set(seen) == set(range(600))


@pytest.mark.parametrize(
    ("units", "readers"), [(1, 3), (2, 3), (3, 2), (7, 2), (7, 3), (17, 3), (90, 64)]
)
def test_what_is_left_is_dealt_evenly(units, readers):
    """By rows where there is little; no reader opens many files."""
    rows, opened = [0] * readers, [0] * readers
    for reader in range(readers):
        for part in dealt([Part(0, file) for file in range(units)], reader, readers):
            rows[reader] += len(range(part.share.first, 5040, part.share.of))
            opened[reader] += 1
    assert sum(rows) == 5040 * units
    assert max(rows) <= (1.01 if units <= 16 else 1.3) * min(rows)
    assert max(opened) <= max(units // readers + 5, 16)


# --- batches


def numbered(folder, kind, count=200):
    """Texts that begin with their number, and hold no other; in files of unequal length."""
    texts = [f"{i:04}{'x ' * (11 * i % 50)}." for i in range(count)]
    return in_files(folder, kind, texts, [count // 9, count // 2, count // 3 * 2])


def sources(folder, kind):
    if kind != "mixed":
        return numbered(folder, kind)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    parts = tuple(
        in_files(folder / name, form, [f"{i:04}{'y ' * (7 * i % 60)}." for i in numbers], [30])
        for name, form, numbers in (("a", "text", range(100)), ("b", "at random", range(100, 200)))
    )
    return Mixture(parts, (1, 1))


def numbers_in(some):
    rows = [{key: value[i] for key, value in batch.items()} for batch in some for i in range(ROWS)]
    target = [row["target"][row["doc"] > 0] for row in rows]
    return [n for symbols in target for n in re.findall(rb"\d{4}", CODEC.decode(symbols))]


def start(data, seed=0, **process):
    return batches(data, CODEC, BUDGET, ROWS, seed, **process)


def fleet(source, processes, workers, window, **options):
    """All processes of a run."""
    data = Data(source, 48, workers=workers, window=window, **options)
    return [start(data, process_index=p, process_count=processes) for p in range(processes)]


def same(one, two):
    for a, b in zip(one, two, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], strict=True)


@pytest.mark.parametrize(
    ("kind", "numbers", "window", "shuffle"),
    [
        ("at random", [(1, 0), (1, 2), (1, 0)], 1, True),
        ("at random", [(1, 0), (2, 0), (1, 0)], 5, True),
        ("at random", [(2, 0), (1, 0), (3, 0)], 1, True),
        ("gz", [(2, 0), (1, 3), (1, 0)], 1, True),
        ("zst", [(2, 0), (3, 0), (1, 0)], 5, True),
        ("plain", [(1, 0), (6, 0), (1, 0)], 1, False),
        ("parquet", [(2, 0), (1, 0), (3, 0)], 1, False),
        ("mixed", [(1, 0), (3, 0), (2, 0)], 1, True),
    ],
    ids=str,
)
def test_other_numbers_of_processes_and_workers(kind, numbers, window, shuffle, tmp_path):
    """No record comes twice while others have not come, and none is left out, but for what windows
    of rows still held.
    """
    source = sources(tmp_path, kind)
    states, seen, left_out = [], [], 0
    for turn, (processes, workers) in enumerate(numbers):
        run = fleet(source, processes, workers, window, shuffle=shuffle)
        if states:
            streams = len(states) * max(states[0]["made_with"]["workers"], 1)
            rows = f" and {window} rows" if window > 1 else ""
            said = [process.redeal(states) for process in run]
            assert all(f"not yet read of {streams} records{rows} is left out" in s for s in said)
            left_out += 9 * window * streams * (window > 1)  # no row has as many records
        for process in run:
            seen += numbers_in(take(process, 20 // processes))
        if turn == 1 and not workers:  # what was dealt anew goes on exactly, too
            states = [json.loads(json.dumps(process.get_state())) for process in run]
            expected = [take(process, 3) for process in run]
            again = fleet(source, processes, workers, window, shuffle=shuffle)
            for process, state, batches in zip(again, states, expected, strict=True):
                process.set_state(state)
                same(take(process, 3), batches)
            seen += [n for batches in expected for n in numbers_in(batches)]
            for process in run:
                process.close()
            run = again
        states = [json.loads(json.dumps(process.get_state())) for process in run]
        assert max(len(json.dumps(state)) for state in states) < 5000
        if turn < len(numbers) - 1:
            for process in run:
                process.close()
    assert len(seen) == len(set(seen)) > 50
    for process in run:
        seen += numbers_in(take(process, 160 // len(run)))
        process.close()
    assert len(set(seen)) >= 200 - left_out


def test_what_was_read_is_shared_out(tmp_path):
    source = sources(tmp_path, "mixed")
    [one], two = fleet(source, 1, 0, 1), fleet(source, 2, 0, 1)
    take(one, 3)
    for process in two:
        process.redeal([one.get_state()])
    read = one.read_by_source()
    assert min(read.values()) > 0
    assert two[0].read_by_source() == {name: n // 2 for name, n in read.items()}


def older(state):
    """As it was before it said what each worker had read: of anything, of files in order."""
    new = ("given", "shuffled")
    files = json.loads(
        json.dumps(state),
        object_hook=lambda d: {name: value for name, value in d.items() if name not in new},
    )
    files["begun"] = [[n if isinstance(n, int) else 0 for n in some] for some in files["begun"]]
    return {name: value for name, value in state.items() if name != "begun"}, files


@pytest.mark.parametrize("kind", ["at random", "gz", "mixed"])
def test_states_that_cannot_be_dealt(kind, tmp_path):
    source = sources(tmp_path, kind)
    [one], (two, _) = (fleet(source, n, 0, 1, shuffle=False) for n in (1, 2))
    whole, state = take(one, 9), one.get_state()
    with pytest.raises(OtherDeal, match="process_count was 1 and is 2"):
        two.set_state(state)
    other = start(Data(source, 48, shuffle=False), seed=7, process_index=0, process_count=2)
    with pytest.raises(ValueError, match="seed was 0 and is 7"):
        other.redeal([state])
    [one] = fleet(source, 1, 0, 1, shuffle=False)
    take(one, 5)
    for old in older(one.get_state())[: 1 + (kind != "at random")]:
        with pytest.raises(ValueError, match="of an older version, which did not say what each"):
            two.redeal([old])
        [again] = fleet(source, 1, 0, 1, shuffle=False)
        again.set_state(old)  # with the same numbers it goes on, and then it is known
        with pytest.raises(ValueError, match="of an older version"):
            two.redeal([again.get_state()])
        same(take(again, 4), whole[5:])
        assert "dealt out anew" in two.redeal([again.get_state()])


def test_streams_were_shuffled_otherwise(tmp_path):
    source = sources(tmp_path, "gz")
    [one], (two, _) = fleet(source, 1, 0, 1), fleet(source, 2, 0, 1)
    for go_on in (one.set_state, lambda state: two.redeal([state])):
        with pytest.raises(ValueError, match=r"older version, which shuffled .* file by file"):
            go_on(older(one.get_state())[1])
