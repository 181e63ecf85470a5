"""A run of the version before papers had rooms of their own: it loads, gives its numbers, and goes
on.

It is a small HAT with everything that was renamed or moved since: a codec that fills gaps, heads
that look ahead, and a shortcut past the backbone.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hlm
from hlm import sharding
from hlm.checkpoint import Checkpoints, abstract_on
from hlm.data import pipeline
from hlm.data.pack import Budget
from hlm.fim import FIM, FIMCodec
from hlm.model.hierarchy import capacities
from hlm.model.objective import Ahead
from hlm.papers.chunk_mtp import ChunkMTPLoss, DraftingHierarchy
from hlm.seq import Batch
from hlm.train import step
from tests.laws.subjects import ROOT

FOLDER = ROOT / "tests/fixtures/before_rooms"
NUMBERS = json.loads((FOLDER / "run.numbers.json").read_text())
TEXT, PROMPT, BYTES = "Call me Ishmael. Some years ago", "Call me ", 20
NATS = 1e-5  # relative; its bytes are rounded to five digits
METRIC = 1e-4  # relative
old = pytest.mark.filterwarnings("ignore:checkpoint .* is of a version without digests:UserWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A copy of the run's folder."""
    return str(shutil.copytree(FOLDER / "run", tmp_path_factory.mktemp("before") / "run"))


@pytest.fixture(scope="module")
def lm(run):
    with pytest.warns(UserWarning, match="is of a version without digests: damage may go unseen"):
        return hlm.load(run)


def test_its_config_in_todays_words(lm):
    exp, model = lm.experiment, lm.experiment.model
    assert (lm.step, exp.steps, exp.rows) == (2, 3, 2)
    assert exp.data.fim == FIM(0.5)
    assert isinstance(model.codec, FIMCodec)
    assert isinstance(model.trunk, DraftingHierarchy)
    assert model.objectives == (Ahead(loss_weight=0.2), ChunkMTPLoss(loss_weight=0.1))


def test_its_likelihoods(lm):
    (score,) = lm.score([TEXT])
    assert score.nats == pytest.approx(NUMBERS["nats"], rel=NATS)
    assert score.chunks == NUMBERS["chunks"]
    per_byte = score.per_byte.copy()
    per_byte[-1] += score.nats_of_end  # as it was counted then
    np.testing.assert_allclose(per_byte, NUMBERS["per_byte"], rtol=NATS, atol=1e-5)


def test_what_it_writes(lm):
    """As it did, with drafts and without."""
    assert NUMBERS["made"] == NUMBERS["made_by_drafts"]
    for speculate in (0, 2):
        (made,) = lm.generate(PROMPT, max_bytes=BYTES, speculate=speculate)
        assert made.hex() == NUMBERS["made"]


@old
@pytest.mark.usefixtures("optax_promotes")
def test_it_goes_on(run):
    """One step of training more from its parameters and its optimizer's state, on the first rows of
    its data, gives the numbers that it gave.
    """
    exp = Checkpoints(run).config(2)
    mesh = exp.mesh.make(jax.devices()[:1])
    abstract, shardings, _ = step.init_state(exp, mesh)
    target = abstract_on(abstract, shardings)
    budget = Budget(exp.data.length, capacities(exp.model.trunk))
    checkpoints = Checkpoints(run, keep=1)
    data = pipeline.batches(exp.data, exp.model.codec, budget, exp.rows, exp.seed)
    first, _, third = (Batch(**next(data)) for _ in range(3))
    found = checkpoints.resume(target.params, (target.step, target.optim), data)
    following = Batch(**next(data))
    checkpoints.close()
    data.close()
    assert jax.tree.all(jax.tree.map(np.array_equal, following, third))
    assert found is not None
    done, params, (steps, optim) = found
    assert done == int(steps) == 2
    state = step.State(steps, params, optim)
    with jax.set_mesh(mesh):
        run_step = step.compiled_train_step(exp, mesh, shardings)
        after, metrics = run_step(state, sharding.put(first, mesh))
    assert int(after.step) == 3
    expected, numbers = NUMBERS["metrics"], {name: m.value() for name, m in metrics.items()}
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, rel=METRIC, abs=1e-7), name
    # What was one loss of the further heads is one for each.
    assert numbers.keys() - expected.keys() == {"loss/ahead_2", "loss/ahead_3"}
    assert jnp.isfinite(numbers["loss/ahead_2"])
