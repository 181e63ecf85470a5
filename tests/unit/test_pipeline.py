"""The law of the pipeline: a saved state goes on bit for bit, and every record of a process's share comes once in each epoch."""

import itertools
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hlm.data.pack import Budget
from hlm.data.pipeline import Data, batches, records
from hlm.data.source import Mixture, TextFiles
from hlm.split import Words
from hlm.vocab import EOS, Bytes

CODEC = Bytes(Words())
BUDGET = Budget(48, (16,))
ROWS = 2


def words(folder, count, prefix):
    """A source of `count` documents, all different: one word each, of different lengths."""
    path = folder / f"{prefix}.txt"
    path.write_text("|".join(f"{prefix}{'x' * (7 * i % 60)}{i:03}" for i in range(count)))
    return TextFiles((str(path),), separator="|")


@pytest.fixture
def source(tmp_path):
    return words(tmp_path, 23, "a")


@pytest.fixture
def mixture(tmp_path):
    return Mixture((words(tmp_path, 11, "b"), Mixture((words(tmp_path, 5, "c"), words(tmp_path, 7, "d")), (1.0, 1.0))), (3.0, 1.0))


def take(iterator, n):
    return list(itertools.islice(iterator, n))


def start(data, seed=0, budget=BUDGET, rows=ROWS, **process):
    return batches(data, CODEC, budget, rows, seed, **process)


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=False):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], strict=True)


def texts_of(rows):
    """Documents of rows in order, those cut between rows joined again: the targets with weight, up to each EOS."""
    target = np.concatenate([row["target"][row["weight"] > 0] for row in rows])
    return [CODEC.decode(part) for part in np.split(target, np.flatnonzero(target == EOS) + 1)]


def rows_of(some):
    return [{key: value[i] for key, value in batch.items()} for batch in some for i in range(ROWS)]


# --- records


def epoch(dataset, number, size):
    return [dataset[i].text for i in range(number * size, (number + 1) * size)]


def test_shares_are_disjoint_cover_the_source_and_are_reshuffled(source):
    everything = sorted(record.text for record in source.open())
    for number in range(3):
        shares = []
        for process in range(3):
            size = len(range(process, 23, 3))
            dataset = records(source, True, 0, process, 3)
            shares += epoch(dataset, number, size)
            assert epoch(dataset, number, size) != epoch(dataset, number + 1, size)
        assert sorted(shares) == everything


def test_order(source):
    in_order = [record.text for record in source.open()]
    assert epoch(records(source, False, 0), 0, 23) == epoch(records(source, False, 1), 1, 23) == in_order
    shuffled = epoch(records(source, True, 0), 0, 23)
    assert shuffled == epoch(records(source, True, 0), 0, 23)
    assert shuffled != epoch(records(source, True, 1), 0, 23) != in_order


def test_mixture_shares(mixture):
    dataset = records(mixture, True, 0)
    texts = [dataset[i].text for i in range(176)]
    counts = {first: sum(text.startswith(first) for text in texts) for first in (b"b", b"c", b"d")}
    assert counts == {b"b": 132, b"c": 22, b"d": 22}
    b = [text for text in texts if text.startswith(b"b")]
    assert all(len(set(b[i : i + 11])) == 11 for i in range(0, 132, 11))


def test_too_few_records_for_the_processes(source, mixture):
    with pytest.raises(ValueError, match="source has 23 records for 24 processes"):
        start(Data(source, 48), process_index=0, process_count=24)
    with pytest.raises(ValueError, match=r"source.sources\[1\].sources\[0\] has 5 records for 6"):
        start(Data(mixture, 48), process_index=0, process_count=6)
    with pytest.raises(ValueError, match="process_index is 2"):
        start(Data(source, 48), process_index=2, process_count=2)


def test_wrong_settings_are_named(source):
    with pytest.raises(ValueError, match=r"Data\.workers is -1"):
        Data(source, 48, workers=-1)
    with pytest.raises(ValueError, match=r"budget\.length is 48 but Data\.length is 64"):
        start(Data(source, 64))
    with pytest.raises(ValueError, match="rows is 0"):
        start(Data(source, 48), rows=0)


# --- batches


def test_batches_have_the_fields_of_a_batch(source):
    for batch in take(start(Data(source, 48)), 2):
        kinds = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
        types = {"token": "int32", "doc": "int32", "level": "uint8", "target": "int32", "weight": "float32", "nbytes": "uint8"}
        types["example"] = "int32"
        assert kinds == {key: (name, (ROWS, 48)) for key, name in types.items()}


