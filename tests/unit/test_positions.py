"""Positions in the data: which of those that are saved a process goes on from."""

import json

import numpy as np
import pytest
from etils import epath

from hlm import Bytes, Data, TextFiles, split
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.positions import move


@pytest.mark.parametrize(("holders", "share"), [(2, (0, 2)), (2, (0, 1)), (1, (0, 3)), (3, (0, 4))])
def test_positions_of_processes_that_read_the_same_count_once(holders, share, tmp_path):
    """Two shares, each held by so many processes, go on as one of two, or are dealt out anew."""
    (tmp_path / "text.txt").write_bytes(b"".join(b"%03d and so on.\n\n" % i for i in range(300)))
    source = TextFiles((str(tmp_path / "text.txt"),), piece=24)
    codec = Bytes(split=split.Words())
    item = epath.Path(tmp_path / "data")
    item.mkdir()

    def part(index, count):
        return pipeline.batches(Data(source, 48), codec, Budget(48, ()), 4, 0, index, count)

    both = [part(i, 2) for i in range(2)]
    for data in both:
        next(data), next(data)
    processes = 2 * holders
    for process in range(processes):
        state = json.dumps(both[process // holders].get_state())
        (item / f"process_{process}-of-{processes}.json").write_text(state)
    new = part(*share)
    told = move(new, item, {})
    if share[1] == 2:
        assert told == ""
        np.testing.assert_array_equal(next(new)["token"], next(both[0])["token"])
    else:
        assert f"shares were 2 and are {share[1]}," in told
        assert new.deals[0].processes == 2
        total = sum(data.read_by_source()["source"] for data in both)
        assert new.read_by_source() == {"source": total // share[1]}
    for data in (new, *both):
        data.close()
