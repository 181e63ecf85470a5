"""Every case of $HLM_SHARED/golden (by default ../shared/golden): our numbers are those of the
published implementation.
"""

import os
import pathlib

import pytest

from tests.parity.common import cases, checks, facts, handler, read

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = pathlib.Path(os.environ.get("HLM_SHARED", ROOT.parent / "shared")) / "golden"


def found() -> list:
    """The cases there; those that no handler takes are expected to fail, and must be taken off this
    list by writing one.
    """
    out = []
    for name in cases(FOLDER):
        try:
            handler(str(facts(FOLDER, name).get("peer", name)), name)
        except LookupError as error:
            out.append(
                pytest.param(
                    name,
                    marks=pytest.mark.xfail(strict=True, raises=LookupError, reason=str(error)),
                )
            )
        else:
            out.append(name)
    return out


@pytest.mark.parametrize("name", found())
def test_case(name):
    bad = [
        f"{c.quantity}: {c.difference:.3g} > {c.tolerance:g} {c.note}"
        for c in checks(name, *read(FOLDER, name))
        if not c.ok
    ]
    assert not bad, f"{name}\n" + "\n".join(bad)
