"""Decompression in pieces: judged by the reference implementations, and by what is done to their output."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from banger_tools.oci import compression

TEXT = b"".join(b"line %d of something that compresses\n" % n for n in range(20000)) + random.Random(1).randbytes(
    300_000
)


def zstd_frames(data: bytes) -> bytes:
    half = len(data) // 2
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"
    first = zstandard.ZstdCompressor(write_checksum=True).compress(data[:half])
    writer = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    return first + skippable + writer.compress(data[half:]) + writer.flush()


def gzip_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[start : start + 7000]) for start in range(0, len(data), 7000))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip of many members": gzip_members,
    "zstd of frames": zstd_frames,
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def decompress(data: bytes, step: int = 1 << 16) -> bytes:
    out: list[bytes] = []
    stream = compression.open_stream(data[: compression.HEAD], out.append)
    for start in range(0, len(data), step):
        stream.feed(data[start : start + step])
    stream.finish()
    assert max(map(len, out), default=0) <= 2 * compression.PIECE
    return b"".join(out)


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("step", [997, 1 << 20])
def test_output_is_what_was_compressed(name: str, step: int) -> None:
    assert decompress(COMPRESSORS[name](TEXT), step) == TEXT


@pytest.mark.parametrize("name", COMPRESSORS)
def test_empty_input_of_every_format(name: str) -> None:
    assert decompress(COMPRESSORS[name](b"") or gzip.compress(b"")) == b""


def test_what_is_not_compressed_passes_through() -> None:
    assert decompress(b"plain" * 1000) == b"plain" * 1000


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_cut_is_noticed(name: str) -> None:
    data = COMPRESSORS[name](TEXT[:4000])
    boundaries = {len(data)}
    if "frames" in name:
        first = len(zstandard.ZstdCompressor(write_checksum=True).compress(TEXT[:2000]))
        boundaries |= {first, first + 13}  # a stream may end behind any frame
    for end in range(7, len(data)):
        if end in boundaries:
            continue
        with pytest.raises(compression.Corrupt):
            decompress(data[:end])


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("garbage", [b"\0", b"garbage that is no member", b"\x1f\x8bno", b"\x28\xb5\x2f\xfd"])
def test_trailing_garbage_is_refused(name: str, garbage: bytes) -> None:
    with pytest.raises(compression.Corrupt):
        decompress(COMPRESSORS[name](TEXT[:5000]) + garbage)


def test_zero_padding_between_xz_streams_is_part_of_the_format() -> None:
    assert decompress(lzma.compress(b"one") + b"\0\0\0\0" + lzma.compress(b"two")) == b"onetwo"


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_never_gives_other_output(data: st.DataObject) -> None:
    good = bytearray(gzip.compress(TEXT[:3000]))
    good[data.draw(st.integers(10, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decompress(bytes(good))
    except compression.Corrupt:
        return
    assert found == TEXT[:3000]  # the bits that fill the last byte mean nothing


def test_a_gzip_checksum_is_checked() -> None:
    raw = bytearray(gzip.compress(TEXT))
    raw[-8] ^= 1
    with pytest.raises(compression.Corrupt):
        decompress(bytes(raw))
    with pytest.raises(zlib.error):
        zlib.decompress(bytes(raw), 31)


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_bomb_costs_no_memory(name: str) -> None:
    import tracemalloc

    bomb = COMPRESSORS[name](b"\0" * (64 << 20))
    sizes: list[int] = []
    tracemalloc.start()
    stream = compression.open_stream(bomb[: compression.HEAD], lambda data: sizes.append(len(data)))
    stream.feed(bomb)
    stream.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) == 64 << 20
    assert peak < 16 << 20
