"""The law of the pipeline: a saved state goes on bit for bit, and every record of a process's share
comes once in each epoch.
"""

import dataclasses
import functools
import itertools
import json
from typing import Any

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hlm.data.contents import changed, of_records
from hlm.data.deal import Dealt
from hlm.data.pack import Budget, windows
from hlm.data.pipeline import Data, Encode, EncodeDrawn, batches, encode, mixed, records
from hlm.data.source import JsonLines, Mixture, TextFiles
from hlm.fim import FIM, FIMCodec
from hlm.split import Words
from hlm.subwords import BPE
from hlm.vocab import EOS, Bytes, Characters, utf8

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
    return Mixture(
        (
            words(tmp_path, 11, "b"),
            Mixture((words(tmp_path, 5, "c"), words(tmp_path, 7, "d")), (1.0, 1.0)),
        ),
        (3.0, 1.0),
    )


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
    """Documents of rows in order, those cut between rows joined again: the targets with weight, up
    to each EOS.
    """
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
            dataset = records(source.open(), True, 0, process, 3)
            shares += epoch(dataset, number, size)
            assert epoch(dataset, number, size) != epoch(dataset, number + 1, size)
        assert sorted(shares) == everything


def test_order(source):
    opened = source.open()
    in_order = [record.text for record in opened]
    assert (
        epoch(records(opened, False, 0), 0, 23)
        == epoch(records(opened, False, 1), 1, 23)
        == in_order
    )
    shuffled = epoch(records(opened, True, 0), 0, 23)
    assert shuffled == epoch(records(opened, True, 0), 0, 23)
    assert shuffled != epoch(records(opened, True, 1), 0, 23) != in_order


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
        types = {
            "token": "int32",
            "doc": "int32",
            "level": "uint8",
            "target": "int32",
            "weight": "float32",
            "nbytes": "uint8",
        }
        types["label"] = "int32"
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


@pytest.mark.parametrize(
    "kind", ["plain", "in order", "long", "window", "threads", "mixture", "second process"]
)
def test_resume(source, mixture, tmp_path, kind):
    (tmp_path / "long.txt").write_text(
        "A sentence of words. " * 40 + "|" + "nospace" * 90 + "|" + "a b " * 200
    )
    # each record fills many rows
    long = TextFiles((str(tmp_path / "long.txt"),), separator="|", piece=400)
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
    # worker 0 has the records 0, 2, 4, ... of the shuffled order
    half = [texts[:11] for texts in seen]
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


# --- mixtures


def uneven(folder):
    """Short documents, long ones in pieces, and something between: the letters say which."""
    rng = np.random.default_rng(0)
    made = []
    for letter, count, least, most in (("a", 900, 1, 9), ("b", 40, 900, 1500), ("c", 200, 30, 90)):
        path = folder / f"{letter}.txt"
        path.write_text("|".join(letter * int(n) for n in rng.integers(least, most, count)))
        made.append(TextFiles((str(path),), separator="|", piece=200))
    return made


def bytes_of(some):
    """Of each letter in batches."""
    text = np.concatenate([batch["target"][batch["nbytes"] > 0] for batch in some])
    return {
        letter: int((text == ord(letter)).sum()) for letter in "abc" if (text == ord(letter)).any()
    }


@pytest.mark.parametrize(
    ("weights", "process", "shuffle"),
    [
        ((1.0, 1.0, 1.0), (0, 1), True),
        ((70, 20, 10), (1, 3), True),
        ((0.001, 0.9, 0.099), (0, 1), False),
    ],
)
def test_weights_are_shares_of_bytes(tmp_path, weights, process, shuffle):
    data = Data(Mixture(tuple(uneven(tmp_path)), weights), 48, shuffle=shuffle)
    running = start(data, process_index=process[0], process_count=process[1])
    done = dict.fromkeys("abc", 0)
    for _ in range(150):
        for letter, n in bytes_of([next(running)]).items():
            done[letter] += n
        total = sum(done.values())
        for letter, weight in zip("abc", weights, strict=True):
            wanted = total * weight / sum(weights)
            assert abs(done[letter] - wanted) <= 2 * 200 + 48, (
                "at any moment, but for a record here and one still to come"
            )
        assert running.read_by_source() == {
            str("abc".index(letter)): n for letter, n in done.items()
        }


