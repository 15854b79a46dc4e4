"""The uncompressed kernel inside a bzImage, as Firecracker needs it.

The layout is that of the kernel's Documentation/arch/x86/boot.rst; the payload's compression is told by its
first bytes and by nothing else.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from banger_tools import errors

LIMIT = 1 << 30  # no kernel unpacks to more than this

_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_VERSION = 0x206
_KERNEL_VERSION = 0x20E
_PAYLOAD = 0x248
_LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_LEGACY_BLOCK = 8 << 20


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


def vmlinux(data: bytes) -> bytes:
    """Return the ELF kernel that a bzImage holds.

    Raises BadInput if the payload is corrupt or no ELF file, Unavailable for a compression that we cannot undo.
    """
    header = boot_header(data)
    payload = data[header.payload_offset : header.payload_offset + header.payload_length]
    kernel = decompress(payload)
    if not kernel.startswith(b"\x7fELF"):
        raise errors.BadInput("the bzImage holds no ELF kernel")
    return kernel


def decompress(payload: bytes) -> bytes:
    """Return the bytes that a kernel's payload unpacks to; the size that its build appends is ignored."""
    for magic, unpack in _METHODS.items():
        if payload.startswith(magic):
            try:
                return unpack(payload)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as error:
                raise errors.BadInput(f"the kernel's payload is corrupt: {error}") from error
    if payload.startswith(b"\x89LZO"):
        raise errors.Unavailable("the kernel's payload is compressed with LZO, which is not supported")
    raise errors.BadInput("the kernel's payload is compressed in no known way")


def _gzip(payload: bytes) -> bytes:
    stream = zlib.decompressobj(31)
    return _whole(stream, stream.decompress(payload, LIMIT))


def _lzma(payload: bytes) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_AUTO)  # xz, and the older format of the lzma program
    return _whole(stream, stream.decompress(payload, LIMIT))


def _bzip2(payload: bytes) -> bytes:
    stream = bz2.BZ2Decompressor()
    return _whole(stream, stream.decompress(payload, LIMIT))


def _whole(stream: _Decompressor, data: bytes) -> bytes:
    if not stream.eof:
        raise EOFError("it ends early or is too large")
    return data


def _zstd(payload: bytes) -> bytes:
    import zstandard

    stream = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    try:
        data = stream.decompress(payload)
    except zstandard.ZstdError as error:
        raise ValueError(error) from error
    return _whole(stream, data)


def _lz4_legacy(payload: bytes) -> bytes:
    from lz4 import block

    blocks = []
    for packed in _lz4_blocks(payload):
        try:
            blocks.append(block.decompress(packed, uncompressed_size=_LZ4_LEGACY_BLOCK))
        except block.LZ4BlockError as error:
            raise ValueError(error) from error
    return b"".join(blocks)


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


_METHODS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\x00": _lzma,
    b"]\x00\x00": _lzma,
    b"BZh": _bzip2,
    b"\x28\xb5\x2f\xfd": _zstd,
    _LZ4_LEGACY_MAGIC: _lz4_legacy,
}
