"""Packed files as streams: gzip, xz and zstd, of any number of members or frames."""

import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class Zstd(io.RawIOBase):
    """What a zstd file holds, frame after frame, of windows up to 2 GB (`zstd --long=31`).

    One that is cut off is an EOFError; zstandard's own reader would end there without a word.
    """

    def __init__(self, stored: BinaryIO):
        super().__init__()
        self.stored = stored
        self.open_frame: Any = None
        self.left = b""  # packed bytes of the next frame
        self.data = memoryview(b"")  # unpacked, not yet given out

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.data:
            if self.open_frame is not None and self.open_frame.eof:
                self.left, self.open_frame = self.open_frame.unused_data, None
            packed = self.left or self.stored.read(1 << 17)
            self.left = b""
            if not packed:
                if self.open_frame is not None:
                    raise EOFError("zstd data ended within a frame")
                return 0
            if self.open_frame is None:
                unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
                self.open_frame = unpacker.decompressobj()
            self.data = memoryview(self.open_frame.decompress(packed))
        n = min(len(buffer), len(self.data))
        buffer[:n] = self.data[:n]
        self.data = self.data[n:]
        return n


def _gzip(stored: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=stored, mode="rb")


# by the ending of a file's name, as kinds.PACKED says
UNPACK: dict[str, Callable[[BinaryIO], Any]] = {".gz": _gzip, ".xz": lzma.LZMAFile, ".zst": Zstd}
