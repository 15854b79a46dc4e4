"""Extent trees: up to four extents stand in the inode, more in leaf blocks below it.

Source: kernel documentation, filesystems/ext4, "Extent Tree".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from crc32c import crc32c

from banger_tools.ext4.checksum import final
from banger_tools.ext4.structures import EXTENT_MAGIC

BLOCK = 4096
IN_INODE = 4
IN_BLOCK = 340
_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")

Extent = tuple[int, int, int]  # block in the file, block in the image, number of blocks
EMPTY = _HEADER.pack(EXTENT_MAGIC, 0, IN_INODE, 0, 0).ljust(60, b"\0")


def one(start: int, length: int) -> bytes:
    """Return i_block of a file that is one run of blocks."""
    head = _HEADER.pack(EXTENT_MAGIC, 1, IN_INODE, 0, 0)
    return (head + _EXTENT.pack(0, length, start >> 32, start & 0xFFFFFFFF)).ljust(60, b"\0")


def tree_blocks(count: int) -> int:
    """Return how many blocks outside of the inode a tree of `count` extents takes."""
    total = 0
    while count > IN_INODE:
        count = -(-count // IN_BLOCK)
        total += count
    return total


def encode(
    extents: Sequence[Extent], seed: int | None, allocate: Callable[[], int]
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return i_block, and the blocks of the tree with their places, for which `allocate` is asked.

    `seed` is the inode's checksum seed; None where the filesystem has no checksums.
    """
    records = [
        (first, _EXTENT.pack(first, length, place >> 32, place & 0xFFFFFFFF)) for first, place, length in extents
    ]
    blocks: list[tuple[int, bytes]] = []
    depth = 0
    while len(records) > IN_INODE:
        level = []
        for start in range(0, len(records), IN_BLOCK):
            chunk = records[start : start + IN_BLOCK]
            place = allocate()
            blocks.append((place, _block(chunk, depth, seed)))
            level.append((chunk[0][0], _INDEX.pack(chunk[0][0], place & 0xFFFFFFFF, place >> 32, 0)))
        records = level
        depth += 1
    head = _HEADER.pack(EXTENT_MAGIC, len(records), IN_INODE, depth, 0)
    return (head + b"".join(record for _, record in records)).ljust(60, b"\0"), blocks


def _block(records: list[tuple[int, bytes]], depth: int, seed: int | None) -> bytes:
    head = _HEADER.pack(EXTENT_MAGIC, len(records), IN_BLOCK, depth, 0)
    body = (head + b"".join(record for _, record in records)).ljust(12 + 12 * IN_BLOCK, b"\0")
    return body + struct.pack("<I", 0 if seed is None else final(crc32c(body, seed)))
