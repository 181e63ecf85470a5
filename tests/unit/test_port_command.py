"""The command `python -m hlm.port` ends in one line and status 1 if it cannot read its input."""

import json
import runpy
import subprocess
import sys

import pytest

from tests.unit import test_port
from tests.unit.port_shapes import llama, llama_shapes, made


@pytest.mark.parametrize(
    ("text", "arguments", "named"),
    [
        ("{", [], "config.json is not JSON"),
        ("[1]", [], "config.json holds JSON, but no object"),
        ("[" * 100_000, [], "config.json is not JSON"),
        ("{}", [], "hidden_size is missing"),
        ("{}", ["--section", "model"], "config.json has no section 'model'"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", [], "git lfs pull"),
    ],
)
def test_configs_that_are_none_end_the_command_in_one_line(
    tmp_path, text, arguments, named, capsys, monkeypatch
):
    (tmp_path / "config.json").write_text(text)
    test_port.torch_save(tmp_path / "model.pt", made(llama_shapes()))
    command = ["-m", "llama", str(tmp_path / "model.pt"), str(tmp_path / "run"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        exec_module()
    assert named in str(caught.value.code)
    assert "\n" not in str(caught.value.code)
    assert not (tmp_path / "run").exists()


def exec_module():
    runpy.run_module("hlm.port", run_name="__main__")


def test_the_command_ends_with_status_1_and_without_a_traceback(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(llama() | {"hidden_size": -8}))
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    done = subprocess.run(
        [sys.executable, "-m", "hlm.port", "llama", str(tmp_path), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "model.safetensors" in done.stderr
