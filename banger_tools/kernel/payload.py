"""Compressed kernels taken out of what they are wrapped in: x86 bzImages, EFI zboot files, plain compressed files.

The layouts are those of the kernel's Documentation/arch/x86/boot.rst and drivers/firmware/efi/libstub/zboot-header.S;
a payload's compression is told by its first bytes and by nothing else. What comes out is bounded, whatever goes in.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from banger_tools import errors

LIMIT = 1 << 29  # no kernel unpacks to more than this

_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_VERSION = 0x206
_KERNEL_VERSION = 0x20E
_PAYLOAD = 0x248
_ZBOOT_MAGIC = b"MZ\0\0zimg"
_DICTIONARY = 1 << 28  # bytes of history that xz, lzma and zstd may ask for
_LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_LEGACY_BLOCK = 8 << 20
_PIECE = 512  # bytes of zstd, which unpack to 16 MiB at most


class BootHeader(NamedTuple):
    """What the boot header of a bzImage says: where the payload is, and the version text."""

    payload_offset: int
    payload_length: int
    version: str


class _Decompressor(Protocol):
    """What zlib's, bz2's and lzma's decompressor objects have in common."""

    @property
    def eof(self) -> bool: ...


def is_bzimage(data: bytes) -> bool:
    """Tell whether a file is an x86 bzImage by the magic of its boot header."""
    return data[_MAGIC : _MAGIC + 4] == b"HdrS"


def is_zboot(data: bytes) -> bool:
    """Tell whether a file is an EFI program that carries a compressed kernel."""
    return data.startswith(_ZBOOT_MAGIC)


def boot_header(data: bytes) -> BootHeader:
    """Read the boot header of a bzImage (boot protocol 2.08 or later, of 2007).

    Raises BadInput if it is none, too old, or points outside of the file.
    """
    if not is_bzimage(data) or len(data) < _PAYLOAD + 8:
        raise errors.BadInput("the kernel is no bzImage: its boot header is missing")
    (protocol,) = struct.unpack_from("<H", data, _VERSION)
    if protocol < 0x208:
        raise errors.BadInput(f"the bzImage has boot protocol {protocol >> 8}.{protocol & 255:02}, older than 2.08")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    setup = (data[_SETUP_SECTORS] or 4) + 1  # 0 means 4, for kernels of the last century
    start = setup * 512 + offset
    if not length or start + length > len(data):
        raise errors.BadInput("the bzImage is cut short: its payload ends outside of the file")
    return BootHeader(start, length, _version_text(data, setup))


def _version_text(data: bytes, setup: int) -> str:
    (pointer,) = struct.unpack_from("<H", data, _KERNEL_VERSION)
    end = setup * 512
    text = data[pointer + 0x200 : end].split(b"\0", 1)[0] if pointer else b""
    return text.decode("ascii", "replace")


def of_bzimage(data: bytes) -> bytes:
    """Return the compressed payload of a bzImage; raises what `boot_header` raises."""
    header = boot_header(data)
    return data[header.payload_offset : header.payload_offset + header.payload_length]


def of_zboot(data: bytes) -> bytes:
    """Return the compressed payload of an EFI zboot file.

    Raises BadInput if its header points outside of the file.
    """
    if len(data) < 64:
        raise errors.BadInput("the EFI zboot kernel is cut short: its header is not whole")
    offset, length = struct.unpack_from("<II", data, 8)
    if not length or offset + length > len(data):
        raise errors.BadInput("the EFI zboot kernel is cut short: its payload ends outside of the file")
    return data[offset : offset + length]


def vmlinux(data: bytes) -> bytes:
    """Return the ELF kernel that a bzImage holds.

    Raises BadInput if the payload is corrupt or no ELF file, Unavailable for a compression that we cannot undo.
    """
    kernel = decompress(of_bzimage(data))
    if not kernel.startswith(b"\x7fELF"):
        raise errors.BadInput("the bzImage holds no ELF kernel")
    return kernel


def compression(payload: bytes) -> str | None:
    """Return the name of a payload's compression by its first bytes; None if they are of none that we know."""
    return next((method for magic, method in _MAGICS.items() if payload.startswith(magic)), None)


def decompress(payload: bytes, *, limit: int = LIMIT, what: str = "the kernel's payload") -> bytes:
    """Return the bytes that a payload unpacks to; what follows it is ignored, as a kernel's build appends its size.

    Raises BadInput if it is corrupt or unpacks to more than `limit`, Unavailable for a compression that we cannot undo;
    they begin with `what`.
    """
    method = compression(payload)
    if method is None and payload.startswith(b"\x89LZO"):
        raise errors.Unavailable(f"{what} is compressed with LZO, which is not supported")
    if method is None:
        raise errors.BadInput(f"{what} is compressed in no known way")
    try:
        return _METHODS[method](payload, limit)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise errors.BadInput(f"{what} is corrupt ({method}): {error}") from error


def _gzip(payload: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(31)
    return _whole(stream, stream.decompress(payload, limit + 1), limit)


def _xz(payload: bytes, limit: int) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_DICTIONARY)  # xz, and the lzma program's older format
    return _whole(stream, stream.decompress(payload, limit + 1), limit)


def _bzip2(payload: bytes, limit: int) -> bytes:
    stream = bz2.BZ2Decompressor()
    return _whole(stream, stream.decompress(payload, limit + 1), limit)


def _whole(stream: _Decompressor, data: bytes, limit: int) -> bytes:
    _refuse_more(len(data), limit)
    if not stream.eof:
        raise EOFError("it ends early")
    return data


def _refuse_more(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it unpacks to more than {limit} bytes")


def _zstd(payload: bytes, limit: int) -> bytes:
    import zstandard

    stream = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY).decompressobj()
    data = bytearray()
    try:
        for start in range(0, len(payload), _PIECE):
            if stream.eof:
                break
            data += stream.decompress(payload[start : start + _PIECE])
            _refuse_more(len(data), limit)
    except zstandard.ZstdError as error:
        raise ValueError(error) from error
    return _whole(stream, bytes(data), limit)


def _lz4_legacy(payload: bytes, limit: int) -> bytes:
    from lz4 import block

    data = bytearray()
    for packed in _lz4_blocks(payload):
        try:
            data += block.decompress(packed, uncompressed_size=_LZ4_LEGACY_BLOCK)
        except block.LZ4BlockError as error:
            raise ValueError(error) from error
        _refuse_more(len(data), limit)
    return bytes(data)


def _lz4_blocks(payload: bytes) -> Iterator[bytes]:
    """Yield the blocks of a legacy frame, each after its packed size; a last size stands alone."""
    position = len(_LZ4_LEGACY_MAGIC)
    while position + 4 < len(payload):
        (size,) = struct.unpack_from("<I", payload, position)
        position += 4
        if position + size > len(payload):
            raise EOFError("it ends early")
        yield payload[position : position + size]
        position += size


_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"]\x00\x00": "lzma",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    _LZ4_LEGACY_MAGIC: "lz4",
}
_METHODS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "xz": _xz,
    "lzma": _xz,
    "bzip2": _bzip2,
    "zstd": _zstd,
    "lz4": _lz4_legacy,
}
