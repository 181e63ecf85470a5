"""python -m hlm.port FORMAT SOURCE DEST: a published checkpoint becomes one of ours.

SOURCE is a .safetensors file, a folder of them, or a file of torch.save; DEST a new folder that
hlm.load, eval.py and others read.
"""

import argparse
import pathlib
import sys
from typing import Any

from hlm.checkpoint import Checkpoints, folder
from hlm.files import json_object
from hlm.port import FORMATS, from_foreign
from hlm.port.keys import plain

CONFIGS = ("config.json", "params.json")


def main(format: str, source: str, dest: str, config: str | None, section: str | None) -> None:
    if folder(dest).exists():
        raise ValueError(f"{dest} has checkpoints already: give a new folder")
    lm = from_foreign(format, source, sizes(config_file(source, config), section))
    checkpoints = Checkpoints(dest, keep=1)
    checkpoints.save(0, lm.experiment, lm.params)
    checkpoints.close()
    print(f"{dest}: {lm!r}")


def config_file(source: str, given: str | None) -> pathlib.Path:
    """The config's file: the given one, or that beside the weights."""
    path = pathlib.Path(source)
    beside = path if path.is_dir() else path.parent
    found = (
        [pathlib.Path(given)]
        if given
        else [beside / name for name in CONFIGS if (beside / name).exists()]
    )
    if not found:
        raise ValueError(
            f"no {' or '.join(CONFIGS)} beside {source}: name the config with --config"
        )
    return found[0]


def sizes(path: pathlib.Path, section: str | None) -> dict[str, Any]:
    """The model's config in a file, or in a section of it."""
    values = json_object(path)
    if section is None:
        return values
    if section not in values:
        raise ValueError(
            f"{path} has no section {section!r}; there are "
            f"{', '.join(map(plain, values)) or 'none'}"
        )
    return values[section]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m hlm.port",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("source")
    parser.add_argument("dest")
    parser.add_argument(
        "--config",
        help=f"JSON of the model's sizes; by default {' or '.join(CONFIGS)} beside the weights",
    )
    parser.add_argument(
        "--section",
        help="the key of that JSON under which the sizes are, for example `model`; by default all "
        "of it",
    )
    try:
        main(**vars(parser.parse_args()))
    except (ValueError, OSError) as error:
        sys.exit(f"python -m hlm.port: {' '.join(str(error).split())}")
