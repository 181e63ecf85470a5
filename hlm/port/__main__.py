"""python -m hlm.port FORMAT SOURCE DEST: a published checkpoint becomes one of ours.

SOURCE is a .safetensors file, a folder of them, or a file of torch.save; DEST a new folder that
hlm.load, eval.py and others read.
"""

import argparse
import sys

from hlm.checkpoint import Checkpoints, folder
from hlm.port import FORMATS, from_foreign
from hlm.port.config_file import CONFIGS, config_file, sizes


def main(format: str, source: str, dest: str, config: str | None, section: str | None) -> None:
    if folder(dest).exists():
        raise ValueError(f"{dest} has checkpoints already: give a new folder")
    lm = from_foreign(format, source, sizes(config_file(source, config), section))
    checkpoints = Checkpoints(dest, keep=1)
    checkpoints.save(0, lm.experiment, lm.params)
    checkpoints.close()
    print(f"{dest}: {lm!r}")


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
