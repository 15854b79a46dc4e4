"""The on-disk structures of ext4, by their own names; all numbers are little-endian.

Source: Linux kernel documentation, filesystems/ext4: "The Super Block", "Block Group Descriptors", "Index Nodes",
"The Contents of inode.i_block", "Directory Entries", "Extended Attributes", "Checksums".
"""

from __future__ import annotations

import struct
from typing import Final

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_SIZE: Final = 1024
MAGIC: Final = 0xEF53

# s_state
VALID_FS: Final = 0x0001
ERROR_FS: Final = 0x0002

# s_flags
SIGNED_HASH: Final = 0x0001
UNSIGNED_HASH: Final = 0x0002

COMPAT: Final = {
    "dir_prealloc": 0x1,
    "imagic_inodes": 0x2,
    "has_journal": 0x4,
    "ext_attr": 0x8,
    "resize_inode": 0x10,
    "dir_index": 0x20,
    "sparse_super2": 0x200,
    "fast_commit": 0x400,
    "stable_inodes": 0x800,
    "orphan_file": 0x1000,
}
INCOMPAT: Final = {
    "filetype": 0x2,
    "recover": 0x4,
    "journal_dev": 0x8,
    "meta_bg": 0x10,
    "extents": 0x40,
    "64bit": 0x80,
    "mmp": 0x100,
    "flex_bg": 0x200,
    "ea_inode": 0x400,
    "dirdata": 0x1000,
    "metadata_csum_seed": 0x2000,
    "largedir": 0x4000,
    "inline_data": 0x8000,
    "encrypt": 0x10000,
    "casefold": 0x20000,
}
RO_COMPAT: Final = {
    "sparse_super": 0x1,
    "large_file": 0x2,
    "btree_dir": 0x4,
    "huge_file": 0x8,
    "gdt_csum": 0x10,
    "dir_nlink": 0x20,
    "extra_isize": 0x40,
    "quota": 0x100,
    "bigalloc": 0x200,
    "metadata_csum": 0x400,
    "project": 0x2000,
    "verity": 0x8000,
    "orphan_present": 0x10000,
}

# bg_flags
INODE_UNINIT: Final = 0x1
BLOCK_UNINIT: Final = 0x2
INODE_ZEROED: Final = 0x4

# i_mode
S_IFMT: Final = 0o170000
S_IFIFO: Final = 0o010000
S_IFCHR: Final = 0o020000
S_IFDIR: Final = 0o040000
S_IFBLK: Final = 0o060000
S_IFREG: Final = 0o100000
S_IFLNK: Final = 0o120000
S_IFSOCK: Final = 0o140000

# i_flags
ENCRYPT_FL: Final = 0x800
INDEX_FL: Final = 0x1000
EXTENTS_FL: Final = 0x80000
INLINE_DATA_FL: Final = 0x10000000

ROOT_INO: Final = 2
LOST_FOUND_INO: Final = 11
GOOD_OLD_INODE_SIZE: Final = 128
EXTRA_ISIZE: Final = 32
I_BLOCK_OFFSET: Final = 0x28
I_BLOCK_SIZE: Final = 60
LINK_MAX: Final = 65000
MAX_SYMLINK: Final = 4096
MAX_SYMLINK_INLINE: Final = 60  # a target shorter than this stands in i_block

# Directory entries' file_type
FT = {"file": 1, "dir": 2, "char": 3, "block": 4, "fifo": 5, "socket": 6, "symlink": 7}
FT_CHECKSUM: Final = 0xDE

EXTENT_MAGIC: Final = 0xF30A
MAX_EXTENT_LEN: Final = 32768

XATTR_MAGIC: Final = 0xEA020000


class Field:
    """A number at a fixed place of a structure, read and written in its raw bytes."""

    def __init__(self, offset: int, code: str) -> None:
        self.offset = offset
        self.struct = struct.Struct("<" + code)

    def __get__(self, record: Record, owner: type[Record]) -> int:
        value: int = self.struct.unpack_from(record.raw, self.offset)[0]
        return value

    def __set__(self, record: Record, value: int) -> None:
        self.struct.pack_into(record.raw, self.offset, value)


class Wide(Field):
    """A number whose high part stands elsewhere, if the structure is long enough to have it."""

    def __init__(self, offset: int, code: str, high_offset: int, high_code: str) -> None:
        super().__init__(offset, code)
        self.high_offset = high_offset
        self.high = struct.Struct("<" + high_code)
        self.shift = 8 * self.struct.size

    def __get__(self, record: Record, owner: type[Record]) -> int:
        low: int = self.struct.unpack_from(record.raw, self.offset)[0]
        if self.high_offset + self.high.size > record.length:
            return low
        high: int = self.high.unpack_from(record.raw, self.high_offset)[0]
        return low | high << self.shift

    def __set__(self, record: Record, value: int) -> None:
        self.struct.pack_into(record.raw, self.offset, value & ((1 << self.shift) - 1))
        if self.high_offset + self.high.size <= record.length:
            self.high.pack_into(record.raw, self.high_offset, value >> self.shift)


class Record:
    """Raw bytes with fields; `length` says how many of them count."""

    def __init__(self, raw: bytes | bytearray) -> None:
        self.raw = bytearray(raw)
        self.length = len(self.raw)


