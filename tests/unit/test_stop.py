"""Programs end in one line, or quietly where nobody reads them."""

import subprocess
import sys

import pytest

from tests.laws.subjects import ROOT

PROGRAMS = {
    "prints": "for _ in range(100_000): print('many lines', flush={flush})",
    "mistake": "import hlm; hlm.load('no such run')",
    "bug": "raise KeyError('trunk')",
}


def ended(program, reader=None, **fields):
    """(exit status, standard error) of a program that runs under `as_program`."""
    body = PROGRAMS[program].format(**fields)
    code = f"from hlm.train.stop import as_program\ndef main():\n    {body}\nas_program(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if reader:
        process.stdout.readline()
        process.stdout.close()
        printed = process.stderr.read()
        process.stderr.close()
        return process.wait(100), printed
    return process.wait(100), process.communicate()[1]


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_is_gone_is_no_error(flush):
    assert ended("prints", reader="head", flush=flush) == (1, "")


def test_a_mistake_is_one_line():
    status, printed = ended("mistake")
    assert (status, printed.count("\n")) == (1, 1)
    assert printed.startswith("no checkpoints in 'no such run': give the --workdir")


def test_a_bug_has_its_traceback():
    status, printed = ended("bug")
    assert status == 1
    assert "Traceback" in printed
    assert "KeyError: 'trunk'" in printed
