"""`make check` as tests, so that continuous integration fails on lint, format and types."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BIN = pathlib.Path(sys.executable).parent


@pytest.mark.parametrize(
    "command", ["ruff check .", "ruff format --check .", "pyright"], ids=["lint", "format", "types"]
)
def test_check(command: str):
    program, *arguments = command.split()
    done = subprocess.run([BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("room", ["model", "nn", "split", "data", "train"])
def test_the_core_imports_no_paper(room: str):
    files = list((ROOT / "hlm" / room).glob("*.py"))
    assert files
    assert not [path.name for path in files if "hlm.papers" in path.read_text()]
