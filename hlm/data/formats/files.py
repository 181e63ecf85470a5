"""Files by address: a local path, or whatever fsspec opens (gs://, s3://, hf://, memory://, ...),
read as it is or unpacked.
"""

import contextlib
import dataclasses
import io
import mmap
import os
import pathlib
import resource
import weakref
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import fsspec

from hlm.data import kinds
from hlm.data.formats.unpack import DAMAGED, UNPACK

NEEDS = "pip install 'hlm[data]' has what gs://, s3:// and hf:// need"
LOCAL = ("file://", "local://")  # fsspec's names of this machine
SPARE = 256  # files that a process has open besides those it is asked for


@dataclasses.dataclass(frozen=True, order=True)
class File:
    """A file, maybe a packed one, by its address.

    Holds no open handle, so any thread or process may use it.
    """

    address: str
    listed: int | None = dataclasses.field(default=None, compare=False)  # size, if it is known

    def __str__(self) -> str:
        return self.address

    @property
    def remote(self) -> bool:
        return "://" in self.address

    @property
    def name(self) -> str:
        """Of a chain, such as zip://a.txt::gs://b/c.zip, that of its path."""
        links = self.address.split("::") if self.remote else [self.address]
        return pathlib.PurePosixPath(next((x for x in links if "://" in x), links[0])).name

    @property
    def suffix(self) -> str:
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def packed(self) -> bool:
        return self.suffix in UNPACK

    def size(self) -> int:
        """Bytes, as stored."""
        if self.listed is not None:
            return self.listed
        if not self.remote:
            return os.stat(self.address).st_size
        system, path = file_system(self.address)
        return int(system.size(path) or 0)

    def open(self) -> BinaryIO:
        """Its bytes as they are stored. Close it."""
        if not self.remote:
            return open(self.address, "rb")
        system, path = file_system(self.address)
        opened = cast(BinaryIO, system.open(path, "rb"))
        weakref.finalize(opened, id, system)  # that of an archive would go, and close its files
        return opened

    @contextlib.contextmanager
    def unpacked(self) -> Iterator[io.BufferedReader]:
        """Its bytes from the beginning on, unpacked as its name says; little of it is in memory."""
        with self.open() as stored:
            if not self.packed:
                yield io.BufferedReader(cast(Any, stored), 1 << 20)
                return
            try:
                with UNPACK[self.suffix](stored) as data:
                    yield io.BufferedReader(cast(Any, data), 1 << 20)
            except DAMAGED as error:
                raise self.damaged(error) from error

    def damaged(self, error: Exception) -> ValueError:
        with self.open() as stored:
            kind = kinds.of_bytes(stored.read(kinds.HEAD))
        seen = f"its bytes are {kind.name}" if kind else "is it complete, and packed so at all?"
        if kind is kinds.NAMED[self.suffix]:
            seen = "it is damaged or cut off: get it again"
        return ValueError(f"{self} cannot be unpacked as {self.suffix}: {error}; {seen}")

    def head(self) -> bytes:
        """The first bytes, unpacked; none of a packed file of nothing.

        ValueError if nothing is stored.
        """
        with self.unpacked() as data:
            head = data.read(kinds.HEAD)
        if not head and not (self.packed and self.size()):
            raise ValueError(f"{self} is empty; remove it from the paths")
        return head

    @contextlib.contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """All bytes of a local file that is not packed, to search in."""
        if not self.size():
            raise ValueError(f"{self} is empty; remove it from the paths")
        with (
            open(self.address, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            yield data

    def read(self, start: int, stop: int) -> bytes:
        """Some bytes, as stored. OSError if the file has become shorter."""
        with open(self.address, "rb", buffering=0) if not self.remote else self.open() as file:
            file.seek(start)
            data = file.read(stop - start) or b""
        if len(data) != stop - start:
            raise OSError(
                f"{self} ended at byte {start + len(data)}, {stop} expected: it changed "
                "while in use"
            )
        return data


def local(address: str) -> str:
    """An address of this machine without its scheme; any other as it is."""
    return next((address[len(x) :] for x in LOCAL if address.startswith(x)), address)


def may_open(count: int, paths: str) -> None:
    """Let this process, and those that it starts, hold so many files open.

    ValueError if the system does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f"{paths}: {count} files are to be open at once, and the system allows {hard} (ulimit "
            "-Hn): read them one after the other, with Streamed(ArrayRecord(...)), or raise that"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system of a remote address, and the path there.

    ValueError if a package is missing or no such kind of address is known.
    """
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"paths: {address!r} cannot be reached: {reason}; {NEEDS}") from error
