"""The law of generation: the levels found symbol by symbol on the device are those that the model
was trained with.
"""

import jax
import numpy as np

from hlm.infer.automaton import automaton, read
from tests.laws.subjects import encoded, every_config, experiment, texts

ROWS, LENGTH = 6, 100


@every_config
def test_levels_symbol_by_symbol(name):
    exp, rng = experiment(name), np.random.default_rng(0)
    codec = exp.model.codec
    machine = automaton(codec)
    token_BL = np.zeros((ROWS, LENGTH), np.int32)
    live_BL = np.zeros((ROWS, LENGTH), bool)
    for row, text in zip(range(ROWS), texts(3, 10, LENGTH), strict=False):
        token = encoded(exp, text).token[1:]
        if row % 2:  # any symbols may be sampled
            token = np.where(
                rng.random(len(token)) < 0.2, rng.integers(0, codec.size, len(token)), token
            )
        token_BL[row, : len(token)], live_BL[row, : len(token)] = token[:LENGTH], True
    _, level_BL = jax.jit(lambda t, live: read(machine, machine.start(ROWS), t, live))(
        token_BL, live_BL
    )
    ended = 0
    for row in range(ROWS):
        stream = np.concatenate([[codec.bos], token_BL[row][live_BL[row]]]).astype(np.int32)
        expected = codec.levels(stream)
        np.testing.assert_array_equal(np.asarray(level_BL)[row][live_BL[row]], expected[1:])
        ended += np.count_nonzero(expected[1:])
    assert ended > 0 or machine.longest is None
