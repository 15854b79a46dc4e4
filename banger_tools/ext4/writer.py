"""Filling an empty ext4 with a tree, in one pass: data beside metadata, every checksum, no mount.

The order: blocks are handed out to file data first, so that copying can begin, then to everything else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from banger_tools import console, contents, errors
from banger_tools.contents import Contents
from banger_tools.ext4 import allocator, checksum, directory, extents, xattr
from banger_tools.ext4 import structures as s
from banger_tools.ext4.allocator import Allocator
from banger_tools.ext4.copier import Copy, copying
from banger_tools.ext4.image import Image
from banger_tools.ext4.plan import BLOCK, INODE_SIZE, XATTR_ROOM, Item, Plan
from banger_tools.tree import Entry, SourceFile

_TYPE_BITS = {
    "file": s.S_IFREG,
    "dir": s.S_IFDIR,
    "symlink": s.S_IFLNK,
    "char": s.S_IFCHR,
    "block": s.S_IFBLK,
    "fifo": s.S_IFIFO,
}
# i_mode uid size_lo atime ctime mtime dtime gid links blocks_lo flags version block generation acl_lo size_hi obsolete
# blocks_hi acl_hi uid_hi gid_hi csum_lo reserved extra_isize csum_hi ctime_x mtime_x atime_x crtime crtime_x ver projid
# xattrs
_INODE = struct.Struct(f"<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII{XATTR_ROOM}s")
_CHECKSUM = struct.Struct("<HHHH")  # csum_lo reserved extra_isize csum_hi
_CHECKSUM_AT = 0x7C
_SPARE_BLOCKS = 1  # of the extent tree of a folder that is cut into more than four pieces


class Filled(NamedTuple):
    """What is left free in a filesystem that was filled."""

    free_blocks: int
    free_inodes: int


Places = dict[int, list[extents.Extent]]  # of the content of each file, by the number of its inode


def allocate_files(plan: Plan, free: Allocator) -> Places:
    """Give blocks to the content of all files, in the order of their inodes.

    Raises allocator.Full.
    """
    places: Places = {}
    take = free.take
    for item in plan.items:
        if not item.blocks or item.entry.type != "file":
            continue
        found = places[item.number] = []
        for logical, blocks in ((0, item.blocks),) if item.runs is None else item.runs:
            for start, count in take(blocks):
                found.append((logical, start, count))
                logical += count
    return places


def copies(plan: Plan, places: Places, loose: list[Entry]) -> Iterator[Copy]:
    """Yield what is to be copied, in the order of the inodes; files that stand in folders are added to `loose`."""
    for item in plan.items:
        found = places.get(item.number)
        if found is None:
            continue
        entry = item.entry
        assert entry.data is not None  # tree.read refused it
        source, offset = entry.data
        if entry.origin is not None:
            source = ~len(loose)
            loose.append(entry)
        segments = [(0, offset, entry.size)] if entry.segments is None else entry.segments
        for at, size, to in _mapped(found, segments):
            yield Copy(source, at, size, to)


def _mapped(
    found: Sequence[extents.Extent], segments: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield where the bytes of segments go, which the extents cover: (offset in the source, length, place)."""
    index = 0
    for offset, place, length in segments:
        end = offset + length
        while offset < end:
            logical, start, count = found[index]
            border = (logical + count) * BLOCK
            if border <= offset:
                index += 1
                continue
            size = min(end, border) - offset
            yield place, size, start * BLOCK + offset - logical * BLOCK
            offset, place = offset + size, place + size