def test_weights_may_be_shares_of_records(tmp_path):
    a, b, c = uneven(tmp_path)
    source = Mixture((a, Mixture((b, c), (1, 1), by_records=True)), (3, 1), by_records=True)
    here = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    parts = [
        Dealt([records(x.open(), True, 0)], (), (), 0, 1)
        .map(Encode(i, CODEC))
        .to_iter_dataset(here)
        for i, x in enumerate((a, b, c))
    ]
    drawn = [text.source for text in take(iter(mixed(source, iter(parts))), 800)]
    for n in range(1, 801):
        for number, share in enumerate((3 / 4, 1 / 8, 1 / 8)):
            assert abs(drawn[:n].count(number) - n * share) <= 2


def test_mixtures_in_mixtures_and_their_names(tmp_path):
    a, b, c = uneven(tmp_path)
    inner = Mixture((b, c), (1, 3), names=("long", "middle"))
    running = start(Data(Mixture((a, inner), (1, 4)), 48))
    take(running, 150)
    done = running.read_by_source()
    assert list(done) == ["0", "1/long", "1/middle"]
    total = sum(done.values())
    for name, share in (("0", 0.2), ("1/long", 0.2), ("1/middle", 0.6)):
        assert done[name] == pytest.approx(total * share, abs=800)
    assert start(Data(a, 48)).read_by_source() == {"source": 0}
    for names in (("x",), ("x", "x"), ("x/y", "z"), ("", "z")):
        with pytest.raises(ValueError, match=r"Mixture\.names is"):
            Mixture((a, b), (1, 1), names=names)


