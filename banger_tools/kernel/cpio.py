"""Archives in cpio's `newc` format, the same bytes for the same content: no times, no owners but root.

The format is that of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Generator, Iterable
from typing import BinaryIO, NamedTuple

from banger_tools import errors

MAGICS = (b"070701", b"070702")  # the second has checksums
_HEADER = 110
_TRAILER = "TRAILER!!!"
_LONGEST_PATH = 4096
_FILL = re.compile(rb"\0*")
_DAMAGED = "the cpio archive is cut short or damaged"


class Entry(NamedTuple):
    """One entry: its path without a leading slash, its mode with type bits, its content, and a device's numbers."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str) -> Entry:
    """Return the entry of a folder."""
    return Entry(path, stat.S_IFDIR | 0o755)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return the entry of a regular file."""
    return Entry(path, stat.S_IFREG | mode, data)


def write(output: BinaryIO, entries: Iterable[Entry]) -> None:
    """Write an archive, its length a multiple of 512."""
    number = 0
    for number, entry in enumerate(entries, 1):
        output.write(_member(entry, number))
    output.write(_member(Entry(_TRAILER, 0), 0))
    output.write(b"\0" * (-output.tell() % 512))


def names(archive: bytes, start: int = 0) -> Generator[str, None, int]:
    """Yield the path of each entry of the archive at `start`, without a leading slash or './'; return where it ends.

    The zeros that fill up its last block are a part of it. Raises BadInput if it is cut short or damaged.
    """
    while True:
        header = archive[start : start + _HEADER]
        if len(header) < _HEADER or not header.startswith(MAGICS):
            raise errors.BadInput(_DAMAGED)
        size, length = _number(header, 6), _number(header, 11)
        name = archive[start + _HEADER : start + _HEADER + length].rstrip(b"\0").decode("utf-8", "replace")
        data = _aligned(start + _HEADER + length)
        start = _aligned(data + size)
        if length > _LONGEST_PATH or data + size > len(archive):
            raise errors.BadInput(_DAMAGED)
        if name == _TRAILER:
            found = _FILL.match(archive, start)
            return found.end() if found else len(archive)
        yield name.removeprefix("./").lstrip("/")


def _number(header: bytes, field: int) -> int:
    digits = header[6 + 8 * field : 14 + 8 * field]
    try:
        return int(digits, 16)
    except ValueError as error:
        raise errors.BadInput(_DAMAGED) from error


def _aligned(position: int) -> int:
    return -(-position // 4) * 4


def _member(entry: Entry, number: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