class Superblock(Record):
    """The superblock, 1,024 bytes."""

    s_inodes_count = Field(0x0, "I")
    s_blocks_count = Wide(0x4, "I", 0x150, "I")
    s_r_blocks_count = Wide(0x8, "I", 0x154, "I")
    s_free_blocks_count = Wide(0xC, "I", 0x158, "I")
    s_free_inodes_count = Field(0x10, "I")
    s_first_data_block = Field(0x14, "I")
    s_log_block_size = Field(0x18, "I")
    s_log_cluster_size = Field(0x1C, "I")
    s_blocks_per_group = Field(0x20, "I")
    s_inodes_per_group = Field(0x28, "I")
    s_mtime = Field(0x2C, "I")
    s_wtime = Field(0x30, "I")
    s_magic = Field(0x38, "H")
    s_state = Field(0x3A, "H")
    s_lastcheck = Field(0x40, "I")
    s_rev_level = Field(0x4C, "I")
    s_first_ino = Field(0x54, "I")
    s_inode_size = Field(0x58, "H")
    s_block_group_nr = Field(0x5A, "H")
    s_feature_compat = Field(0x5C, "I")
    s_feature_incompat = Field(0x60, "I")
    s_feature_ro_compat = Field(0x64, "I")
    s_reserved_gdt_blocks = Field(0xCE, "H")
    s_last_orphan = Field(0xE8, "I")
    s_def_hash_version = Field(0xFC, "B")
    s_desc_size = Field(0xFE, "H")
    s_first_meta_bg = Field(0x104, "I")
    s_mkfs_time = Field(0x108, "I")
    s_flags = Field(0x160, "I")
    s_mmp_block = Field(0x168, "Q")
    s_checksum_seed = Field(0x270, "I")
    s_checksum = Field(0x3FC, "I")

    @property
    def s_uuid(self) -> bytes:
        return bytes(self.raw[0x68:0x78])

    @property
    def s_hash_seed(self) -> tuple[int, int, int, int]:
        return struct.unpack_from("<4I", self.raw, 0xEC)

    @property
    def s_volume_name(self) -> str:
        return bytes(self.raw[0x78:0x88]).split(b"\0", 1)[0].decode(errors="replace")

    @property
    def block_size(self) -> int:
        return 1024 << self.s_log_block_size

    def has(self, feature: str) -> bool:
        """Tell whether a feature is on, by its name."""
        if feature in COMPAT:
            return bool(self.s_feature_compat & COMPAT[feature])
        if feature in INCOMPAT:
            return bool(self.s_feature_incompat & INCOMPAT[feature])
        return bool(self.s_feature_ro_compat & RO_COMPAT[feature])


class GroupDescriptor(Record):
    """A block group descriptor, 32 bytes, or 64 with the 64bit feature."""

    bg_block_bitmap = Wide(0x0, "I", 0x20, "I")
    bg_inode_bitmap = Wide(0x4, "I", 0x24, "I")
    bg_inode_table = Wide(0x8, "I", 0x28, "I")
    bg_free_blocks_count = Wide(0xC, "H", 0x2C, "H")
    bg_free_inodes_count = Wide(0xE, "H", 0x2E, "H")
    bg_used_dirs_count = Wide(0x10, "H", 0x30, "H")
    bg_flags = Field(0x12, "H")
    bg_block_bitmap_csum = Wide(0x18, "H", 0x38, "H")
    bg_inode_bitmap_csum = Wide(0x1A, "H", 0x3A, "H")
    bg_itable_unused = Wide(0x1C, "H", 0x32, "H")
    bg_checksum = Field(0x1E, "H")


class Inode(Record):
    """An inode of 128 bytes or more; `place` is its byte offset in the image."""

    def __init__(self, raw: bytes | bytearray, place: int = 0) -> None:
        super().__init__(raw)
        self.place = place

    i_mode = Field(0x0, "H")
    i_uid = Wide(0x2, "H", 0x78, "H")
    i_size = Wide(0x4, "I", 0x6C, "I")
    i_atime = Field(0x8, "i")
    i_ctime = Field(0xC, "i")
    i_mtime = Field(0x10, "i")
    i_dtime = Field(0x14, "I")
    i_gid = Wide(0x18, "H", 0x7A, "H")
    i_links_count = Field(0x1A, "H")
    i_blocks = Wide(0x1C, "I", 0x74, "H")
    i_flags = Field(0x20, "I")
    i_generation = Field(0x64, "I")
    i_file_acl = Wide(0x68, "I", 0x76, "H")
    i_checksum_lo = Field(0x7C, "H")
    i_extra_isize = Field(0x80, "H")
    i_checksum_hi = Field(0x82, "H")
    i_mtime_extra = Field(0x88, "I")

    @property
    def i_block(self) -> bytes:
        return bytes(self.raw[I_BLOCK_OFFSET : I_BLOCK_OFFSET + I_BLOCK_SIZE])

    @property
    def extra_isize(self) -> int:
        """Return how much of the space after the first 128 bytes is fields."""
        return self.i_extra_isize if self.length > GOOD_OLD_INODE_SIZE else 0

    @property
    def mtime(self) -> tuple[int, int]:
        """Return the modification time in seconds and nanoseconds."""
        if self.extra_isize < 0x88 + 4 - GOOD_OLD_INODE_SIZE:
            return self.i_mtime, 0
        extra = self.i_mtime_extra
        return self.i_mtime + ((extra & 3) << 32), extra >> 2


def encode_time(seconds: int, nanoseconds: int) -> tuple[int, int]:
    """Return the two words of a timestamp: low 32 bits (unsigned), and nanoseconds with the epoch bits.

    Times outside of 1901 to 2446 are moved to the nearest that fits.
    """
    if 0 <= seconds < 1 << 31:
        return seconds, nanoseconds << 2
    seconds = min(max(seconds, -(1 << 31)), (1 << 34) - (1 << 31) - 1)
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low & 0x80000000 else low
    return low, nanoseconds << 2 | ((seconds - signed) >> 32 & 3)
