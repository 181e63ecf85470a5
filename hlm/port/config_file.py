"""The config of a published checkpoint: a JSON file beside its weights."""

import pathlib
from typing import Any

from hlm.files import json_object
from hlm.port.keys import plain

CONFIGS = ("config.json", "params.json")


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
