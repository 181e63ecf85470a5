"""Config files: Python files found by their path, from any folder, which may import what lies
beside them and the configs of hlm.
"""

import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import types
import zlib

# where hlm and the configs that come with it are
HOME = pathlib.Path(__file__).resolve().parents[1]
# names of packages that stand for folders of config files, and those folders
PACKAGES: dict[str, pathlib.Path] = {}
# other modules that config files imported, and the folders of those files
NEIGHBOURS: dict[str, pathlib.Path] = {}
SEARCHED: list[str] = []  # what config files have added to sys.path


def split(reference: str) -> tuple[pathlib.Path, str]:
    """`FILE.py:SIZE` -> (the file, SIZE); without a size "tiny". The path may hold colons; a
    relative one may be of hlm's own configs.
    """
    path, colon, size = reference.rpartition(":")
    if is_file(reference) or not colon or "/" in size or size.endswith(".py"):
        path, size = reference, ""
    for place in (pathlib.Path(path).expanduser(), HOME / path):
        if place.is_file():
            return place.resolve(), size or "tiny"
    raise FileNotFoundError(
        f"no config file {path!r}: give FILE.py:SIZE, for example configs/hat.py:tiny"
    )


def is_file(path: str) -> bool:
    return pathlib.Path(path).expanduser().is_file()


def run(path: pathlib.Path) -> types.ModuleType:
    """The module of a config file, which defines `config(size)` and `SIZES`.

    It may import by the name of its folder (`from configs.common import ...`), by that of a folder
    beside it, and its neighbours by their own names. In a folder of the same name as another one,
    such as `configs`, its own neighbours come first.
    """
    if path.suffix != ".py":
        raise ValueError(
            f"{path} is not a Python file: give FILE.py:SIZE, for example configs/hat.py:tiny"
        )
    name = f"hlm_config_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{zlib.crc32(bytes(path)):08x}"
    make_importable(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    # Nobody can import it by this name: a checkpoint must not keep a class of it.
    module.__spec__ = None
    NEIGHBOURS.update(
        {
            found: path.parent
            for found in set(sys.modules) - before
            if "." not in found and found not in PACKAGES
        }
    )
    missing = [wanted for wanted in ("SIZES", "config") if not hasattr(module, wanted)]
    if missing:
        raise ValueError(
            f"{path} defines no {' and no '.join(missing)}: a config file has SIZES and "
            "config(size)"
        )
    return module


def make_importable(folder: pathlib.Path) -> None:
    """Search the folder, the one above and hlm's own after all others; and let the folder's name
    stand for it.
    """
    ours = list(dict.fromkeys([str(folder.parent), str(folder), *SEARCHED, str(HOME)]))
    sys.path[:] = [place for place in sys.path if place not in SEARCHED]
    SEARCHED[:] = [place for place in ours if place not in sys.path]
    sys.path += SEARCHED
    for name in [
        name for name, user in NEIGHBOURS.items() if user != folder and beside(folder, name)
    ]:
        forget(name)  # of another folder; this one has its own
    if PACKAGES.get(folder.name) == folder or not may_stand_for_it(folder):
        return
    forget(folder.name)
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(folder.name, [str(folder.parent)])
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    places = [folder, *(pathlib.Path(place) / folder.name for place in sys.path)]
    package.__path__ = list(dict.fromkeys(str(place) for place in places if place.is_dir()))
    sys.modules[folder.name] = package
    PACKAGES[folder.name] = folder
    if spec.loader is not None and spec.has_location:  # it has an __init__.py
        spec.loader.exec_module(package)


def may_stand_for_it(folder: pathlib.Path) -> bool:
    """Whether a folder's name is free: no module of Python's, of a library's or in use otherwise is
    called so.
    """
    name = folder.name
    if not name.isidentifier() or name in sys.stdlib_module_names:
        return False
    loaded = sys.modules.get(name)
    if loaded is not None:
        return name in PACKAGES or (
            getattr(loaded, "__file__", None) is None and hasattr(loaded, "__path__")
        )
    spec = importlib.machinery.PathFinder.find_spec(name)
    return (
        spec is None
        or not spec.has_location
        or "site-packages" not in pathlib.Path(spec.origin or "").parts
    )


def beside(folder: pathlib.Path, name: str) -> bool:
    """Whether a module of that name lies in a folder or in the one above, and is not the one in
    use.
    """
    # none: a folder, which Python looks for in all places anew
    used = getattr(sys.modules.get(name), "__file__", None)
    places = [place / found for place in (folder, folder.parent) for found in (f"{name}.py", name)]
    return any(place.exists() for place in places) and not any(
        used and pathlib.Path(used).is_relative_to(place) for place in places
    )


def forget(name: str) -> None:
    """Import a module and those in it anew when they are asked for again."""
    for found in [found for found in sys.modules if found.partition(".")[0] == name]:
        del sys.modules[found]
    NEIGHBOURS.pop(name, None)
