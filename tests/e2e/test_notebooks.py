"""The notebooks: they run, and what they keep is what their readers see first."""

import json
import re
import subprocess
import sys

import pytest

from tests.e2e.runs import environment
from tests.laws.subjects import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST = 1_000_000  # bytes of all of them


def cells(path, kind="code"):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


@pytest.mark.slow
def test_every_notebook_runs(tmp_path):
    command = [sys.executable, "-m", "tests.e2e.run_notebooks", tmp_path, *NOTEBOOKS]
    where = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-5000:]
    assert done.stdout.count(" runs\n") == len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_whole(path):
    """Of a run from top to bottom that was not quick, without what went wrong or where it ran."""
    code = cells(path)
    assert "QUICK = False" in "".join(code[0]["source"])
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not re.search(r"[\"' ](/tmp|/home|/root|/work)/", json.dumps(outputs))
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert "text/html" in shown
    assert cells(path, "markdown")


def test_they_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST
