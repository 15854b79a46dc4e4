"""Archives in cpio's `newc` format, the same bytes for the same content: no times, no owners but root.

The format is that of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

_TRAILER = "TRAILER!!!"


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


def _member(entry: Entry, number: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
