"""Kinds of files: what a file is, by its first bytes and by its name, so that no reader takes it
for something else.

Bytes decide where a format has a mark of its own. Marks of a few letters count only if there are
bytes behind them that no text has, so that a text may begin with "BM" or "PAR1".
"""

import codecs
import dataclasses
import functools
import json
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

HEAD = 1 << 16  # first bytes of a file that are looked at
PACKED = (".gz", ".xz", ".zst")  # what hlm/data/formats/unpack.py unpacks

_AS_LINES = "write its text as JSON lines and read them with JsonLines"
_AS_TEXT = "convert it to text first"
_UNPACK = "unpack it, or pack its content as .gz, .xz or .zst"
_UTF8 = "convert it to UTF-8 first (iconv -f {0} -t UTF-8)"


def never(head: bytes) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Kind:
    """A format: how people call it, what to do with such a file, and how it is recognised."""

    name: str
    fix: str
    begins: tuple[bytes, ...] = ()
    endings: tuple[str, ...] = ()  # of a file's name, small letters
    at: int = 0  # where `begins` stands
    test: Callable[[bytes], bool] = never

    def has(self, head: bytes) -> bool:
        mark = any(
            head.startswith(b, self.at) and (not _like_text(b) or _no_text(head))
            for b in self.begins
        )
        return mark or self.test(head)


def _like_text(mark: bytes) -> bool:
    """A mark that a text may begin with."""
    return len(mark) < 7 and all(32 <= b < 127 for b in mark)


def _no_text(head: bytes) -> bool:
    """Whether there are control characters that texts do not have."""
    return bool(head[:1024].translate(None, _TEXT))


_TEXT = bytes(b for b in range(256) if b >= 32 or b in b"\t\n\v\f\r\b\x1b\x1a")
_KEY = rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:'


