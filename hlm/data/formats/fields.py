"""Sources whose records have fields, one of which is the text."""

import dataclasses

from hlm.data.formats.find import check_bad_lines, check_paths, check_piece, check_prompt


@dataclasses.dataclass(frozen=True)
class FieldFiles:
    """Base of JsonLines, Parquet and Arrow; what the fields mean stands in JsonLines."""

    paths: tuple[str, ...]
    field: str = "text"
    piece: int = 8192
    prompt: str | None = None
    bad_lines: int | None = 0

    def __post_init__(self):
        check_paths(self)
        check_piece(self)
        check_prompt(self)
        check_bad_lines(self)
