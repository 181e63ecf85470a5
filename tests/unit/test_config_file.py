"""Config files of other folders: found by any path, importing their neighbours and hlm's own
configs, each its own.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from hlm import config, config_file
from tests.laws.subjects import ROOT

FILE = """
{imports}
from configs.common import on_moby
from configs.flat import model
SIZES = {{"tiny": 1, "other": 2}}
def config(size):
    return on_moby(model("tiny"), 512, rows={rows}, steps=SIZES[size], peak=1e-3)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What loading leaves in this process."""
    modules, path = dict(sys.modules), list(sys.path)
    for name in ("PACKAGES", "NEIGHBOURS", "SEARCHED"):
        monkeypatch.setattr(config_file, name, type(getattr(config_file, name))())
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


def write(path: pathlib.Path, rows: str = "2", imports: str = "") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FILE.format(rows=rows, imports=imports))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "a:b/hat.py",
        "a:b/c:d.py",
        "with space/hat.py",
        "q.v2/my-config.v2.py",
        "json/x.py",
        "hlm/x.py",
        "configs/x.py",
    ],
)
def test_any_path(name, tmp_path, monkeypatch):
    path = write(tmp_path / name)
    for reference, steps in (
        (f"{path}:other", 2),
        (f"{path}:tiny", 1),
        (f"{path}", 1),
        (f"{path}:", 1),
    ):
        assert config.load(reference).steps == steps
    monkeypatch.chdir(tmp_path)
    assert config.load(f"{name}:other").steps == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert config.load(f"~/{name}:other").steps == 2
    with pytest.raises(ValueError, match="has no size 'huge'; it has tiny, other"):
        config.load(f"{path}:huge")


@pytest.mark.parametrize(
    "name",
    ["a:b/nowhere.py", "nowhere.py:tiny", "configs", "a:b", "", ":", "configs/hat.py:tiny:tiny"],
)
def test_no_such_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config file .*: give FILE.py:SIZE"):
        config.load(name)


def test_files_that_are_no_configs(tmp_path):
    (tmp_path / "notes.txt").write_text("SIZES = {}")
    with pytest.raises(ValueError, match=r"notes.txt is not a Python file: give FILE.py:SIZE"):
        config.load(str(tmp_path / "notes.txt"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(
        ValueError, match=r"empty.py defines no SIZES and no config: a config file has"
    ):
        config.load(str(tmp_path / "empty.py"))
    (tmp_path / "wrong.py").write_text("import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError):
        config.load(str(tmp_path / "wrong.py"))
    assert not [name for name in sys.modules if name.startswith("hlm_config_wrong")]


def test_own_neighbours_of_two_repositories(tmp_path):
    """Each has a `parts` beside the file, a `paper` beside its folder and a `configs.mine`; the
    second must not get those of the first.
    """
    for rows, repository in ((2, "one"), (4, "two"), (2, "one")):
        home = tmp_path / repository
        imports = "import parts, paper.sizes\nfrom configs import mine"
        path = write(home / "configs" / "x.py", "parts.N * paper.sizes.N * mine.N", imports)
        (home / "configs" / "parts.py").write_text(f"N = {rows}")
        (home / "paper").mkdir(exist_ok=True)
        (home / "paper" / "sizes.py").write_text(f"N = {rows}")
        (home / "configs" / "mine.py").write_text(f"N = {rows}")
        assert config.load(str(path)).rows == rows**3
    assert config.load(f"{ROOT}/configs/hat.py").rows == 2
    assert config.load(str(tmp_path / "two" / "configs" / "x.py")).rows == 64


def test_a_package_of_configs(tmp_path):
    path = write(tmp_path / "configs" / "x.py", "N", "from configs import N")
    (tmp_path / "configs" / "__init__.py").write_text("N = 8")
    assert config.load(str(path)).rows == 8


def test_libraries_are_not_replaced(tmp_path):
    """Folders called like a library, and files in them."""
    import json

    (tmp_path / "json.py").write_text("raise AssertionError")
    for name in ("json", "numpy", "hlm", "yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError")
        path = write(
            tmp_path / name / "x.py", "numpy.int64(2).item()", "import json, numpy, hlm.vocab"
        )
        assert config.load(str(path)).rows == 2
    assert sys.modules["json"] is json


def test_dataclasses_of_a_config_file(tmp_path):
    """Annotations that are strings are looked up in the module of their class."""
    path = write(tmp_path / "x.py", "2", "from __future__ import annotations\nimport dataclasses")
    path.write_text(
        path.read_text()
        + "\n@dataclasses.dataclass\nclass Mine:\n    n: int = 1\n    m: dataclasses.KW_ONLY = 2\n"
    )
    assert config.load(str(path)).rows == 2


def test_hlm_does_not_import_configs():
    for path in (ROOT / "hlm").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) configs", text, re.MULTILINE), path


def test_configs_are_installed():
    """`configs` is one of the packages that setuptools finds by pyproject.toml."""
    import tomllib

    from setuptools import find_namespace_packages

    given = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"][
        "find"
    ]
    assert {"hlm", "hlm.train", "configs"} <= set(
        find_namespace_packages(str(ROOT), include=given["include"])
    )


def test_own_configs_from_any_folder(tmp_path):
    """configs/hat.py without a path, in a process whose Python path has hlm alone; the file's
    neighbour is found.
    """
    code = "from hlm import config; print(config.load('configs/hat.py:tiny').rows)"
    only_hlm = tmp_path / "installed"
    only_hlm.mkdir()
    (only_hlm / "hlm").symlink_to(ROOT / "hlm")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(only_hlm)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "2", done.stderr[-2000:]
