"""What a result came from: versions, the commit of the code, the machine, checksums of texts."""

import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

PACKAGES = ("hlm", "jax", "jaxlib", "flax", "numpy", "tokenizers")


def described() -> dict[str, Any]:
    """Versions, commit and devices."""
    return {
        "versions": {"python": platform.python_version()} | versions(),
        "commit": commit(),
        "devices": sorted({f"{d.platform}: {d.device_kind}" for d in jax.devices()}),
        "machine": platform.machine(),
    }


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit that the code stands at, with "+" if files were changed since; None outside of
    git.
    """
    here = pathlib.Path(__file__).parent
    try:
        found = [
            subprocess.run(
                ["git", *command], cwd=here, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", "--", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] + ("+" if found[1] else "")


def digest(texts: Sequence[bytes]) -> dict[str, Any]:
    """How much text it is, and a checksum that depends on where documents end."""
    every = hashlib.sha256()
    for text in texts:
        every.update(hashlib.sha256(text).digest())
    return {"documents": len(texts), "bytes": sum(map(len, texts)), "sha256": every.hexdigest()}
