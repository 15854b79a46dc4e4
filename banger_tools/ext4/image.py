"""An ext4 image opened for reading or for edits in place, without a mount.

The image may be hostile: every number is checked before it is used, and nothing is followed for ever.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, files
from banger_tools.ext4 import checksum
from banger_tools.ext4 import structures as s
from banger_tools.ext4.geometry import Geometry
from banger_tools.ext4.structures import GroupDescriptor, Inode, Superblock

_KNOWN_INCOMPAT = (
    "filetype", "recover", "meta_bg", "extents", "64bit", "mmp", "flex_bg", "ea_inode", "metadata_csum_seed",
    "largedir", "inline_data", "encrypt", "casefold",
)  # fmt: skip
_EXTENT_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_DIRENT = struct.Struct("<IHBB")
_DOTS = (b".", b"..")
_WHOLE_BLOCK = (0, 0xFFFF)  # the length of an entry that fills a block of 64 KiB
_OWNER = "<HH20xH94xHH{}x"  # i_mode, i_uid, i_gid, and the high halves of these two
_OWNER_BYTES = 124
_MMP = struct.Struct("<II")
_MMP_CLEAN = (0x004D4D50, 0xFF4D4D50)  # the magic, and the sequence number of a filesystem that nobody has mounted
MAX_DIRECTORY = 1 << 30
MAX_EXTENT_DEPTH = 5
MAX_GROUPS = 1 << 18  # 32 TiB in blocks of 4 KiB
MAX_LINKS_FOLLOWED = 40
_TABLE_PIECE = 256  # inodes read at once where many are looked at
_TABLE_BYTES = 64 << 20  # how much of the tables is kept
# How often a block may be read: what a sound image needs is far below, what goes round in circles ends there.
_READS_AT_LEAST = 1 << 20


class Extent(NamedTuple):
    """A run of blocks of a file: where in the file, where in the image, how many; unwritten ones read as zeros."""

    logical: int
    physical: int
    length: int
    unwritten: bool = False


Name = tuple[bytes, int]  # an entry of a directory: its name and inode number; there are too many for a class


class Image:
    """An ext4 filesystem in a file."""

    def __init__(self, descriptor: int, path: Path, *, editing: bool = False) -> None:
        self.descriptor = descriptor
        self.path = path
        self.superblock = self.read_superblock()
        if not editing:
            self.refuse_unclean()
        self.geometry = Geometry(self.superblock)
        self.check_geometry()
        self.reads_left = max(_READS_AT_LEAST, 2 * self.geometry.blocks)
        self.has_checksums = self.superblock.has("metadata_csum")
        self.seed = checksum.filesystem_seed(self.superblock)
        self.descriptors = self.read_descriptors()
        # For all inodes these are asked often, and fields are slow.
        self._tables = [descriptor.bg_inode_table * self.geometry.block_size for descriptor in self.descriptors]
        self._inodes = self.superblock.s_inodes_count
        self._end = self.geometry.blocks * self.geometry.block_size
        if self.superblock.has("mmp"):
            self.refuse_mounted_elsewhere()
        self._per_piece = math.gcd(_TABLE_PIECE, self.geometry.inodes_per_group)
        self._pieces: dict[int, list[tuple[int, int, int]]] = {}
        self._owner = struct.Struct(_OWNER.format(self.geometry.inode_size - _OWNER_BYTES))

    def broken(self, what: str) -> errors.BadInput:
        """Return the error for a filesystem that contradicts itself."""
        return errors.BadInput(f"'{self.path}' is damaged: {what}", f"look at it with: e2fsck -fn '{self.path}'")

    def read_superblock(self) -> Superblock:
        raw = os.pread(self.descriptor, s.SUPERBLOCK_SIZE, s.SUPERBLOCK_OFFSET)
        if len(raw) != s.SUPERBLOCK_SIZE or Superblock(raw).s_magic != s.MAGIC:
            raise errors.BadInput(f"'{self.path}' is not an ext4 image")
        superblock = Superblock(raw)
        if superblock.has("metadata_csum") and superblock.s_checksum != checksum.superblock_checksum(superblock):
            raise self.broken("the checksum of its superblock is wrong")
        known = sum(s.INCOMPAT[name] for name in _KNOWN_INCOMPAT)
        unknown = superblock.s_feature_incompat & ~known
        if unknown:
            names = [name for name, bit in s.INCOMPAT.items() if bit & unknown]
            raise errors.BadInput(
                f"'{self.path}' uses features that are not known here: {', '.join(names) or hex(unknown)}"
            )
        # Geometry divides and shifts by these.
        counts = superblock.s_blocks_per_group and superblock.s_inodes_per_group
        if superblock.s_log_block_size > 6 or superblock.s_desc_size > superblock.block_size or not counts:
            raise self.broken("the numbers in its superblock are impossible")
        return superblock

    def refuse_unclean(self) -> None:
        """Raise BadInput for an image whose journal holds changes, or that was left half edited; Retry while it is."""
        superblock = self.superblock
        if superblock.has("recover") or superblock.has("orphan_present") or superblock.s_last_orphan:
            hint = f"replay its journal first: e2fsck -fy '{self.path}'"
            raise errors.BadInput(f"'{self.path}' was not unmounted cleanly: its journal holds changes", hint)
        if superblock.s_state & (s.VALID_FS | s.ERROR_FS) != s.VALID_FS:
            files.take_lock(self.descriptor, 0, f"'{self.path}'", shared=True)  # who edits it has it locked
            hint = f"an edit of it was interrupted, or it is damaged; mend it: e2fsck -fy '{self.path}'"
            raise errors.BadInput(f"'{self.path}' is not marked clean", hint)

    def refuse_mounted_elsewhere(self) -> None:
        """Raise BadInput if the multi-mount protection says that somebody uses the filesystem."""
        if _MMP.unpack_from(self.block(self.superblock.s_mmp_block)) != _MMP_CLEAN:
            hint = f"if nobody does: e2fsck -fy '{self.path}'"
            raise errors.BadInput(f"'{self.path}' is marked as mounted by somebody (mmp)", hint)

    def check_geometry(self) -> None:
        g = self.geometry
        ratio = g.cluster_bits
        sound = (
            0 <= ratio <= 16
            and g.blocks_per_group <= 8 * g.block_size << ratio
            and g.blocks_per_group >= 256
            and g.inodes_per_group <= 8 * g.block_size
            and g.inode_size in (128, 256, 512, 1024, 2048, 4096)
            and g.inode_size <= g.block_size
            and 32 <= g.desc_size <= g.block_size
            and g.first_block < g.blocks
            and g.blocks * g.block_size <= os.fstat(self.descriptor).st_size
            and g.groups <= MAX_GROUPS
            and g.superblock.s_inodes_count == g.groups * g.inodes_per_group
        )
        if not sound:
            raise self.broken("its superblock contradicts itself or the size of the file")

    def read_descriptors(self) -> list[GroupDescriptor]:
        g = self.geometry
        table = b"".join(self.block(g.descriptor_block(index)) for index in range(g.table_blocks))
        found = [GroupDescriptor(table[g.desc_size * n : g.desc_size * (n + 1)]) for n in range(g.groups)]
        if self.has_checksums or self.superblock.has("gdt_csum"):
            for group, descriptor in enumerate(found):
                wanted = checksum.descriptor_checksum(self.superblock, self.seed, group, descriptor)
                if descriptor.bg_checksum != wanted:
                    raise self.broken(f"the checksum of the descriptor of group {group} is wrong")
        return found

    def block(self, number: int) -> bytes:
        """Return one block."""
        if not 0 <= number < self.geometry.blocks:
            raise self.broken(f"block {number} is outside of it")
        self.reads_left -= 1
        if self.reads_left < 0:
            raise self.broken("its metadata goes round in circles")
        return os.pread(self.descriptor, self.geometry.block_size, number * self.geometry.block_size)

    def inode_place(self, number: int) -> int:
        """Return the byte offset of an inode in the image."""
        if not 1 <= number <= self._inodes:
            raise self.broken(f"inode {number} does not exist")
        group, index = divmod(number - 1, self.geometry.inodes_per_group)
        place = self._tables[group] + index * self.geometry.inode_size
        if place + self.geometry.inode_size > self._end:
            raise self.broken(f"the table of inode {number} is outside of it")
        return place

    def inode(self, number: int) -> Inode:
        """Return an inode as a copy of its bytes, whose checksum is right."""
        place = self.inode_place(number)
        raw = os.pread(self.descriptor, self.geometry.inode_size, place)
        if self.has_checksums:
            self.check_inode(raw, number)
        return Inode(raw, place)

    def check_inode(self, raw: bytes | bytearray, number: int) -> None:
        """Raise BadInput if an inode has not the checksum that it should have."""
        if not checksum.inode_is_sound(self.seed, raw, number):
            raise self.broken(f"the checksum of inode {number} is wrong")

    def owner(self, number: int) -> tuple[int, int, int]:
        """Return i_mode, i_uid and i_gid of an inode as they were when its piece of a table was read first."""
        piece, index = divmod(number - 1, self._per_piece)
        return (self._pieces.get(piece) or self._read_piece(piece, number))[index]

    def _read_piece(self, piece: int, number: int) -> list[tuple[int, int, int]]:
        first = piece * self._per_piece + 1
        for outermost in (number, first, first + self._per_piece - 1):
            self.inode_place(outermost)
        size = self._per_piece * self.geometry.inode_size
        if len(self._pieces) * size > _TABLE_BYTES:
            self._pieces.clear()
        table = self._owner.iter_unpack(os.pread(self.descriptor, size, self.inode_place(first)))
        found = self._pieces[piece] = [(mode, uid | uh << 16, gid | gh << 16) for mode, uid, gid, uh, gh in table]
        return found

    def kind(self, inode: Inode) -> str:
        """Return the type of an inode in the words of a tree; `socket` and `unknown`, too."""
        return self.kind_of(inode.i_mode)

    def kind_of(self, mode: int) -> str:
        """Return the type that an i_mode says."""
        return KINDS.get(mode & s.S_IFMT, "unknown")

    def extents(self, inode: Inode) -> list[Extent]:
        """Return the runs of blocks of a file, in order, neighbours joined."""
        tree = inode.i_flags & s.EXTENTS_FL
        found: list[Extent] = []
        end = total = 0
        for extent in self._extent_node(inode.i_block) if tree else self._block_map(inode):
            logical, physical, length, unwritten = extent
            total += length
            # A file has no more blocks than the image: with this, what a hostile tree yields is bounded.
            if length == 0 or logical < end or total > self.geometry.blocks:
                raise self.broken("a file's extents overlap")
            if physical <= self.geometry.first_block or physical + length > self.geometry.blocks:
                raise self.broken("a file's extents lie outside of it")
            end = logical + length
            last = found[-1] if found else extent
            if last[0] + last[2] == logical and last[1] + last[2] == physical and last[3] == unwritten:
                found[-1] = Extent(last[0], last[1], last[2] + length, unwritten)
            else:
                found.append(extent)
        return found

    def _extent_node(self, node: bytes, depth: int | None = None) -> Iterator[Extent]:
        """Yield the extents of a node; `depth` is what it must have, None for the root."""
        magic, entries, _, own_depth, _ = _EXTENT_HEADER.unpack_from(node)
        expected = own_depth <= MAX_EXTENT_DEPTH if depth is None else own_depth == depth and entries > 0
        if magic != s.EXTENT_MAGIC or not expected or 12 * (entries + 1) > len(node):
            raise self.broken("a file's extent tree is malformed")
        for offset in range(12, 12 * (entries + 1), 12):
            if own_depth:
                _, low, high, _ = _INDEX.unpack_from(node, offset)
                yield from self._extent_node(self.block(low | high << 32), own_depth - 1)
            else:
                logical, length, high, low = _EXTENT.unpack_from(node, offset)
                unwritten = length > s.MAX_EXTENT_LEN
                yield Extent(logical, low | high << 32, length - s.MAX_EXTENT_LEN * unwritten, unwritten)

    def _block_map(self, inode: Inode) -> Iterator[Extent]:
        """Yield the blocks of a file mapped as in ext2: 12 direct, one each indirect, double and triple."""
        pointers = struct.unpack("<15I", inode.i_block)
        total = -(-inode.i_size // self.geometry.block_size)
        for logical, physical in enumerate(pointers[:12]):
            if physical and logical < total:
                yield Extent(logical, physical, 1)
        logical = 12
        for level, physical in enumerate(pointers[12:], 1):
            yield from self._indirect(physical, level, logical, total)
            logical += (self.geometry.block_size // 4) ** level

    def _indirect(self, physical: int, level: int, logical: int, total: int) -> Iterator[Extent]:
        if physical == 0 or logical >= total:
            return
        span = (self.geometry.block_size // 4) ** (level - 1)
        block = self.block(physical)
        if not block.strip(b"\0"):
            return
        for pointer in struct.unpack(f"<{self.geometry.block_size // 4}I", block):
            if logical >= total:
                return
            if level > 1:
                yield from self._indirect(pointer, level - 1, logical, total)
            elif pointer:
                yield Extent(logical, pointer, 1)
            logical += span

    def segments(self, inode: Inode) -> list[tuple[int, int, int]]:
        """Return where the bytes of a file are: (offset in the file, offset in the image, length); holes left out."""
        if inode.i_flags & s.INLINE_DATA_FL:
            return self._inline_segments(inode)
        size, block_size = inode.i_size, self.geometry.block_size
        found: list[tuple[int, int, int]] = []
        for extent in self.extents(inode):
            start = extent.logical * block_size
            length = min(extent.length * block_size, size - start)
            if extent.unwritten or length <= 0:
                continue
            place = extent.physical * block_size
            if found and found[-1][0] + found[-1][2] == start and found[-1][1] + found[-1][2] == place:
                found[-1] = (found[-1][0], found[-1][1], found[-1][2] + length)
            else:
                found.append((start, place, length))
        return found

    def _inline_segments(self, inode: Inode) -> list[tuple[int, int, int]]:
        """Return where an inline file is: in i_block, and what does not fit there in an attribute of the inode."""
        from banger_tools.ext4 import xattr

        offset, length = xattr.inline_data_place(inode)
        size = inode.i_size
        if size > s.I_BLOCK_SIZE + length:
            raise self.broken("an inline file is shorter than its size")
        segments = [(0, inode.place + s.I_BLOCK_OFFSET, min(size, s.I_BLOCK_SIZE))]
        if size > s.I_BLOCK_SIZE:
            segments.append((s.I_BLOCK_SIZE, inode.place + offset, size - s.I_BLOCK_SIZE))
        return segments

    def read(self, inode: Inode, limit: int) -> bytes:
        """Return the content of a file or a symlink's target, which must not be larger than `limit`."""
        size = inode.i_size
        if size > limit:
            raise self.broken(f"a file of {size} bytes where {limit} were expected at most")
        if (
            self.kind(inode) == "symlink"
            and size < s.MAX_SYMLINK_INLINE
            and not inode.i_flags & (s.EXTENTS_FL | s.INLINE_DATA_FL)
        ):
            return inode.i_block[:size]
        data = bytearray(size)
        for start, place, length in self.segments(inode):
            data[start : start + length] = os.pread(self.descriptor, length, place)
        return bytes(data)

    def names(self, inode: Inode) -> Iterator[Name]:
        """Yield the entries of a directory, `.` and `..` left out; nobody has looked at the names."""
        if inode.i_flags & s.ENCRYPT_FL:
            raise errors.BadInput(f"a folder of '{self.path}' is encrypted: the names in it cannot be read")
        if inode.i_flags & s.INLINE_DATA_FL:
            data = self.read(inode, self.geometry.inode_size)
            yield from self._dirents(data[4:60])  # the first four bytes are the inode of ..
            yield from self._dirents(data[60:])
            return
        if inode.i_size > MAX_DIRECTORY:
            raise self.broken(f"a folder of {inode.i_size} bytes")
        for extent in self.extents(inode):
            if extent.unwritten:
                raise self.broken("a folder has blocks that were never written")
            for number in range(extent.physical, extent.physical + extent.length):
                yield from self._dirents(self.block(number))

    def _dirents(self, block: bytes) -> list[Name]:
        # The nodes of a hash index look like blocks with one unused entry, so they need no care.
        found: list[Name] = []
        at, size = 0, len(block)
        while at + 8 <= size:
            inode, length, name_length, _ = _DIRENT.unpack_from(block, at)
            if length in _WHOLE_BLOCK:
                length = 1 << 16
            name_at, at = at + 8, at + length
            if name_at + name_length > at or at > size or length & 3:
                raise self.broken("a folder's entry is malformed")
            if inode:
                found.append((block[name_at : name_at + name_length], inode))
        return [name for name in found if name[0] not in _DOTS]

    def child(self, folder: int, name: bytes) -> int | None:
        """Return the inode number of a name in a folder, or None; None too if it is no folder."""
        inode = self.inode(folder)
        if self.kind(inode) != "dir":
            return None
        return next((number for found, number in self.names(inode) if found == name), None)

    def lookup(self, path: bytes) -> int | None:
        """Return the inode number at an absolute path, following no symlinks, or None."""
        number: int | None = s.ROOT_INO
        for part in path.split(b"/"):
            if part and number is not None:
                number = self.child(number, part)
        return number

    def resolve(self, path: bytes, *, follow: bool) -> int | None:
        """Return the inode number at a path as the guest finds it, or None: symlinks stay below the image's root.

        `follow` says whether the last name is followed, too. None also where symlinks go round in circles.
        """
        trail = [s.ROOT_INO]
        pending = path.split(b"/")[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                del trail[max(1, len(trail) - 1) :]
            elif part not in (b"", b"."):
                number = self.child(trail[-1], part)
                if number is None:
                    return None
                inode = self.inode(number)
                if self.kind(inode) != "symlink" or not (follow or any(pending)):
                    trail.append(number)
                    continue
                links += 1
                if links > MAX_LINKS_FOLLOWED:
                    return None
                target = self.read(inode, s.MAX_SYMLINK)
                trail = [s.ROOT_INO] if target.startswith(b"/") else trail
                pending += target.split(b"/")[::-1]
        return trail[-1]

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """Return the extended attributes of an inode, in the form that user space sees."""
        from banger_tools.ext4 import xattr

        found = dict(xattr.in_inode(inode))
        if inode.i_file_acl:
            found.update(xattr.in_block(self.block(inode.i_file_acl)))
        return found


KINDS = {
    s.S_IFREG: "file",
    s.S_IFDIR: "dir",
    s.S_IFLNK: "symlink",
    s.S_IFCHR: "char",
    s.S_IFBLK: "block",
    s.S_IFIFO: "fifo",
    s.S_IFSOCK: "socket",
}


@contextlib.contextmanager
def opened(path: Path, *, writable: bool = False, editing: bool = False, alone: bool = False) -> Iterator[Image]:
    """Open an ext4 image; `editing` says that it is us who marked it as not clean.

    With `alone` nobody else opens it so until it is closed: what is found in it still holds when it is edited. Raises
    Retry if somebody has; NoInput, Denied, or BadInput if it is no ext4, damaged, unclean, or uses unknown features.
    """
    writable = writable or (alone and os.access(path, os.W_OK))  # NFS locks nothing that is only read
    try:
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise errors.os_error(error, f"cannot open '{path}'") from error
    try:
        if alone:
            files.take_lock(descriptor, 0, f"'{path}'")
        yield Image(descriptor, path, editing=editing)
    finally:
        os.close(descriptor)
