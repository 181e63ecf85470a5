"""Packed files of several parts are read whole, and what is none of them is an error."""

import bz2
import gzip
import io
import json
import lzma

import pytest
import zstandard

from hlm.data.formats.unpack import UNPACK
from hlm.data.source import JsonLines
from tests.unit.source_files import texts, write

PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


def line(text):
    return json.dumps({"text": text}).encode() + b"\n"


@pytest.mark.parametrize("ending", PACK)
def test_parts_that_follow_each_other(tmp_path, ending):
    pack = PACK[ending]
    parts = [pack(line("one")), pack(b""), pack(line("two") * 9000), pack(line("end"))]
    path = write(tmp_path, "a.jsonl" + ending, b"".join(parts))
    assert texts(JsonLines((path,))) == [b"one", *[b"two"] * 9000, b"end"]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("behind", [b"junk" * 9, b"\x01", b"\xfd7zXZ\0\xff\xff"])
def test_what_is_no_part_is_an_error(tmp_path, ending, behind):
    """Also where the part before it is whole: nothing ends without a word."""
    path = write(tmp_path, "a.jsonl" + ending, PACK[ending](line("one")) + behind)
    with pytest.raises(ValueError, match=rf"cannot be unpacked as \{ending}: .*get it again$"):
        texts(JsonLines((path,)))


@pytest.mark.parametrize("ending", PACK)
def test_a_part_that_is_damaged_or_cut_off_is_an_error(tmp_path, ending):
    one, two = PACK[ending](line("one")), PACK[ending](line("two " * 9))
    damaged = bytearray(two)
    damaged[1] ^= 0xFF
    for second in (damaged, two[:1], two[: len(two) // 2], two[:-1]):
        path = write(tmp_path, "a.jsonl" + ending, one + second)
        with pytest.raises(ValueError, match="cannot be unpacked"):
            texts(JsonLines((path,)))


@pytest.mark.parametrize("zeros", [4, 8, 1 << 17])
def test_xz_may_be_padded(tmp_path, zeros):
    """As the format says (2.2): zeros between streams and behind the last."""
    one, two = lzma.compress(line("one")), lzma.compress(line("two"))
    path = write(tmp_path, "a.jsonl.xz", one + bytes(zeros) + two + bytes(zeros))
    assert texts(JsonLines((path,))) == [b"one", b"two"]
    path = write(tmp_path, "b.jsonl.xz", bytes(8) + one)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        texts(JsonLines((path,)))


def test_other_packings_say_what_they_are(tmp_path):
    path = write(tmp_path, "a.jsonl.xz", bz2.compress(line("one")))
    with pytest.raises(ValueError, match=r"its bytes are packed by bzip2$"):
        texts(JsonLines((path,)))


def test_zstd_of_a_long_window_and_of_nothing():
    pack = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    )
    unpack = UNPACK[".zst"]
    assert unpack(io.BytesIO(pack.compress(b"x" * 1000))).readall() == b"x" * 1000
    assert unpack(io.BytesIO(b"")).readall() == b""
