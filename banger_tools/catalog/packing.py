"""Bundles made: an image as the `.tar.zst` that a catalog can list, the same bytes for the same image.

The archive is a plain one of two regular files: a hole of the image is fed to the compressor as zeros and never read,
and it costs next to nothing in the result, which every tar reads. The window is the largest that `zstd -d` takes
unasked; how many threads there are changes nothing in the bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import msgspec

from banger_tools import console, errors, files, pax, tree
from banger_tools.catalog.archive import MANIFEST, PIECE, ROOTFS
from banger_tools.catalog.bundle import OF_ANOTHER_MACHINE
from banger_tools.ext4 import described
from banger_tools.manifest import Manifest

if TYPE_CHECKING:
    from zstandard import ZstdCompressor

LEVEL = 9  # of a Debian image: 7 % less than level 3, for two and a half times its time
_WINDOW_LOG = 27
_ZEROS = bytes(PIECE)


class Packed(NamedTuple):
    """A bundle's compressed bytes: their SHA-256 in hex, and how many there are."""

    sha256: str
    size: int


def pack(image: Manifest, disk: Path, target: Path) -> Packed:
    """Write the bundle of an image, whose ext4 file is `disk`, to a new file.

    Raises NoInput, Denied, or BadInput if the disk is no clean ext4 image.
    """
    text = own_manifest(image, disk).dumps().encode()
    size = disk.stat().st_size
    headers = [_header(MANIFEST, len(text)), _header(ROOTFS, size)]
    total = sum(map(len, headers)) + _padded(len(text)) + _padded(size) + 2 * pax.BLOCK
    with open(disk, "rb") as source, open(target, "xb") as file, console.progress(disk.name, size) as bar:
        output = _Hashed(file)
        with _compressor().stream_writer(cast("IO[bytes]", output), size=total, closefd=False) as stream:
            stream.write(headers[0] + text + bytes(-len(text) % pax.BLOCK) + headers[1])
            for piece in _pieces(source.fileno(), size):
                stream.write(piece)
                bar.update(len(piece))
            stream.write(bytes(-size % pax.BLOCK + 2 * pax.BLOCK))
    return Packed(output.hash.hexdigest(), output.size)


def own_manifest(image: Manifest, disk: Path) -> Manifest:
    """Return what a bundle says of its image: nothing that names files of this machine.

    Raises what `described.rootfs` raises.
    """
    raw = {key: value for key, value in image.raw.items() if key not in OF_ANOTHER_MACHINE}
    about = msgspec.to_builtins(described.rootfs(disk))
    return Manifest({**raw, "rootfs": {**raw.get("rootfs", {}), **about, "path": ROOTFS}})


def _header(name: str, size: int) -> bytes:
    entry = tree.Entry(f"/{name}", "file", mode="0644")
    return pax.header(entry, tree.path_bytes(entry), "file", size)


def _padded(size: int) -> int:
    return size + -size % pax.BLOCK


def _compressor() -> ZstdCompressor:
    """Return a compressor that looks for repetitions far back, on as many threads as we may use."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        window_log=_WINDOW_LOG,
        enable_ldm=True,
        threads=len(os.sched_getaffinity(0)),  # never 0: without threads the bytes are others
        write_checksum=True,
        write_content_size=True,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """Yield all bytes of a file; those of holes without a look at the disk."""
    at = 0
    for start, end in [*files.data_ranges(descriptor, 0, size), (size, size)]:
        while at < end:
            length = min(PIECE, (start if at < start else end) - at)
            piece = _ZEROS[:length] if at < start else os.pread(descriptor, length, at)
            if not piece:
                raise errors.BadInput("the image became shorter while it was read")
            yield piece
            at += len(piece)


class _Hashed:
    """A file that is written from front to back, hashed and counted."""

    def __init__(self, file: IO[bytes]) -> None:
        self.hash = hashlib.sha256()
        self.size = 0
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.hash.update(data)
        self.size += len(data)
        return len(data)
