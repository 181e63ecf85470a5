"""Fingerprints of data: whether the files behind a source still hold what they held, and which do
not.

They are for telling, not for proof: sizes, and samples of the bytes of big files. The folders that
the files lie in do not count.
"""

import concurrent.futures
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from hlm.data.formats.files import File
from hlm.data.source import Mixture, Records, Source, Stream

SMALL = 1 << 14  # a file up to this is read whole
BLOCK = 1 << 12  # bytes of a sample
FEW = 24  # files of a stream of which samples are taken; sizes come with the listing
SAMPLES = 256  # of the files of a source together, beside the first and last block of each
NAMED = 24  # up to so many files of a source are told apart by name
SHOWN = 3  # files in a message

Contents = dict[str, Any]  # "sum": str and, of few files, "each": [[name, bytes, hash]]


def fingerprint(source: Source | Mixture) -> dict[str, Contents]:
    """The fingerprint of each source in `source`, by its place in it: "source.sources[0]"."""
    return {place: of_records(leaf.open()) for place, _, leaf in leaves(source)}


def leaves(
    source: Source | Mixture, place: str = "source", name: str = ""
) -> Iterator[tuple[str, str, Source]]:
    """(place, name, source) of everything in a mixture that is none itself."""
    if not isinstance(source, Mixture):
        yield place, name or "source", source
        return
    for i, part in enumerate(source.sources):
        own = source.names[i] if source.names else str(i)
        yield from leaves(part, f"{place}.sources[{i}]", f"{name}/{own}" if name else own)


def of_records(records: Records) -> Contents:
    """The fingerprint of opened records; of some of them where no files are known."""
    files = records.locations()
    if not files:
        some = sorted({i * (len(records) - 1) // 15 for i in range(16)}) if len(records) else []
        texts = [records[i].text for i in some]
        found = digest(f"{i} ".encode() + t for i, t in zip(some, texts, strict=True))
        return {"sum": f"{len(records)} records, {found}"}
    some = files
    if isinstance(records, Stream) and len(files) > FEW:
        some = [files[i * (len(files) - 1) // (FEW - 1)] for i in range(FEW)]
    between = SAMPLES // len(files)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # storage may be far away
        samples = list(pool.map(lambda file: sampled(file, between), some))
        sizes = list(pool.map(File.size, files))
    if len(some) < len(files):
        samples.append(" ".join(map(str, sizes)).encode())
    whole = {"sum": f"{len(files)} files, {sum(sizes)} bytes, {digest(samples)}"}
    if len(files) > NAMED:
        return whole
    each = zip(files, sizes, samples, strict=True)
    return whole | {"each": [[file.name, size, found.hex()[:8]] for file, size, found in each]}


def changed(was: Any, now: Contents) -> str | None:
    """What is other now, in one line; None: nothing. `was` may be of an older version: `sum`
    alone.
    """
    was = was if isinstance(was, dict) else {"sum": was}
    if was["sum"] == now["sum"]:
        return None
    old, new = ({tuple(file) for file in side.get("each", ())} for side in (was, now))
    gone, come = old - new, new - old
    if not old or not new or not (gone or come):  # not told by name, or in another order
        return f"{was['sum']}; now {now['sum']}"
    before, after = ({name: size for name, size, _ in side} for side in (gone, come))
    told = []
    for name in sorted(before | after):
        if name not in after:
            told.append(f"{name} is gone")
        elif name not in before:
            told.append(f"{name} is new")
        elif before[name] == after[name]:
            told.append(f"{name} has other bytes, still {after[name]} of them")
        else:
            told.append(f"{name} had {before[name]} bytes and has {after[name]}")
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more


def sampled(path: File, between: int) -> bytes:
    """A hash of the size, the first and last block and `between` others; of all bytes of a small
    file.
    """
    size = path.size()
    with path.open() as file:
        if size <= SMALL:
            return hashlib.sha256(file.read()).digest()
        found = hashlib.sha256(f"{size} ".encode())
        for i in range(between + 2):
            file.seek(i * (size - BLOCK) // (between + 1))
            found.update(file.read(BLOCK))
    return found.digest()


def digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(part)} ".encode() + part)
    return found.hexdigest()[:16]
