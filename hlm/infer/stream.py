"""A text in pieces, while it is generated."""

import codecs
from collections.abc import Iterator

from hlm.infer.continued import Continuation


class Stream(Iterator[str]):
    """A text in pieces of whole characters while it is made.

    A character that the prompt leaves open belongs to the first piece, so the pieces go on where
    the whole characters of the prompt end. `made`: the bytes so far, those of `generate`. `ended`:
    why it ended, as in `Made`; None before.
    """

    def __init__(self, slices: Iterator[list[Continuation]], prompt: bytes):
        self.made = b""
        self.ended: str | None = None
        self._pieces = self._decoded(slices, prompt)

    def __next__(self) -> str:
        return next(self._pieces)

    def _decoded(self, slices: Iterator[list[Continuation]], prompt: bytes) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(prompt)
        for (row,) in slices:
            new, self.made, self.ended = (
                row.streamable[len(self.made) :],
                row.streamable,
                row.ended,
            )
            if piece := decoder.decode(new, final=not row.open):
                yield piece
