"""Editing an ext4 image in place; an interrupted edit is seen: dirty before the first write, clean after the last."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from banger_tools import errors, process
from banger_tools.ext4 import checksum
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import Image

LARGEST_PIECE = 1 << 20
_OWNER, _HALF = struct.Struct("<HH"), struct.Struct("<H")
_KNOWN_RO_COMPAT = sum(s.RO_COMPAT.values())


@contextlib.contextmanager
def editing(image: Image) -> Iterator[None]:
    """Mark the image dirty, and clean again only if the body succeeded; both marks are synced.

    Raises BadInput for an image with features that only allow to read it.
    """
    unknown = image.superblock.s_feature_ro_compat & ~_KNOWN_RO_COMPAT
    if unknown:
        raise errors.BadInput(f"'{image.path}' may only be read: features that are not known here: {unknown:#x}")
    _set_state(image, image.superblock.s_state & ~s.VALID_FS)
    yield
    os.fsync(image.descriptor)
    _set_state(image, image.superblock.s_state | s.VALID_FS)


def _set_state(image: Image, state: int) -> None:
    # Whoever edited meanwhile (debugfs) wrote a superblock of its own: only this field is ours.
    superblock = s.Superblock(os.pread(image.descriptor, s.SUPERBLOCK_SIZE, s.SUPERBLOCK_OFFSET))
    superblock.s_state = state
    _write_superblock(image, superblock)
    os.fsync(image.descriptor)


def _write_superblock(image: Image, superblock: s.Superblock) -> None:
    if superblock.has("metadata_csum"):
        superblock.s_checksum = checksum.superblock_checksum(superblock)
    os.pwrite(image.descriptor, superblock.raw, s.SUPERBLOCK_OFFSET)


def free_block(image: Image, block: int) -> None:
    """Give back a block that nothing points to any more, and the cluster that it stands for."""
    g = image.geometry
    group, bit = g.bitmap_bit(block)
    descriptor = image.descriptors[group]
    bitmap = bytearray(image.block(descriptor.bg_block_bitmap))
    bitmap[bit >> 3] &= ~(1 << (bit & 7))
    _write(image, bitmap, descriptor.bg_block_bitmap * g.block_size)
    descriptor.bg_free_blocks_count += 1
    if image.has_checksums:
        counted = bitmap[: (g.blocks_per_group >> g.cluster_bits) // 8]
        descriptor.bg_block_bitmap_csum = checksum.bitmap_checksum(image.seed, counted)
    descriptor.bg_checksum = checksum.descriptor_checksum(image.superblock, image.seed, group, descriptor)
    _write(image, descriptor.raw, g.descriptor_place(group))
    image.superblock.s_free_blocks_count += 1 << g.cluster_bits
    _write_superblock(image, image.superblock)


def set_owners(image: Image, changes: Mapping[int, tuple[int, int, int]]) -> None:
    """Write i_mode, i_uid and i_gid of inodes by their numbers.

    Nothing is written if one of them is damaged, or if e2fsck is missing and needed: it counts quotas again.
    """
    runs = [(numbers, place, _read(image, numbers, place)) for numbers, place in _neighbours(image, sorted(changes))]
    quotas = image.superblock.has("quota")
    if quotas:
        process.find("e2fsck")
    with editing(image):
        for numbers, place, table in runs:
            for at, number in zip(range(0, len(table), image.geometry.inode_size), numbers, strict=True):
                _set_owner(image, table, at, number, changes[number])
            _write(image, table, place)
        if quotas:
            count_quotas(image)


def _neighbours(image: Image, numbers: Iterable[int]) -> Iterator[tuple[list[int], int]]:
    """Yield runs of inodes that lie one behind the other, and where the first of them does."""
    size = image.geometry.inode_size
    run: list[int] = []
    start = 0
    for number in numbers:
        place = image.inode_place(number)
        if run and (place != start + len(run) * size or len(run) * size >= LARGEST_PIECE):
            yield run, start
            run = []
        if not run:
            start = place
        run.append(number)
    yield run, start


def _read(image: Image, numbers: Sequence[int], place: int) -> bytearray:
    """Return the bytes of neighbouring inodes, whose checksums are right."""
    size = image.geometry.inode_size
    table = bytearray(os.pread(image.descriptor, len(numbers) * size, place))
    if image.has_checksums:
        for at, number in zip(range(0, len(table), size), numbers, strict=True):
            image.check_inode(table[at : at + size], number)
    return table


def _set_owner(image: Image, table: bytearray, at: int, number: int, owner: tuple[int, int, int]) -> None:
    """Set i_mode, i_uid and i_gid of the inode that stands at an offset of a piece of a table."""
    mode, uid, gid = owner
    inode = table[at : at + image.geometry.inode_size]
    _OWNER.pack_into(inode, 0, mode, uid & 0xFFFF)
    _HALF.pack_into(inode, 0x18, gid & 0xFFFF)
    _OWNER.pack_into(inode, 0x78, uid >> 16, gid >> 16)
    if image.has_checksums:
        checksum.seal_inode(image.seed, inode, number)
    table[at : at + len(inode)] = inode


def _write(image: Image, raw: bytes | bytearray, place: int) -> None:
    while raw:
        written = os.pwrite(image.descriptor, raw, place)
        raw, place = raw[written:], place + written


def count_quotas(image: Image) -> None:
    """Let e2fsck count what every owner uses: all that it finds to mend in a sound image; its clock stands still."""
    now = str(max(1, image.superblock.s_wtime))
    done = process.run(
        ["e2fsck", "-fp", str(image.path)], env={"E2FSCK_TIME": now, "E2FSPROGS_FAKE_TIME": now}, check=False
    )
    if done.status not in (0, 1):
        raise process.explain("e2fsck", done)
