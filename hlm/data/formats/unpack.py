"""Packed files as streams: gzip, xz and zstd, of any number of members, streams or frames."""

import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class Frames(io.RawIOBase):
    """What a packed file holds, frame after frame; `begin` makes what unpacks one.

    A frame that is cut off is an EOFError, and what is no frame an error of its library: the
    readers of zstandard and of Python's lzma end there without a word. Behind a frame any number of
    bytes `pad` may stand.
    """

    def __init__(self, stored: BinaryIO, begin: Callable[[], Any], pad: bytes = b""):
        super().__init__()
        self.stored, self.begin, self.pad = stored, begin, pad
        self.open_frame: Any = None
        self.behind = False  # a frame
        self.left = b""  # packed bytes of the next frame
        self.data = memoryview(b"")  # unpacked, not yet given out

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.data:
            if self.open_frame is not None and self.open_frame.eof:
                self.left, self.open_frame = self.open_frame.unused_data, None
                self.behind = True
            packed = self.left or self.stored.read(1 << 15)
            self.left = b""
            if not packed:
                if self.open_frame is not None:
                    raise EOFError("its data ended within a frame")
                return 0
            if self.open_frame is None:
                if self.behind and self.pad and not (packed := packed.lstrip(self.pad)):
                    continue
                self.open_frame = self.begin()
            self.data = memoryview(self.open_frame.decompress(packed))
        n = min(len(buffer), len(self.data))
        buffer[:n] = self.data[:n]
        self.data = self.data[n:]
        return n


def _gzip(stored: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=stored, mode="rb")


def _xz(stored: BinaryIO) -> Any:
    return Frames(stored, lzma.LZMADecompressor, b"\0")


def _zstd(stored: BinaryIO) -> Any:
    """With windows of up to 2 GB (`zstd --long=31`)."""
    return Frames(
        stored, lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    )


# by the ending of a file's name, as kinds.PACKED says
UNPACK: dict[str, Callable[[BinaryIO], Any]] = {".gz": _gzip, ".xz": _xz, ".zst": _zstd}
