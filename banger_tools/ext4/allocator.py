"""The free blocks of a filesystem that mke2fs just made, handed out in order of place."""

from __future__ import annotations

from banger_tools.ext4.geometry import Geometry
from banger_tools.ext4.image import Image
from banger_tools.ext4.structures import BLOCK_UNINIT, MAX_EXTENT_LEN

Run = tuple[int, int]  # first block, number of blocks


class Full(Exception):
    """There are not enough free blocks; the caller knows the sizes to name."""


class Allocator:
    """A cursor over the runs of free blocks: everything before it is taken."""

    def __init__(self, free: list[Run]) -> None:
        self.free = free
        self.index = 0
        self.start, self.left = free[0] if free else (0, 0)

    def take(self, count: int) -> list[Run]:
        """Return runs of together `count` blocks, none longer than an extent can be.

        Raises Full.
        """
        if count <= self.left and count <= MAX_EXTENT_LEN:
            start = self.start
            self.start = start + count
            self.left -= count
            return [(start, count)]
        return self.take_pieces(count)

    def take_pieces(self, count: int) -> list[Run]:
        runs: list[Run] = []
        while count:
            if not self.left:
                self.next_run()
            length = min(count, self.left, MAX_EXTENT_LEN)
            runs.append((self.start, length))
            self.start, self.left, count = self.start + length, self.left - length, count - length
        return runs

    def take_one(self) -> int:
        """Return one block."""
        return self.take(1)[0][0]

    def next_run(self) -> None:
        self.index += 1
        if self.index >= len(self.free):
            raise Full
        self.start, self.left = self.free[self.index]

    def count(self) -> int:
        """Return how many blocks are left."""
        return self.left + sum(count for _, count in self.free[self.index + 1 :])

    def taken(self) -> list[Run]:
        """Return the runs that were handed out, whole."""
        runs = self.free[: self.index]
        if self.index < len(self.free):
            first = self.free[self.index][0]
            runs = [*runs, (first, self.start - first)]
        return [run for run in runs if run[1]]


def block_bitmaps(image: Image) -> list[bytearray]:
    """Return the block bitmap of every group; those that mke2fs left out are derived."""
    metadata = _metadata(image)
    return [_bitmap(image, group, metadata[group]) for group in range(image.geometry.groups)]


def _bitmap(image: Image, group: int, metadata: list[Run]) -> bytearray:
    g, descriptor = image.geometry, image.descriptors[group]
    if not descriptor.bg_flags & BLOCK_UNINIT:
        return bytearray(image.block(descriptor.bg_block_bitmap))
    bitmap = bytearray(g.block_size)
    for start, count in metadata:
        set_bits(bitmap, start - g.group_start(group), count)
    blocks = g.group_blocks(group)
    set_bits(bitmap, blocks, 8 * g.block_size - blocks)
    return bitmap


def _metadata(image: Image) -> list[list[Run]]:
    """Return the metadata that stands in each group, its own or that of others of its flex group."""
    g = image.geometry
    runs: list[list[Run]] = [[(g.group_start(group), g.base_metadata(group))] for group in range(g.groups)]
    for descriptor in image.descriptors:
        for start, count in (
            (descriptor.bg_block_bitmap, 1),
            (descriptor.bg_inode_bitmap, 1),
            (descriptor.bg_inode_table, g.inode_table_blocks),
        ):
            for group, piece, length in pieces(g, start, count):
                runs[group].append((piece, length))
    return runs


def pieces(geometry: Geometry, start: int, count: int) -> list[tuple[int, int, int]]:
    """Cut a run at the borders of groups: (group, first block, number of blocks)."""
    found = []
    while count:
        group, offset = divmod(start - geometry.first_block, geometry.blocks_per_group)
        length = min(count, geometry.blocks_per_group - offset)
        found.append((group, start, length))
        start, count = start + length, count - length
    return found


def set_bits(bitmap: bytearray, start: int, count: int) -> None:
    """Set a run of bits."""
    end = start + count
    first_byte, last_byte = -(-start // 8), end // 8
    if first_byte > last_byte or count < 16:
        for bit in range(start, end):
            bitmap[bit >> 3] |= 1 << (bit & 7)
        return
    for bit in range(start, 8 * first_byte):
        bitmap[bit >> 3] |= 1 << (bit & 7)
    bitmap[first_byte:last_byte] = b"\xff" * (last_byte - first_byte)
    for bit in range(8 * last_byte, end):
        bitmap[bit >> 3] |= 1 << (bit & 7)


def free_runs(geometry: Geometry, bitmaps: list[bytearray]) -> list[Run]:
    """Return the runs of free blocks in order, joined across the borders of groups."""
    runs: list[Run] = []
    for group, bitmap in enumerate(bitmaps):
        base = geometry.group_start(group)
        for start, count in _zero_runs(int.from_bytes(bitmap, "little"), geometry.group_blocks(group)):
            if runs and sum(runs[-1]) == base + start:
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            else:
                runs.append((base + start, count))
    return runs


def _zero_runs(used: int, bits: int) -> list[Run]:
    free = ~used & ((1 << bits) - 1)
    runs = []
    base = 0
    while free:
        skip = (free & -free).bit_length() - 1
        free >>= skip
        length = (~free & (free + 1)).bit_length() - 1
        runs.append((base + skip, length))
        free >>= length
        base += skip + length
    return runs


def free_count(bitmap: bytearray) -> int:
    """Return the number of zero bits of a bitmap whose padding is ones."""
    return 8 * len(bitmap) - int.from_bytes(bitmap, "little").bit_count()