def _json_lines(head: bytes) -> bool:
    """The first two lines (or the only one) are JSON objects; of one that is cut off here, the
    beginning.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not re.match(_KEY, text):
        return False
    lines = text.split(b"\n")
    whole = [line for line in (lines if len(head) < HEAD else lines[:-1]) if line.strip()]
    cut = lines[-1:] if len(head) >= HEAD else []
    first = [(line, True) for line in whole[:2]] + [(line, False) for line in cut]
    return bool(first) and all(_json_object(line, end) for line, end in first[:2])


def _json_object(line: bytes, whole: bool) -> bool:
    if not re.match(_KEY, line):
        return False
    if not whole:
        return True
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_array(head: bytes) -> bool:
    return re.match(rb"(?:\xef\xbb\xbf)?\s*\[" + _KEY, head) is not None


def _zlib(head: bytes) -> bool:
    if head[:2] not in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"):
        return False
    try:
        return bool(zlib.decompressobj().decompress(head, 64))
    except zlib.error:
        return False


def _arrow_stream(head: bytes) -> bool:
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"\xff" * 4 and 0 < size < 1 << 24 and size % 8 == 0


def _tfrecord(head: bytes) -> bool:
    """A record begins with its size, and a checksum of that."""
    if len(head) < 12 or head[4:8] != bytes(4):
        return False
    crc = 0xFFFFFFFF
    for byte in head[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return head[8:12] == masked.to_bytes(4, "little")


def _safetensors(head: bytes) -> bool:
    return head[8:10] in (b'{"', b"{}") and 2 <= int.from_bytes(head[:8], "little") < 1 << 32


def _utf_16(head: bytes) -> bool:
    """A byte order mark, and what it says is true."""
    if head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return False
    try:
        codecs.getincrementaldecoder("utf-16")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _wide(*zero: bool) -> Callable[[bytes], bool]:
    """Characters of 2 or 4 bytes without a mark: these bytes of each four are nearly always 0, the
    others never.
    """

    def test(head: bytes) -> bool:
        if b"\0" not in head[:64]:
            return False
        some = np.frombuffer(head[: min(len(head), 4096) // 4 * 4], np.uint8).reshape(-1, 4)
        if len(some) < 4:
            return False
        share = (some == 0).mean(axis=0)
        return bool(np.all(np.where(zero, share > 0.9, share < 0.05)))

    return test


JSON_LINES = Kind(
    "JSON lines", "read it with JsonLines", endings=(".jsonl", ".ndjson"), test=_json_lines
)
JSON_ARRAY = Kind(
    "a JSON array", "write one object a line (jq -c '.[]') and read them with JsonLines",
    test=_json_array,
)  # fmt: skip
ARRAY_RECORD = Kind(
    "an ArrayRecord file",
    "read it with ArrayRecord, or with Tfds if it is part of a data set of TensorFlow Datasets",
    (b"\x83\xafp\xd1\r\x88J?",),
    (".array_record", ".arrayrecord", ".riegeli"),
)
PARQUET = Kind("a parquet table", "read it with Parquet", (b"PAR1", b"PARE"), (".parquet", ".pq"))
ARROW = Kind(
    "an Arrow table", "read it with Arrow", (b"ARROW1\0",), (".arrow",), test=_arrow_stream
)
JSON = Kind("JSON", _AS_LINES, endings=(".json",))
KINDS = (
    JSON_LINES,
    JSON_ARRAY,
    JSON,
    ARRAY_RECORD,
    Kind(
        "a TFRecord file", "convert it to ArrayRecord (TensorFlow Datasets: "
        "file_format='array_record') and read it with ArrayRecord or Tfds",
        endings=(".tfrecord", ".tfrecords"), test=_tfrecord,
    ),
    Kind("packed by gzip", "let its name end in .gz, or unpack it", (b"\x1f\x8b\x08",), (".gz", ".tgz")),
    Kind("packed by xz", "let its name end in .xz, or unpack it", (b"\xfd7zXZ\0",), (".xz", ".txz")),
    Kind(
        "packed by zstd", "let its name end in .zst, or unpack it",
        (b"\x28\xb5\x2f\xfd", *(bytes([b]) + b"*M\x18" for b in range(0x50, 0x60))),
        (".zst", ".zstd", ".tzst"),
    ),
    Kind(
        "packed by bzip2", _UNPACK,
        tuple(b"BZh%d" % n + tail for n in range(1, 10) for tail in (b"1AY&SY", b"\x17rE8P\x90")),
        (".bz2", ".tbz", ".tbz2"),
    ),
    Kind("packed by lz4", _UNPACK, (b"\x04\x22M\x18", b"\x02\x21L\x18"), (".lz4",)),
    Kind("packed by lzma", _UNPACK, (b"]\0\0",), (".lzma",)),
    Kind("packed by lzip", _UNPACK, (b"LZIP\x01",), (".lz",)),
    Kind("packed by lzop", _UNPACK, (b"\x89LZO\0",), (".lzo",)),
    Kind("packed by compress", _UNPACK, (b"\x1f\x9d", b"\x1f\xa0"), (".z",)),
    Kind("packed by snappy", _UNPACK, (b"\xff\x06\0\0sNaPpY",), (".snappy", ".sz")),
    Kind("packed by brotli", _UNPACK, endings=(".br",)),
    Kind("packed by zlib", _UNPACK, endings=(".zlib", ".zz"), test=_zlib),
    PARQUET,
    ARROW,
    Kind("an old Feather table", _AS_LINES, (b"FEA1",), (".feather",)),
    Kind("an ORC table", _AS_LINES, (b"ORC",), (".orc",)),
    Kind("an Avro table", _AS_LINES, (b"Obj\x01",), (".avro",)),
    Kind("an SQLite data base", _AS_LINES, (b"SQLite format 3\0",), (".sqlite", ".sqlite3")),
    Kind("an LMDB or Berkeley data base", _AS_LINES, (b"\xde\xc0\xef\xbe",), (".mdb", ".lmdb"), at=16),
    Kind("an HDF5 file", _AS_LINES, (b"\x89HDF\r\n\x1a\n",), (".h5", ".hdf5")),
    Kind("a numpy array", _AS_TEXT, (b"\x93NUMPY",), (".npy", ".npz")),
    Kind("a MATLAB file", _AS_TEXT, (b"MATLAB 5.0 MAT-file",), (".mat",)),
    Kind("a safetensors file", _AS_TEXT, endings=(".safetensors",), test=_safetensors),
    Kind(
        "a pickle", _AS_LINES, tuple(bytes([0x80, n]) for n in range(2, 6)),
        (".pkl", ".pickle", ".pt", ".pth"),
    ),
    Kind("a GGUF model", _AS_TEXT, (b"GGUF",), (".gguf",)),
    Kind(
        "a zip archive (or a format made of one, such as torch, npz or docx)", "unpack it",
        (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"), (".zip", ".docx", ".xlsx", ".epub", ".jar"),
    ),
    Kind("a 7z archive", "unpack it", (b"7z\xbc\xaf\x27\x1c",), (".7z",)),
    Kind("a rar archive", "unpack it", (b"Rar!\x1a\x07",), (".rar",)),
    Kind("a tar archive", "unpack it", (b"ustar\0", b"ustar "), (".tar",), at=257, test=lambda h: _tar(h)),
    Kind("a cabinet archive", "unpack it", (b"MSCF",), (".cab",)),
    Kind("an ar archive", "unpack it", (b"!<arch>\n",), (".deb", ".a")),
    Kind("an RPM package", "unpack it", (b"\xed\xab\xee\xdb",), (".rpm",)),
    Kind("a PDF document", _AS_TEXT, (b"%PDF-1.", b"%PDF-2."), (".pdf",)),
    Kind("an RTF document", _AS_TEXT, (b"{\\rtf1\\",), (".rtf",)),
    Kind("an old Office document", _AS_TEXT, (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",), (".doc", ".xls", ".ppt")),
    Kind("a DjVu document", _AS_TEXT, (b"AT&TFORM",), (".djvu",)),
    Kind("a PNG picture", _AS_TEXT, (b"\x89PNG\r\n\x1a\n",), (".png",)),
    Kind("a JPEG picture", _AS_TEXT, (b"\xff\xd8\xff", b"\0\0\0\x0cjP  \r\n"), (".jpg", ".jpeg", ".jp2")),
    Kind("a GIF picture", _AS_TEXT, (b"GIF87a", b"GIF89a"), (".gif",)),
    Kind("a BMP picture", _AS_TEXT, (b"BM",), (".bmp",)),
    Kind("a TIFF picture", _AS_TEXT, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (".tif", ".tiff")),
    Kind("a picture, sound or film (RIFF)", _AS_TEXT, (b"RIFF",), (".webp", ".wav", ".avi")),
    Kind("a sound file", _AS_TEXT, (b"OggS", b"fLaC", b"ID3", b"MThd"), (".ogg", ".opus", ".flac", ".mp3", ".mid")),
    Kind("a film", _AS_TEXT, (b"\x1a\x45\xdf\xa3",), (".mkv", ".webm")),
    Kind("a film", _AS_TEXT, (b"ftyp",), (".mp4", ".mov", ".m4a"), at=4),
    Kind(
        "a program", _AS_TEXT,
        (b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
         b"\xca\xfe\xba\xbe", b"\0asm", b"MZ", b"BC\xc0\xde", b"dex\n035\0"),
        (".exe", ".dll", ".so", ".o", ".wasm", ".class", ".pyc"),
    ),
    Kind("UTF-32 text", _UTF8.format("UTF-32"), (b"\xff\xfe\0\0", b"\0\0\xfe\xff")),
    Kind("UTF-16 text", _UTF8.format("UTF-16"), test=_utf_16),
    Kind("UTF-16 text", _UTF8.format("UTF-16LE"), test=_wide(False, True, False, True)),
    Kind("UTF-16 text", _UTF8.format("UTF-16BE"), test=_wide(True, False, True, False)),
    Kind("UTF-32 text", _UTF8.format("UTF-32LE"), test=_wide(False, True, True, True)),
    Kind("UTF-32 text", _UTF8.format("UTF-32BE"), test=_wide(True, True, True, False)),
    Kind("a pointer of Git LFS", "fetch the file itself (git lfs pull)", (b"version https://git-lfs.github.com/spec/",)),
    Kind("a pointer of git-annex", "fetch the file itself (git annex get)", (b"/annex/objects/",)),
)  # fmt: skip


NAMED = {ending: kind for kind in KINDS for ending in kind.endings}


def _tar(head: bytes) -> bool:
    """A header's checksum: also of archives that are older than "ustar"."""
    if len(head) < 512 or not head[0]:
        return False
    try:
        stated = int(head[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + 8 * 32 + sum(head[156:512])


@functools.cache
def beginning_with(first: bytes) -> list[Kind]:
    """The kinds that a file with this first byte may be of."""
    return [
        kind
        for kind in KINDS
        if kind.test is not never or kind.at or any(b.startswith(first) for b in kind.begins)
    ]


def of_bytes(head: bytes) -> Kind | None:
    """The kind that the first bytes of a file show, None for text and whatever has no mark."""
    head = head[:HEAD]
    return next((kind for kind in beginning_with(head[:1]) if kind.has(head)), None)


def of_name(path: pathlib.PurePath) -> Kind | None:
    """The kind that a file's name states; of a packed one that of its content."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    if name[-1:].isdigit():
        name = re.sub(r"-\d+-of-\d+$", "", name)  # parts: x.tfrecord-00000-of-00004
    return NAMED.get(name[name.rfind(".") :]) if "." in name else None


OWN = {
    "JsonLines": JSON_LINES,
    "ArrayRecord": ARRAY_RECORD,
    "Parquet": PARQUET,
    "Arrow": ARROW,
}  # of the classes that read a format with a mark


def refuse(file: Any, head: bytes, reader: str, named: bool, but: str = "") -> None:
    """ValueError if the file is not for `reader`, by its bytes and, if `named`, by its name.

    `file` has a name and is shown by its address. `but`: another way out.
    """
    own = OWN.get(reader)
    found = of_bytes(head)
    stated = of_name(pathlib.PurePath(file.name)) if named else None
    wrong = next((kind for kind in (found, stated) if kind not in (None, own)), None)
    if wrong is None:
        return
    seen = "is" if wrong is found else "is by its name"
    raise ValueError(f"{file} {seen} {wrong.name}, not for {reader}: {wrong.fix}{but}")