@pytest.mark.parametrize("shuffle", [False, True])
def test_all_text_arrives_once_in_each_epoch(source, shuffle):
    texts = texts_of(rows_of(take(start(Data(source, 48, shuffle=shuffle)), 40)))
    everything = [record.text for record in source.open()]
    assert len(texts) > 3 * 23
    for i in range(0, len(texts) - 23, 23):
        got = texts[i : i + 23]
        assert (sorted(got) if shuffle else got) == (sorted(everything) if shuffle else everything)


def test_long_documents_are_read_in_pieces(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"word{i} " for i in range(300)))
    source = TextFiles((str(path),), piece=100)
    texts = texts_of(rows_of(take(start(Data(source, 48, shuffle=False)), 50)))
    assert texts[0] == path.read_bytes()


def test_the_window_changes_the_order_of_rows_only(source):
    plain = rows_of(take(start(Data(source, 48, shuffle=False)), 8))
    mixed = rows_of(take(start(Data(source, 48, shuffle=False, window=8)), 8))
    for w in range(0, 16, 8):
        one, two = ([row["token"].tobytes() for row in rows[w : w + 8]] for rows in (plain, mixed))
        assert sorted(one) == sorted(two)
        assert one != two


@pytest.mark.parametrize("kind", ["plain", "in order", "long", "window", "threads", "mixture", "second process"])
def test_resume(source, mixture, tmp_path, kind):
    (tmp_path / "long.txt").write_text("A sentence of words. " * 40 + "|" + "nospace" * 90 + "|" + "a b " * 200)
    long = TextFiles((str(tmp_path / "long.txt"),), separator="|", piece=400)  # each record fills many rows
    data, process = {
        "plain": (Data(source, 48), {}),
        "in order": (Data(source, 48, shuffle=False), {}),
        "long": (Data(long, 48), {}),
        "window": (Data(source, 48, window=5), {}),
        "threads": (Data(source, 48, threads=2), {}),
        "mixture": (Data(mixture, 48), {}),
        "second process": (Data(source, 48), {"process_index": 1, "process_count": 2}),
    }[kind]
    whole = take(start(data, **process), 30)  # more than four epochs
    running = start(data, **process)
    for n in range(25):
        if n not in (0, 1, 2, 3, 4, 8, 13, 18, 24):
            next(running)
            continue
        saved = json.dumps(running.get_state())
        again = start(data, **process)
        again.set_state(json.loads(saved))
        same(take(again, 3), whole[n : n + 3])
        assert len(saved) < 5000
        same([next(running)], [whole[n]])
    running.set_state(json.loads(saved))  # back, on an iterator in use
    same(take(running, 3), whole[24:27])


def test_workers(source, tmp_path):
    data = Data(source, 48, workers=2)
    first = start(data)
    whole, states = [], []
    for _ in range(12):
        states.append(json.dumps(first.get_state()))
        whole.append(next(first))
    first.close()
    again = start(data)
    for n in (0, 7, 4):  # an even and an odd number of batches: both workers are next once
        again.set_state(json.loads(states[n]))
        same(take(again, 5), whole[n : n + 5])
    again.close()
    everything = {record.text for record in source.open()}
    seen = [texts_of(rows_of(whole[worker::2])) for worker in range(2)]
    half = [texts[:11] for texts in seen]  # worker 0 has the records 0, 2, 4, ... of the shuffled order
    assert len(set(half[0] + half[1])) == 22
    assert set(half[0] + half[1]) < everything


def test_state_through_orbax(source, tmp_path):
    iterator = start(Data(source, 48))
    take(iterator, 9)
    saved = iterator.get_state()
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))  # type: ignore
        wanted = take(iterator, 5)
        fresh = start(Data(source, 48))
        manager.restore(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))  # type: ignore
    assert fresh.get_state() == saved
    same(take(fresh, 5), wanted)


def test_a_state_of_other_settings_is_refused(source):
    state = start(Data(source, 48)).get_state()
    with pytest.raises(ValueError, match="workers was 0 and is 1"):
        start(Data(source, 48, workers=1)).set_state(state)
    with pytest.raises(ValueError, match="seed was 0 and is 7"):
        start(Data(source, 48), seed=7).set_state(state)
    with pytest.raises(ValueError, match=r"chunks was \[16\] and is \[20\]"):
        start(Data(source, 48), budget=Budget(48, (20,))).set_state(state)
    start(Data(source, 48, prefetch=5), rows=3).set_state(state)