def test_a_source_of_empty_texts_does_not_stop_the_others(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    running = start(
        Data(Mixture((JsonLines((str(tmp_path / "a.jsonl"),)), uneven(tmp_path)[0]), (1, 1)), 48)
    )
    assert bytes_of(take(running, 4))["a"] > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_read_goes_on_with_a_state(tmp_path, workers):
    a, b, c = uneven(tmp_path)
    data = Data(
        Mixture((a, Mixture((b, c), (1, 1), by_records=True)), (1, 2)),
        48,
        window=3,
        workers=workers,
    )
    first = start(data)
    again = first if workers else start(data)  # workers take seconds to start
    batches, states, reads, shares = [], [], [], []
    for _ in range(14):
        states.append(json.dumps(first.get_state()))
        reads.append(first.read_by_source())
        batches.append(next(first))
        shares.append(
            {name: (float(m.total), float(m.weight)) for name, m in first.shares().items()}
        )
    for n in (3, 10, 6, 0):
        again.set_state(json.loads(states[n]))
        assert again.read_by_source() == reads[n]
        same(take(again, 3), batches[n : n + 3])
        assert again.read_by_source() == reads[n + 3]
    first.close()
    again.close()
    for n, batch in enumerate(batches):
        found = {
            f"share/{name}": (float(bytes_of([batch]).get(x, 0)), float(batch["nbytes"].sum()))
            for name, x in NAMES
        }
        assert shares[n] == found
        assert len(states[n]) < 5000


NAMES = [("0", "a"), ("1/0", "b"), ("1/1", "c")]


def test_what_was_read_is_right_after_a_jump(tmp_path):
    a, _, c = uneven(tmp_path)
    running = start(Data(Mixture((a, c), (1, 1)), 48))
    states = []
    for _ in range(12):
        states.append(json.dumps(running.get_state()))
        next(running)
    for state in states[::-1]:
        running.set_state(json.loads(state))
        before, found = running.read_by_source(), bytes_of(take(running, 2))
        after = running.read_by_source()
        assert {x: after[i] - before[i] for i, x in (("0", "a"), ("1", "c"))} == {
            x: found.get(x, 0) for x in "ac"
        }


def test_a_run_may_go_on_with_other_weights(tmp_path):
    sources = tuple(uneven(tmp_path))
    first = start(Data(Mixture(sources, (1, 1, 98)), 48))
    take(first, 60)
    second = start(Data(Mixture(sources, (98, 1, 1)), 48))
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert bytes_of(take(second, 60))["a"] > 0.9 * 60 * ROWS * 24
    with pytest.raises(ValueError, match=r"mixture was \{'bytes': .* and is \{'records'"):
        start(Data(Mixture(sources, (1, 1, 98), by_records=True), 48)).set_state(first.get_state())
    with pytest.raises(ValueError, match=r"mixture was \{'bytes': .* and is None"):
        start(Data(sources[0], 48)).set_state(first.get_state())


def test_one_source_has_no_shares(source):
    running = start(Data(source, 48))
    batch = next(running)
    assert running.shares() == {}
    assert running.read_by_source() == {"source": int(batch["nbytes"].sum())}


# --- states of other contents and of older versions


def test_changed_contents_are_said(source, tmp_path):
    iterator = start(Data(source, 48))
    take(iterator, 3)
    state = json.loads(json.dumps(iterator.get_state()))
    path = tmp_path / "a.txt"
    before = path.read_text()
    size = len(before)
    for text, told in (
        (before.replace("a", "b", 1), f"a.txt has other bytes, still {size} of them; the run"),
        (before + "|c", f"a.txt had {size} bytes and has {size + 2}; the run goes on by"),
    ):
        path.write_text(text)
        with pytest.warns(
            UserWarning, match=rf"data\.source is not what it was .*: {told}"
        ) as said:
            start(Data(source, 48)).set_state(state)
        assert "\n" not in str(said[0].message)
    path.write_text(before)
    start(Data(source, 48)).set_state(state)


def test_what_changed_in_many_files(tmp_path):
    """By name for few, by numbers for many, and in states of older versions."""
    for i in range(30):
        (tmp_path / f"{i:02}.txt").write_text("x" * i + ".")

    def now(*names):
        return of_records(TextFiles(tuple(str(tmp_path / name) for name in names)).open())

    was = json.loads(json.dumps(now("00.txt", "01.txt", "02.txt")))
    assert changed(was, now("00.txt", "01.txt", "02.txt")) is None
    assert changed(was, now("00.txt", "03.txt")) == (
        "01.txt is gone, 02.txt is gone, 03.txt is new"
    )
    assert changed(was, now("00.txt", "04.txt", "05.txt")).endswith("04.txt is new and 1 more")
    assert changed(was, now("01.txt", "00.txt", "02.txt")).startswith("3 files, 6 bytes, ")
    assert changed(was["sum"], now("00.txt", "01.txt", "02.txt")) is None
    assert "; now 2 files, 3 bytes" in changed(was["sum"], now("00.txt", "01.txt"))
    many = now("*.txt")
    assert list(many) == ["sum"]
    assert "; now 30 files" in changed(was, many)


def test_states_of_older_versions(source, mixture):
    iterator = start(Data(source, 48))
    take(iterator, 5)
    state = iterator.get_state()
    old = {
        "made_with": {k: v for k, v in state["made_with"].items() if k != "mixture"},
        "iterator": state["iterator"],
    }
    again = start(Data(source, 48))
    again.set_state(old)
    same(take(again, 5), take(iterator, 5))
    with pytest.raises(ValueError, match="of an older version, which mixed sources otherwise"):
        start(Data(mixture, 48)).set_state(old)


# --- prompts


def asked(folder):
    """Questions and answers, and what is to be learned of each record: the answer and EOS."""
    rng = np.random.default_rng(1)
    letters = [" ", "a", "bc", "é", "漢字", "\n", "the ", "word. "]
    texts = [
        tuple("".join(rng.choice(letters, rng.integers(0, n))) for n in (20, 30)) for _ in range(40)
    ]
    texts += [("q" * 30, ""), ("", "a" * 30), ("", ""), ("see ", "him. "), ("é"[:1], "é")]
    path = folder / "a.jsonl"
    path.write_text("\n".join(json.dumps({"q": q, "a": a}) for q, a in texts))
    return path, [(q.encode(), a.encode()) for q, a in texts]


@pytest.fixture(scope="module")
def bpe():
    return BPE.train([b"the word. the words see him. see them. a bc the word. the " * 9], 300)


CODECS = {
    "bytes": CODEC,
    "words with EOW": Bytes(Words(eow=True)),
    "utf-8": utf8(Words()),
    "no EOS": Characters(Words()),
}


def learned(codec, rows):
    """(everything, what is learned) of each document in rows: bytes, and symbols."""
    token = np.concatenate([row["target"][row["doc"] > 0] for row in rows])
    weight = np.concatenate([row["weight"][row["doc"] > 0] for row in rows])
    assert set(weight.tolist()) <= {0.0, 1.0}
    cuts = np.flatnonzero(token == codec.eos) + 1
    return list(zip(np.split(token, cuts), np.split(weight, cuts), strict=True))[: len(cuts)]


@pytest.mark.parametrize("piece", [4, 7, 30, 8192])
@pytest.mark.parametrize("name", ["bytes", "words with EOW", "utf-8", "bpe"])
def test_prompts_are_read_and_not_learned(tmp_path, bpe, name, piece):
    codec = bpe if name == "bpe" else CODECS[name]
    path, texts = asked(tmp_path)
    data = Data(JsonLines((str(path),), "a", piece, prompt="q"), 48, shuffle=False)
    running = batches(data, codec, BUDGET if name != "bpe" else Budget(48, (48,)), ROWS, 0)
    found = []
    rows = []
    while len(found) < len(texts):
        rows += rows_of(take(running, 10))
        found = learned(codec, rows)
    pieces = list(data.source.open())
    for (token, weight), (question, answer) in zip(found, texts, strict=False):
        text = b""
        edge = len(question)
        for symbol, w in zip(token, weight, strict=True):
            before, text = len(text), text + codec.decode([symbol])
            if symbol == codec.eos:
                assert w == 1
            elif len(text) > before:
                assert w == (len(text) > edge), (
                    "a symbol that goes beyond the prompt is learned, all others of it are not"
                )
            elif text:
                assert w == (len(text) > edge), "EOW is as the byte before it"
        assert text == question + answer
    if name == "bpe" and piece > 30:
        assert any(
            w.sum() - 1 and codec.decode(t[w > 0]) not in (a, b"")
            for (t, w), (_, a) in zip(found, texts, strict=False)
        ), "some symbol spans the border"
    if name != "bpe":
        nbytes = sum(int(row["nbytes"][row["weight"] > 0].sum()) for row in rows)
        assert abs(nbytes - nbytes_learned(pieces, nbytes_read(rows))) <= piece


def nbytes_read(rows):
    return sum(int(row["nbytes"].sum()) for row in rows)


def nbytes_learned(pieces, read):
    """Bytes that are learned of the first `read` bytes of these records."""
    total = 0
    for piece in itertools.cycle(pieces):
        if read < len(piece.text):
            return total + max(read - piece.prompt, 0)
        read -= len(piece.text)
        total += len(piece.text) - piece.prompt


def test_texts_without_eos_have_prompts(tmp_path):
    path, texts = asked(tmp_path)
    source = JsonLines((str(path),), "a", prompt="q")
    for record, (question, answer) in zip(source.open(), texts, strict=True):
        encoded = encode(CODECS["no EOS"], record)
        weight = np.ones(len(encoded.token)) if encoded.weight is None else encoded.weight
        assert weight[1:].sum() == len(answer)
        assert (weight[1 : 1 + len(question)] == 0).all()


@pytest.mark.parametrize("kind", ["plain", "gaps", "window", "mixture", "dropout"])
def test_prompts_go_on_with_a_state(tmp_path, kind):
    path, _ = asked(tmp_path)
    plain, source = words(tmp_path, 23, "w"), JsonLines((str(path),), "a", 40, prompt="q")
    options = {"gaps": {"fim": FIM(1.0)}, "window": {"window": 3}}.get(kind, {})
    data = Data(Mixture((plain, source), (1, 1)) if kind == "mixture" else source, 48, **options)
    codec: Any = FIMCodec(Bytes(Words(eow=True))) if kind == "gaps" else Bytes(Words(eow=True))
    if kind == "dropout":
        codec = dataclasses.replace(BPE.train([b"w0 w1 w2 question answer " * 9], 300), dropout=0.3)
    made = [batches(data, codec, Budget(48, (48,)), ROWS, 0) for _ in range(2)]
    states, whole = [], []
    for _ in range(20):
        states.append(json.dumps(made[0].get_state()))
        whole.append(next(made[0]))
    for n in (17, 1, 2, 8):
        made[1].set_state(json.loads(states[n]))
        same(take(made[1], 3), whole[n : n + 3])
    for each in made:
        each.close()
    text = [batch["weight"][batch["nbytes"] > 0] for batch in whole]
    assert 0.2 < np.concatenate(text).mean() < 0.9


def test_a_record_with_a_prompt_has_no_gap(tmp_path):
    path, texts = asked(tmp_path)
    codec = FIMCodec(CODEC)
    transform = EncodeDrawn(0, codec, functools.partial(FIM(1.0).encode, codec))
    gaps = 0
    for record, (question, answer) in zip(
        JsonLines((str(path),), "a", prompt="q").open(), texts, strict=True
    ):
        number, place, encoded = transform.random_map((7, record), np.random.default_rng(0))
        assert (number, place) == (0, 7)
        assert (codec.suffix in encoded.token) == (not question)
        gaps += codec.suffix in encoded.token
        if question:
            np.testing.assert_array_equal(encoded.token, codec.encode(question + answer).token)
            assert encoded.weight[1:].sum() == len(answer) + 1
    assert gaps > 1


def test_windows_keep_weights(tmp_path):
    path, texts = asked(tmp_path)
    for record, (_, answer) in zip(
        JsonLines((str(path),), "a", prompt="q").open(), texts, strict=True
    ):
        found = windows(encode(CODEC, record), Budget(16, (16,)), 8)
        assert sum(w.row["weight"].sum() for w in found) == len(answer) + 1
        assert sum(int(w.row["nbytes"][w.row["weight"] > 0].sum()) for w in found) == len(answer)