class Writer:
    """One filesystem being filled."""

    def __init__(self, image: Image, plan: Plan) -> None:
        if image.superblock.has("meta_bg"):  # mke2fs adds it unasked where descriptors would fill most of a group
            raise errors.BadUsage("so many inodes need more groups than can be described", "ask for fewer: --inodes")
        self.image = image
        self.plan = plan
        self.geometry = image.geometry
        self.sealed = image.superblock.has("metadata_csum")
        self.seed = checksum.filesystem_seed(image.superblock)
        self.bitmaps = allocator.block_bitmaps(image)
        self.free = Allocator(allocator.free_runs(self.geometry, self.bitmaps))
        self.blocks: list[tuple[int, bytes]] = []  # metadata of files: (block, bytes)
        self.made = {number: self.blocks_of(number) for number in (s.ROOT_INO, s.LOST_FOUND_INO)}

    def blocks_of(self, number: int) -> list[int]:
        """Return the blocks that mke2fs gave to a folder."""
        inode = self.image.inode(number)
        return [e.physical + n for e in self.image.extents(inode) for n in range(e.length)]

    def write(self, contents: Contents) -> Filled:
        """Fill the filesystem with the plan, the files with their contents.

        Raises allocator.Full before anything is written; BadInput or IOFailure later.
        """
        places = self.allocate()
        loose: list[Entry] = []
        # Where room is short only the making itself can tell; else the copying need not wait for it.
        inodes = None if self.has_room(places) else self.pack_inodes(places)
        with copying(copies(self.plan, places, loose), loose, contents, self.image.descriptor):
            if inodes is None:
                with console.step("built inodes and directories"):
                    inodes = self.pack_inodes(places)
            self.write_blocks()
            self.write_inode_tables(inodes)
            return self.write_groups()

    def fits(self, spare: int) -> bool:
        """Tell whether the plan fits and leaves so many blocks, without writing anything."""
        try:
            places = self.allocate()
            if not self.has_room(places, spare):
                self.pack_inodes(places)
        except allocator.Full:
            return False
        return self.free.count() >= spare

    def allocate(self) -> Places:
        """Give blocks to the content of all files.

        Raises allocator.Full, for want of inodes too.
        """
        if self.plan.inodes > self.image.superblock.s_inodes_count:
            raise allocator.Full
        return allocate_files(self.plan, self.free)

    def has_room(self, places: Places, spare: int = 0) -> bool:
        """Tell whether what is still to be allocated fits surely, by a bound that is quickly found."""
        rest = sum(i.blocks + _SPARE_BLOCKS * (i.blocks > 1) for i in self.plan.items if i.entry.type != "file")
        rest += sum(i.acl is not None for i in self.plan.items)
        rest += sum(extents.tree_blocks(len(found)) for found in places.values())
        return rest + spare <= self.free.count()

    def pack_inodes(self, places: Places) -> bytearray:
        """Return the inodes from the root on, in the order of their numbers, and gather the blocks that they own."""
        existing = self.image.inode_place(1)
        table = bytearray(os.pread(self.image.descriptor, (s.LOST_FOUND_INO) * INODE_SIZE, existing))
        table.extend(bytes((self.plan.inodes - s.LOST_FOUND_INO) * INODE_SIZE))
        view = memoryview(table)
        for item in self.plan.items:
            seed = checksum.inode_seed(self.seed, item.number, 0) if self.sealed else None
            self.pack_inode(view, item, seed, places.get(item.number))
        return table

    def pack_inode(self, table: memoryview, item: Item, seed: int | None, places: list[extents.Extent] | None) -> None:
        """Write one inode into the table, with its checksum if there is a seed for it."""
        entry = item.entry
        kind = entry.type
        size, flags, content, extra = entry.size if kind == "file" else 0, 0, extents.EMPTY, 0
        if places is not None and len(places) == 1 and places[0][0] == 0:
            flags, content = s.EXTENTS_FL, extents.one(places[0][1], places[0][2])
        elif kind == "dir":
            size, flags, content, extra = self.folder(item, seed)
        elif kind == "file":
            flags = s.EXTENTS_FL
            content, extra = self.extent_tree(places or [], seed)
        elif kind == "symlink":
            size, flags, content = self.symlink(item)
        else:
            content = _device(entry.rdev or (0, 0))
        acl = self.xattr_block(item) if item.acl is not None else 0
        blocks = (item.blocks + extra + (acl != 0)) * (BLOCK // 512)
        seconds, nanoseconds = s.encode_time(*entry.mtime)
        at = (item.number - 1) * INODE_SIZE
        _INODE.pack_into(
            table, at, _TYPE_BITS[kind] | int(entry.mode, 8), entry.uid & 0xFFFF, size & 0xFFFFFFFF,
            seconds, seconds, seconds, 0, entry.gid & 0xFFFF, item.links, blocks & 0xFFFFFFFF, flags, 0, content, 0,
            acl & 0xFFFFFFFF, size >> 32, 0, blocks >> 32, acl >> 32, entry.uid >> 16, entry.gid >> 16, 0, 0,
            s.EXTRA_ISIZE, 0, nanoseconds, nanoseconds, nanoseconds, seconds, nanoseconds, 0, 0, item.room or b"",
        )  # fmt: skip
        if seed is not None:
            value = checksum.final(crc32c(table[at : at + INODE_SIZE], seed))
            _CHECKSUM.pack_into(table, at + _CHECKSUM_AT, value & 0xFFFF, 0, s.EXTRA_ISIZE, value >> 16)

    def folder(self, item: Item, seed: int | None) -> tuple[int, int, bytes, int]:
        """Build a folder's blocks; return its size, flags, i_block, and the number of blocks of its extent tree."""
        blocks = directory.build(item.number, item.parent, item.children, seed, self.image.superblock.s_hash_seed)
        indexed = len(blocks) > 1
        given = self.made.get(item.number, [])
        if len(blocks) < len(given):  # mke2fs gives '/lost+found' more; an index would have to know of all of them
            blocks = directory.linear(item.number, item.parent, item.children, seed, len(given))
            indexed = False
        runs = [(block, 1) for block in given]
        if len(blocks) > len(given):
            runs += self.free.take(len(blocks) - len(given))
        item.blocks = len(blocks)
        places: list[extents.Extent] = []
        for start, count in runs:
            if places and places[-1][1] + places[-1][2] == start:
                places[-1] = (places[-1][0], places[-1][1], places[-1][2] + count)
            else:
                places.append((sum(p[2] for p in places), start, count))
        self.blocks += [(start + n, blocks[logical + n]) for logical, start, count in places for n in range(count)]
        content, extra = self.extent_tree(places, seed)
        return len(blocks) * BLOCK, s.EXTENTS_FL | (s.INDEX_FL if indexed else 0), content, extra

    def extent_tree(self, places: list[extents.Extent], seed: int | None) -> tuple[bytes, int]:
        content, blocks = extents.encode(places, seed, self.free.take_one)
        self.blocks += blocks
        return content, len(blocks)

    def symlink(self, item: Item) -> tuple[int, int, bytes]:
        """Return the size, flags and i_block of a symlink; a long target gets a block of its own."""
        if not item.blocks:
            return len(item.target), 0, item.target.ljust(60, b"\0")
        block = self.free.take_one()
        self.blocks.append((block, item.target.ljust(BLOCK, b"\0")))
        return len(item.target), s.EXTENTS_FL, extents.one(block, 1)

    def xattr_block(self, item: Item) -> int:
        """Write the attribute block of an item and return its place."""
        place = self.free.take_one()
        block = xattr.encode_block(item.acl or [], BLOCK)
        if self.sealed:
            struct.pack_into("<I", block, 16, checksum.attributes_checksum(self.seed, place, block))
        self.blocks.append((place, bytes(block)))
        return place

    def write_blocks(self) -> None:
        """Write the blocks that files own besides their data, neighbours together."""
        self.blocks.sort(key=lambda pair: pair[0])
        batch: list[bytes] = []
        start = 0
        for number, data in self.blocks:
            if batch and (number != start + len(batch) or len(batch) == 1000):
                self.put(start * BLOCK, b"".join(batch))
                batch = []
            if not batch:
                start = number
            batch.append(data)
        if batch:
            self.put(start * BLOCK, b"".join(batch))

    def put(self, place: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self.image.descriptor, view, place)
            place, view = place + written, view[written:]

    def write_inode_tables(self, table: bytearray) -> None:
        per_group = self.geometry.inodes_per_group * INODE_SIZE
        view = memoryview(table)
        for group, start in enumerate(range(0, len(table), per_group)):
            self.put(self.image.descriptors[group].bg_inode_table * BLOCK, view[start : start + per_group])

    def write_groups(self) -> Filled:
        """Write bitmaps, group descriptors and superblocks, the copies too; return what is free."""
        touched = self.mark_blocks()
        folders = self.folders_by_group()
        free_blocks = free_inodes = 0
        for group, descriptor in enumerate(self.image.descriptors):
            self.update_inodes(group, folders.get(group, 0))
            if group in touched:
                self.update_blocks(group)
            if self.sealed:
                descriptor.bg_flags |= s.INODE_ZEROED  # the file was empty, so its tables are zero
            descriptor.bg_checksum = checksum.descriptor_checksum(self.image.superblock, self.seed, group, descriptor)
            free_blocks += descriptor.bg_free_blocks_count
            free_inodes += descriptor.bg_free_inodes_count
        superblock = self.image.superblock
        superblock.s_free_blocks_count, superblock.s_free_inodes_count = free_blocks, free_inodes
        superblock.s_flags = superblock.s_flags & ~s.SIGNED_HASH | s.UNSIGNED_HASH
        self.write_superblocks()
        return Filled(free_blocks, free_inodes)

    def mark_blocks(self) -> set[int]:
        """Set the bits of all blocks that were handed out; return the groups that they lie in."""
        touched = set()
        for start, count in self.free.taken():
            for group, first, length in allocator.pieces(self.geometry, start, count):
                allocator.set_bits(self.bitmaps[group], first - self.geometry.group_start(group), length)
                touched.add(group)
        return touched

    def update_blocks(self, group: int) -> None:
        descriptor, bitmap = self.image.descriptors[group], self.bitmaps[group]
        self.put(descriptor.bg_block_bitmap * BLOCK, bitmap)
        descriptor.bg_flags &= ~s.BLOCK_UNINIT
        descriptor.bg_free_blocks_count = allocator.free_count(bitmap)
        descriptor.bg_block_bitmap_csum = self.bitmap_checksum(bitmap, self.geometry.blocks_per_group)

    def bitmap_checksum(self, bitmap: bytearray, bits: int) -> int:
        return checksum.bitmap_checksum(self.seed, bitmap[: bits // 8]) if self.sealed else 0

    def folders_by_group(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for item in self.plan.items:
            if item.entry.type == "dir":
                group = (item.number - 1) // self.geometry.inodes_per_group
                counts[group] = counts.get(group, 0) + 1
        return counts

    def update_inodes(self, group: int, folders: int) -> None:
        """Mark a group's inodes as used: ours are the first of it, without gaps."""
        per_group = self.geometry.inodes_per_group
        used = min(max(self.plan.inodes - group * per_group, 0), per_group)
        if not used:
            return
        descriptor = self.image.descriptors[group]
        bitmap = bytearray(BLOCK)
        allocator.set_bits(bitmap, 0, used)
        allocator.set_bits(bitmap, per_group, 8 * BLOCK - per_group)
        self.put(descriptor.bg_inode_bitmap * BLOCK, bitmap)
        descriptor.bg_flags &= ~s.INODE_UNINIT
        descriptor.bg_free_inodes_count = per_group - used
        descriptor.bg_itable_unused = per_group - used if self.sealed else 0
        descriptor.bg_used_dirs_count = folders
        descriptor.bg_inode_bitmap_csum = self.bitmap_checksum(bitmap, per_group)

    def write_superblocks(self) -> None:
        table = b"".join(descriptor.raw for descriptor in self.image.descriptors)
        superblock = self.image.superblock
        for group in range(self.geometry.groups):
            if not self.geometry.has_super(group):
                continue
            start = self.geometry.group_start(group) * BLOCK
            superblock.s_block_group_nr = group & 0xFFFF  # as libext2fs does: nobody needs the rest
            if self.sealed:
                superblock.s_checksum = checksum.superblock_checksum(superblock)
            self.put(start + (s.SUPERBLOCK_OFFSET if group == 0 else 0), superblock.raw)
            self.put(start + BLOCK, table)


def _device(rdev: tuple[int, int]) -> bytes:
    """Return i_block of a device: the old encoding where both numbers fit into a byte, else the new one."""
    major, minor = rdev
    if major < 256 and minor < 256:
        return struct.pack("<II", major << 8 | minor, 0).ljust(60, b"\0")
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).ljust(60, b"\0")


def fits(path: Path, plan: Plan, spare: int) -> bool:
    """Tell whether the plan fits into the empty filesystem at `path` and leaves so many blocks."""
    from banger_tools.ext4.image import opened

    with opened(path) as image:
        return Writer(image, plan).fits(spare)


def fill(path: Path, plan: Plan, sources: Sequence[SourceFile]) -> Filled:
    """Fill the empty filesystem at `path`.

    Raises allocator.Full if it is too small; then nothing was written.
    """
    from banger_tools.ext4.image import opened

    with opened(path, writable=True) as image, contents.opened(sources, [item.entry for item in plan.items]) as found:
        return Writer(image, plan).write(found)
