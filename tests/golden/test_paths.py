"""Parameter paths and shapes are the public format of checkpoints: the tiny sizes' are written down
here, FILE-SIZE.txt.

Write them anew with `python -m tests.golden.test_paths`, and say in the change log what happens to
older checkpoints.
"""

import pathlib

import jax

from hlm.model.lm import abstract_params
from tests.laws.subjects import TINY, every_config, experiment, title

FOLDER = pathlib.Path(__file__).parent


def written(name: str) -> pathlib.Path:
    return FOLDER / f"{title(name)}.txt"


def paths(name: str) -> str:
    exp = experiment(name)
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(exp.model, exp.data.length))
    lines = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {'x'.join(map(str, a.shape))}"
        for path, a in leaves
    ]
    return "\n".join(sorted(lines)) + "\n"


@every_config
def test_paths_are_those_written_down(name):
    again = "if that is meant, run `python -m tests.golden.test_paths`"
    assert written(name).exists(), f"{name} is new: {again}"
    assert paths(name) == written(name).read_text(), (
        f"parameters of {name} changed, older checkpoints will not load: {again}"
    )


def test_no_leftovers():
    assert {p.stem for p in FOLDER.glob("*.txt")} <= {title(name) for name in TINY}, (
        "remove files of configs that are gone"
    )


if __name__ == "__main__":
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for name in TINY:
        written(name).write_text(paths(name))
