"""The training text of published sizes: none, until whoever trains them gives one."""

import dataclasses

from hlm.data.formats.record import Records


@dataclasses.dataclass(frozen=True)
class Unchosen:
    """No text. It cannot be opened, so that no large model trains on a small book by mistake."""

    def open(self) -> Records:
        example = """data.source='TextFiles(paths=("/data/*.txt",), piece=8192)'"""
        raise ValueError(f"data.source: this size has no text of its own; give one: {example}")
